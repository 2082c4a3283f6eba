"""Committed runs, and what they come to together: one JSON a run, which holds all that a leaderboard says of it."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError, hash_bytes, read_json
from ml.evaluation.metrics import ndcg
from ml.evaluation.results import read_result
from ml.evaluation.significance import Difference, paired_bootstrap

BASELINE = "transitions"
_VALIDATION = ("ndcg@10", "recall@10")
_OF_SLICES = ("queries", "ndcg@10", "recall@10")


@dataclass(frozen=True)
class Run:
    """One recipe with one seed under one protocol.

    Parameters
    ----------
    told
        Its file.
    ranks
        int32 [n], place of the target of every test query, 0 = missed; None in files that do not keep them.
    """

    told: dict[str, Any]
    ranks: NDArray[np.int32] | None

    @property
    def identity(self) -> tuple[str, str, bool]:
        """Data, parameters, and whether the history was excluded: runs that differ in the seed alone agree in all."""
        made = self.told["provenance"]
        return made["data_hash"], made["recipe_hash"], self.told.get("exclude_history", True)

    @property
    def asked(self) -> tuple[str, bool]:
        """What was asked: the test queries, and whether items of the history could be answers."""
        return self.told["queries"], self.told.get("exclude_history", True)


@dataclass(frozen=True)
class Summary:
    """All runs of a recipe under a protocol.

    Parameters
    ----------
    recipe
        Its name.
    runs
        By seed.
    mean, deviation
        Of every metric of the test queries, over seeds; the deviation is that of a sample (n - 1), NaN for one run.
    expected
        Mean over seeds of every accuracy, ties shuffled (`ml.evaluation.evaluate.Evaluation.expected`).
    difference
        Of NDCG@10 to the baseline, with its 95 % interval over queries and seeds; None for the baseline itself, and
        where the two were not asked the same queries.
    """

    recipe: str
    runs: list[Run]
    mean: dict[str, float]
    deviation: dict[str, float]
    expected: dict[str, float]
    difference: Difference | None


def file_name(recipe: str, seed: int, protocol: str) -> str:
    """Return the name of a run's file."""
    return f"{recipe}-seed{seed}{'' if protocol == 'leave_one_out' else f'-{protocol}'}.json"


def run_row(folder: Path, protocol: str, dataset: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a result that `ml.train` wrote into the form of the leaderboard: test numbers, validation under its own key.

    Parameters
    ----------
    folder
        A training, ``OUT/RECIPE/HASH``.
    protocol
        Of which result.
    dataset
        Name of the data.
    about
        What the recipe tells of itself: ``title``, ``paper``, ``published`` numbers on this data.
    """
    result = read_result(folder, protocol)
    test = result.test
    if test.k > np.iinfo(np.uint8).max:
        raise ArtifactError(f"{folder} has lists of {test.k}: ranks are kept up to 255")
    asked = [test.users, *(mask for _, mask in sorted(test.slices.items()))]
    packed = zlib.compress(test.ranks.astype(np.uint8).tobytes(), 9)
    return {
        "dataset": dataset,
        "protocol": protocol,
        "recipe": result.recipe,
        **about,
        "seed": result.seed,
        "training_free": result.training_free,
        "exclude_history": test.exclude_history,
        "metrics": test.metrics,
        "expected_over_ties": test.expected,
        "slices": {
            name: {key: found[key] for key in _OF_SLICES} for name, found in test.slice_metrics.items()
        },
        "checks": test.checks,
        "validation": {name: result.validation.metrics[name] for name in _VALIDATION},
        "fit": {name: value for name, value in result.fit.items() if not isinstance(value, list | dict)},
        "queries": hash_bytes(*(part.tobytes() for part in asked)),
        # uint8, zlib, base64; 0 = missed.
        "ranks": base64.b64encode(packed).decode(),
        "provenance": result.provenance,
    }


def read_runs(folder: Path) -> list[Run]:
    """Read every run of a folder of one dataset.

    Raises
    ------
    ArtifactError
        If a file is no run, says something else than its name, or holds metrics that its ranks do not give.
    """
    runs = []
    for path in sorted(folder.glob("*.json")):
        told = read_json(path)
        try:
            if path.name != file_name(told["recipe"], told["seed"], told["protocol"]):
                raise ArtifactError(f"{path} holds {told['recipe']}, seed {told['seed']}, {told['protocol']}")
            runs.append(Run(told, _ranks(told)))
            runs[-1].identity  # noqa: B018 - asks for the keys
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ArtifactError(f"{path} is no run: {type(error).__name__} {error}") from None
        ranks = runs[-1].ranks
        if ranks is not None and abs(_mean(ranks) - told["metrics"]["ndcg@10"]) > 1e-9:
            raise ArtifactError(f"{path} states an ndcg@10 that its ranks do not give")
    return runs


def summarise(runs: Iterable[Run], protocol: str, baseline: str = BASELINE) -> list[Summary]:
    """Summarise the runs of a protocol, best NDCG@10 first.

    Of a recipe only those runs count that agree in data and parameters with its latest one.
    """
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        if run.told["protocol"] == protocol:
            by_recipe.setdefault(run.told["recipe"], []).append(run)
    latest = {name: _alike(found) for name, found in by_recipe.items()}
    base = latest.get(baseline, [])
    made = [_summary(name, found, base if name != baseline else []) for name, found in latest.items()]
    return sorted(made, key=lambda s: (-s.mean["ndcg@10"], s.recipe))


def left_out(runs: Sequence[Run]) -> list[str]:
    """Name the files that `summarise` passes over."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.told["protocol"], run.told["recipe"]), []).append(run)
    stale = [run for found in groups.values() for run in found if run not in _alike(found)]
    return sorted(file_name(r.told["recipe"], r.told["seed"], r.told["protocol"]) for r in stale)


def _alike(runs: list[Run]) -> list[Run]:
    last = max(runs, key=lambda run: str(run.told["provenance"].get("date", "")))
    return sorted(
        (run for run in runs if run.identity == last.identity), key=lambda run: int(run.told["seed"])
    )


def _summary(recipe: str, runs: list[Run], base: list[Run]) -> Summary:
    metrics = {name: [run.told["metrics"][name] for run in runs] for name in runs[0].told["metrics"]}
    expected = [run.told.get("expected_over_ties", {}) for run in runs]
    return Summary(
        recipe,
        runs,
        {name: float(np.mean(values)) for name, values in metrics.items()},
        {
            name: float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            for name, values in metrics.items()
        },
        {name: float(np.mean([told[name] for told in expected])) for name in expected[0]},
        _difference(runs, base),
    )


def _difference(runs: list[Run], base: list[Run]) -> Difference | None:
    every = [*runs, *base]
    if not base or any(run.ranks is None for run in every) or len({run.asked for run in every}) > 1:
        return None
    ours, theirs = (
        np.stack([ndcg(run.ranks, 10) for run in group if run.ranks is not None], axis=1)
        for group in (runs, base)
    )
    return paired_bootstrap(ours, theirs)


def _ranks(told: dict[str, Any]) -> NDArray[np.int32] | None:
    if "ranks" not in told:
        return None
    packed = zlib.decompress(base64.b64decode(told["ranks"]))
    return np.frombuffer(packed, np.uint8).astype(np.int32)


def _mean(ranks: NDArray[np.int32]) -> float:
    return float(ndcg(ranks, 10).mean()) if len(ranks) else 0.0
