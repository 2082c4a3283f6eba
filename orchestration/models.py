"""From a snapshot to a promoted champion, without Dagster."""

from __future__ import annotations

import ctypes
import logging
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import (
    ArtifactError,
    check_made_from,
    current,
    is_complete,
    read_json,
    read_manifest,
    set_current,
    write_json,
)
from ml.bindings import bind
from ml.evaluation.gates import Gate, Verdict, audited, choose_champion
from ml.evaluation.results import Result, read_result
from ml.registry import BOUND, Registry, Version
from ml.snapshot import load_snapshot
from orchestration.costs import costs_of, policy_of
from orchestration.settings import Settings

if TYPE_CHECKING:
    from ml.evaluation.audit import Audit

_log = logging.getLogger(__name__)
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
    """Record a candidate, bound by content hash to what it was made of.

    Raises
    ------
    ArtifactError
        If the candidate is not of the live snapshot, or if it was registered before and a part has changed since.
    """
    snapshot = current(settings.snapshots)
    check_made_from(folder, {"snapshot": snapshot.name})
    told = read_manifest(snapshot)
    metrics = {
        f"{protocol}/{name}": value
        for protocol in PROTOCOLS
        for name, value in read_result(folder, protocol).test.metrics.items()
    }
    bound = bind(_made_of(settings, snapshot, folder)) | _encoder_of(settings, snapshot)
    tags = {
        "recipe": recipe,
        "model": str(folder.relative_to(settings.home)),
        "snapshot": told.version,
        **{name: str(told.recipe.get(name)) for name in ("semantic_ids", "tokenizer", "vectors")},
        **{f"{BOUND}{part}": value for part, value in bound.items()},
    }
    params = {"recipe": recipe, "seed": settings.seed, "snapshot": told.version}
    return Registry(settings.mlflow, settings.registry_uri).register(folder, params, metrics, tags)


def _made_of(settings: Settings, snapshot: Path, candidate: Path) -> dict[str, Path]:
    """Return the folder of each part that a candidate was made of."""
    told = read_manifest(snapshot).recipe
    parts = {"catalogue": snapshot, "evaluated": candidate / "temporal"}
    versions = {
        "text_vectors": (settings.vectors / "text", told.get("text")),
        "vectors": (settings.vectors / "fused", told.get("vectors")),
        "tokenizer": (settings.tokenizers, told.get("tokenizer")),
        "semantic_ids": (settings.semantic_ids, told.get("semantic_ids")),
    }
    return parts | {part: folder / version for part, (folder, version) in versions.items() if version}


def _encoder_of(settings: Settings, snapshot: Path) -> dict[str, str]:
    """Return the identity of the encoder of the snapshot's texts, which holds the hash of its weights."""
    text = read_manifest(snapshot).recipe.get("text")
    if not text:
        return {}
    return {"encoder": str(read_manifest(settings.vectors / "text" / text).recipe["encoder"])}


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
    candidates = {recipe: _candidate(settings, recipe) for recipe in settings.recipes}
    results = {recipe: read_result(folder, "temporal") for recipe, folder in candidates.items()}
    live = Registry(settings.mlflow, settings.registry_uri).champion()
    # Not what was decided last: where promoting that failed, it would be compared with itself.
    served = read_served(settings).get("snapshot")
    costs = costs_of(settings, candidates, current(settings.snapshots), served)
    incumbent = live.tags.get("recipe") if live else None
    verdict = choose_champion(results, BASELINE, incumbent, policy_of(settings), costs)
    winner = verdict.champion
    gate = audited(winner, current(settings.snapshots).name, read_audit(settings))
    if not gate.passed:
        raise ArtifactError(gate.reason)
    verdict.gates.append(gate)
    version, folder = promote(settings, winner, verdict.gates)
    return Decision(verdict, version, folder)


def promote(settings: Settings, recipe: str, gates: Sequence[Gate] = ()) -> tuple[Version, Path]:
    """Refit a candidate of the live snapshot on every event, and make it the champion.

    Parameters
    ----------
    gates
        What it was promoted by, for the record.

    Returns
    -------
    The registered version, with all that it is bound to, and the folder of the model.

    Raises
    ------
    ArtifactError
        If the recipe has no candidate of the live snapshot, or if a part of it changed since it was registered.
    """
    from ml.train import train

    candidate, snapshot = _candidate(settings, recipe), current(settings.snapshots)
    registry = Registry(settings.mlflow, settings.registry_uri)
    version = register(settings, recipe, candidate)
    folder = train(snapshot, recipe, settings.models, settings.seed, ("full",), threads=1) / "full"
    parts = _made_of(settings, snapshot, candidate) | {"recommender": folder}
    bound = version.bound | bind({"recommender": folder})
    # A version that was served before is bound to that night's index as well, which is not what it was made of.
    bound = {part: value for part, value in bound.items() if part in parts or part == "encoder"}
    registry.bind(version.number, bound)
    write_decision(
        settings,
        {
            "recipe": recipe,
            "model": str(folder.relative_to(settings.home)),
            "snapshot": str(snapshot.relative_to(settings.home)),
            "registry_version": version.number,
            "parts": {part: str(path.relative_to(settings.home)) for part, path in parts.items()},
            "bound": bound,
            "gates": [vars(gate) for gate in gates],
        },
    )
    registry.promote(version.number)
    return registry.version(version.number), folder


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


def read_served(settings: Settings) -> dict[str, Any]:
    """Return what ``champion.json`` says is served; empty where it is gone, or unreadable, which the log tells of."""
    path = settings.home / "champion.json"
    if not path.is_file():
        return {}
    try:
        stated = read_json(path)
    except (ArtifactError, OSError) as error:
        _log.warning("going on as if it were not there: %s", error)
        return {}
    if not isinstance(stated, dict):
        _log.warning("going on as if it were not there: %s holds no object", path)
        return {}
    return stated


def write_decision(settings: Settings, decision: Mapping[str, Any]) -> None:
    """Write which champion is to be served: the one that the next night refreshes."""
    write_json(settings.evaluation / "champion.json", decision)


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
