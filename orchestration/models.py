"""From a snapshot to a promoted champion, without Dagster."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import (
    ArtifactError,
    current,
    is_complete,
    read_json,
    read_manifest,
    set_current,
    write_json,
)
from ml.evaluation.gates import Gate, Verdict, audited, choose_champion
from ml.evaluation.results import Result, read_result
from ml.registry import Registry, Version
from ml.snapshot import load_snapshot
from orchestration.settings import Settings

if TYPE_CHECKING:
    from ml.evaluation.audit import Audit

PROTOCOLS = ("leave_one_out", "temporal")
BASELINE = "transitions"
_PR_SET_PDEATHSIG = 1
_AUDIT = "audit.json"
_AUDITED_USERS = 10_000
SHOWN = ("ndcg@10", "recall@10", "mrr@10", "coverage@10")


@dataclass(frozen=True)
class Decision:
    """Which candidate serves, why, and the model that does: refitted on every event."""

    verdict: Verdict
    version: Version
    model: Path


def train_candidates(settings: Settings, recipes: Sequence[str]) -> dict[str, Path]:
    """Train and evaluate recipes on the live snapshot, except what has been done; make the results live.

    Each recipe and protocol is a task of its own; ``settings.training_workers`` processes of one thread each share
    them. On few cores that is faster than one after the other with more threads: the matrices are small.

    Returns
    -------
    dict
        Recipe to the folder of its candidate.
    """
    from ml.recipes import load_recipe
    from ml.train import folder_of, train

    snapshot = current(settings.snapshots)
    folders = {
        name: folder_of(snapshot, load_recipe(name), settings.models, settings.seed, threads=1)
        for name in recipes
    }
    tasks = [
        (name, protocol)
        for name in recipes
        for protocol in PROTOCOLS
        if not is_complete(folders[name] / protocol)
    ]
    if tasks:
        # The costliest recipe is usually named last; started first, it leaves no worker idle at the end.
        workers = min(settings.training_workers, len(tasks))
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_die_with_parent) as pool:
            futures = [
                pool.submit(train, snapshot, name, settings.models, settings.seed, (protocol,), 1)
                for name, protocol in reversed(tasks)
            ]
            for future in futures:
                future.result()
    for name, folder in folders.items():
        train(snapshot, name, settings.models, settings.seed, PROTOCOLS, threads=1)
        set_current(settings.models / folder.parent.name, folder.name)
    return folders


def check_recipes(settings: Settings) -> None:
    """Refuse recipes that cannot be trained, before hours are spent on those that can.

    Raises
    ------
    RecipeError, ArtifactError
        If a recipe is unknown or malformed, needs another tokenizer than the settings name, or if the baseline is
        missing.
    """
    from ml.recipes import load_recipe

    for name in settings.recipes:
        needed = load_recipe(name).tokenizer
        if needed not in (None, settings.tokenizer):
            raise ArtifactError(
                f"recipe {name!r} is of semantic IDs by {needed!r}: set TESSERA_TOKENIZER={needed}, "
                f"which is {settings.tokenizer!r}"
            )
    if BASELINE not in settings.recipes:
        raise ArtifactError(f"TESSERA_RECIPES must name {BASELINE!r}: every claim is measured against it")


def register(settings: Settings, recipe: str, folder: Path) -> Version:
    """Record a candidate, bound by hash to what it was made of."""
    snapshot = read_manifest(current(settings.snapshots))
    metrics = {
        f"{protocol}/{name}": value
        for protocol in PROTOCOLS
        for name, value in read_result(folder, protocol).test.metrics.items()
    }
    tags = {
        "recipe": recipe,
        "model": str(folder.relative_to(settings.home)),
        "snapshot": snapshot.version,
        "semantic_ids": str(snapshot.recipe["semantic_ids"]),
        "tokenizer": str(snapshot.recipe.get("tokenizer")),
        "vectors": str(snapshot.recipe["vectors"]),
    }
    params = {"recipe": recipe, "seed": settings.seed, "snapshot": snapshot.version}
    return Registry(settings.mlflow).register(folder, params, metrics, tags)


def compare(settings: Settings) -> list[Result]:
    """Read the results of every candidate of the live snapshot, and write them side by side.

    Raises
    ------
    ArtifactError
        If a recipe has no candidate of the live snapshot.
    """
    check_recipes(settings)
    results = [
        read_result(_candidate(settings, recipe), protocol)
        for recipe in settings.recipes
        for protocol in PROTOCOLS
    ]
    write_json(
        settings.evaluation / "leaderboard.json",
        {"snapshot": current(settings.snapshots).name, "rows": leaderboard_rows(results)},
    )
    return results


def leaderboard_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one row for each recipe and protocol, best first."""
    ordered = sorted(results, key=lambda r: (r.protocol, -r.test.metrics["ndcg@10"], r.recipe))
    return [
        {"protocol": r.protocol, "recipe": r.recipe, "queries": len(r.test.ranks)}
        | {name: r.test.metrics[name] for name in SHOWN}
        for r in ordered
    ]


def audit_dataset(settings: Settings) -> Audit:
    """Audit the live snapshot and write ``evaluation/audit.json``; what was audited already is read from there."""
    from ml.evaluation.audit import audit

    folder = current(settings.snapshots)
    known = read_audit(settings)
    if known is not None and known.data_hash == folder.name:
        return known
    found = audit(load_snapshot(folder), test_users=_AUDITED_USERS)
    settings.evaluation.mkdir(parents=True, exist_ok=True)
    write_json(settings.evaluation / _AUDIT, found.to_json())
    return found


def read_audit(settings: Settings) -> Audit | None:
    """Return the last audit; None where there is none, or where another version of this code wrote it."""
    from ml.evaluation.audit import Audit

    try:
        return Audit.from_json(read_json(settings.evaluation / _AUDIT))
    except (ArtifactError, TypeError):
        return None


def decide(settings: Settings) -> Decision:
    """Put the candidates to the gates, refit the winner on every event, and promote it.

    Raises
    ------
    ArtifactError
        If the live snapshot has not been audited, or if a recipe has no candidate of it.
    """
    from ml.train import train

    results = {r: read_result(_candidate(settings, r), "temporal") for r in settings.recipes}
    registry = Registry(settings.mlflow)
    live = registry.champion()
    verdict = choose_champion(results, BASELINE, live.tags.get("recipe") if live else None)
    winner = verdict.champion
    gate = audited(winner, current(settings.snapshots).name, read_audit(settings))
    if not gate.passed:
        raise ArtifactError(gate.reason)
    verdict.gates.append(gate)
    version = register(settings, winner, _candidate(settings, winner))
    snapshot = current(settings.snapshots)
    folder = train(snapshot, winner, settings.models, settings.seed, ("full",), threads=1)
    _point_at(settings, version, folder / "full", snapshot, verdict.gates)
    registry.promote(version)
    return Decision(verdict, version, folder / "full")


def roll_back(settings: Settings) -> str:
    """Make the champion before this one the champion again, without training; return its recipe.

    What serves it (index, trie, lists) is then published by :func:`orchestration.index.publish_champion`.

    Raises
    ------
    ArtifactError
        If there is none, or its model or snapshot is gone.
    """
    registry = Registry(settings.mlflow)
    version = registry.previous()
    model, snapshot = (
        settings.home / version.tags["model"] / "full",
        settings.snapshots / version.tags["snapshot"],
    )
    for folder in (model, snapshot):
        read_manifest(folder)
    _point_at(settings, version, model, snapshot, [])
    registry.rollback()
    return version.tags["recipe"]


def read_decision(settings: Settings) -> dict[str, Any]:
    """Return what :func:`decide` wrote.

    Raises
    ------
    ArtifactError
        If no champion was chosen yet.
    """
    path = settings.evaluation / "champion.json"
    if not path.is_file():
        raise ArtifactError(f"{settings.home} has no champion yet: run the retrain job first")
    decision: dict[str, Any] = read_json(path)
    return decision


def _point_at(
    settings: Settings, version: Version, model: Path, snapshot: Path, gates: Sequence[Gate]
) -> None:
    write_json(
        settings.evaluation / "champion.json",
        {
            "recipe": version.tags["recipe"],
            "model": str(model.relative_to(settings.home)),
            "snapshot": str(snapshot.relative_to(settings.home)),
            "registry_version": version.number,
            "gates": [vars(gate) for gate in gates],
        },
    )


def _candidate(settings: Settings, recipe: str) -> Path:
    folder = current(settings.models / recipe)
    trained_on, live = read_manifest(folder).inputs.get("snapshot"), current(settings.snapshots).name
    if trained_on != live:
        raise ArtifactError(
            f"{folder} was trained on snapshot {trained_on}, the live one is {live}: run candidates"
        )
    return folder


def _die_with_parent() -> None:
    """Let a worker end with the run that started it, even if that is killed (Linux)."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (AttributeError, OSError):
        return
