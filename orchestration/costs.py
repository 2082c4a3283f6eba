"""What the gates of promotion ask beside quality: their numbers, and what serving each candidate would cost. No Dagster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, is_complete, read_json, write_json
from ml.evaluation.cost import Cost, changed_ids, latency_ms, size_mb
from ml.evaluation.gates import Policy
from ml.recommenders import load_recommender
from ml.snapshot import Snapshot, load_snapshot
from orchestration.settings import Settings

_MEASURED = "cost.json"
_BY_IDS = ("generative", "language_model")


def policy_of(settings: Settings) -> Policy:
    """Return the numbers behind the gates."""
    return Policy(
        margin=settings.gate_margin,
        slice_margin=settings.gate_slice_margin,
        slice_queries=settings.gate_slice_queries,
        latency_ms=settings.gate_latency_ms,
        size_mb=settings.gate_size_mb,
        churn=settings.gate_churn,
    )


def costs_of(
    settings: Settings, candidates: Mapping[str, Path], snapshot: Path, served: str | None
) -> dict[str, Cost]:
    """Measure what serving each candidate would cost.

    Latency is measured once for each candidate and kept beside it: a choice must not turn on a stopwatch that is read
    again.

    Parameters
    ----------
    candidates
        Recipe to the folder of its candidate.
    snapshot
        What they were trained on.
    served
        Snapshot that is served, relative to the home; None where nothing is.
    """
    data = load_snapshot(snapshot)
    churn, why = _churn(settings, data, served)
    made = {}
    for recipe, folder in candidates.items():
        measured = _measured(folder, data)
        made[recipe] = replace(measured, churn=churn, no_churn=why) if measured.uses_ids else measured
    return made


def uses_semantic_ids(recommender: Mapping[str, Any]) -> bool:
    """Tell whether a recommender, by its parameters, recommends by semantic IDs or knows items by them."""
    kind = str(recommender.get("kind", ""))
    if kind in _BY_IDS or "code" in kind:
        return True
    inner = [value for value in recommender.values() if isinstance(value, Mapping)]
    inner += [
        part
        for value in recommender.values()
        if isinstance(value, list)
        for part in value
        if isinstance(part, Mapping)
    ]
    return any(uses_semantic_ids(part) for part in inner)


def _measured(folder: Path, data: Snapshot) -> Cost:
    try:
        return Cost(**read_json(folder / _MEASURED))
    except (ArtifactError, TypeError):
        model = folder / "temporal"
        recommender = load_recommender(model, data.catalogue)
        config = read_json(model / "recommender.json")
        made = Cost(
            latency_ms(recommender, data.histories),
            min(50, len(data.histories)),
            size_mb(model),
            uses_semantic_ids({"kind": config["kind"], **config["params"]}),
        )
        write_json(folder / _MEASURED, asdict(made))
        return made


def _churn(settings: Settings, data: Snapshot, served: str | None) -> tuple[float | None, str]:
    """Return the share of items that change their semantic ID, else why there is none."""
    if served is None:
        return None, "no champion is live"
    if not is_complete(settings.home / served):
        return None, f"{served} of the live champion is gone"
    if (settings.home / served) == data.folder:
        return 0.0, ""
    changed = changed_ids(load_snapshot(settings.home / served).catalogue, data.catalogue)
    return changed, "" if changed is not None else f"no item in common with {served} of the live champion"
