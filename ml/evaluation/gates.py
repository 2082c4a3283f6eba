"""Which recipe serves: a pure function of results under the temporal protocol.

A recommender that only counts is always eligible, so there is always a champion. A learned one must pass every
gate; the best eligible NDCG@10 wins, and an incumbent stays unless the challenger beats it beyond luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.evaluate import Evaluation
from ml.evaluation.metrics import ndcg
from ml.evaluation.results import Result
from ml.evaluation.significance import Difference, paired_bootstrap

if TYPE_CHECKING:
    from ml.evaluation.audit import Audit

METRIC = "ndcg@10"


@dataclass(frozen=True)
class Gate:
    """One condition put to one recipe, and how it ended."""

    name: str
    recipe: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The recipe that serves, and every gate that was tried, by recipe."""

    champion: str
    gates: list[Gate]


@dataclass(frozen=True)
class Policy:
    """Numbers behind the gates.

    Parameters
    ----------
    margin
        NDCG@10 by which a learned recipe must beat the baseline, at the low end of the 95 % interval.
    slice_margin
        Share of the baseline's NDCG@10 on a slice that a learned recipe may lose there. It fails only where the
        loss is larger than this and the 95 % interval of the difference lies below zero.
    slice_queries
        Slices with fewer queries do not matter: their numbers are noise.
    """

    margin: float = 0.0
    slice_margin: float = 0.1
    slice_queries: int = 200


def choose_champion(
    results: Mapping[str, Result],
    baseline: str = "transitions",
    incumbent: str | None = None,
    policy: Policy | None = None,
) -> Verdict:
    """Decide which recipe serves.

    Parameters
    ----------
    results
        Recipe name to its result; all under the temporal protocol, on the same queries.
    baseline
        Recipe that learned ones must beat; it must be among the results.
    incumbent
        Recipe that serves now. It stays if it is eligible and no other beats it beyond luck; it is forgotten
        where it is not among the results.
    policy
        Numbers behind the gates.

    Raises
    ------
    ValueError
        If the baseline is missing, or if results are not of the temporal protocol or not on the same queries.
    """
    policy = policy or Policy()
    _check(results, baseline)
    gates: list[Gate] = []
    eligible = []
    for name, result in sorted(results.items()):
        tried = _gates(result, results[baseline], policy)
        gates += tried
        if result.training_free or all(gate.passed for gate in tried):
            eligible.append(name)
    # Equal scores: the baseline before others, then by name.
    best = min(eligible, key=lambda name: (-results[name].test.metrics[METRIC], name != baseline, name))
    if incumbent in eligible and best != incumbent:
        gate = _beats(results[best], results[incumbent], "beats_incumbent", policy.margin)
        gates.append(gate)
        best = best if gate.passed else incumbent
    return Verdict(best, gates)


def audited(recipe: str, snapshot: str, audit: Audit | None) -> Gate:
    """Ask whether the data that a recipe was trained on has been audited.

    Parameters
    ----------
    recipe
        Recipe that would be promoted.
    snapshot
        Version of the data.
    audit
        The last audit that was made, if any.
    """
    if audit is None or audit.data_hash != snapshot:
        last = f"; the last audit is of {audit.data_hash}" if audit else ""
        return Gate("audited", recipe, False, f"snapshot {snapshot} has no audit{last}: run dataset_audit")
    return Gate("audited", recipe, True, audit.verdict)


def _check(results: Mapping[str, Result], baseline: str) -> None:
    if baseline not in results:
        raise ValueError(f"no result of the baseline {baseline!r}")
    for name, result in results.items():
        if result.protocol != "temporal":
            raise ValueError(f"{name} was evaluated under {result.protocol}, not temporal")
        if not np.array_equal(result.test.users, results[baseline].test.users):
            raise ValueError(f"{name} was evaluated on other queries than {baseline}")


def _gates(result: Result, baseline: Result, policy: Policy) -> list[Gate]:
    faults = result.test.invalid
    told = ", ".join(f"{n} {name}" for name, n in result.test.checks.items() if n) or "no queries"
    valid = Gate("valid_output", result.recipe, faults == 0, f"{faults} faults ({told})")
    if result.training_free:
        return [valid]
    return [
        valid,
        _beats(result, baseline, "beats_baseline", policy.margin),
        _slices(result, baseline, policy),
    ]


def _beats(result: Result, other: Result, name: str, margin: float) -> Gate:
    difference = _compare(result.test, other.test)
    interval = f"[{difference.low:+.4f}, {difference.high:+.4f}]"
    return Gate(
        name,
        result.recipe,
        difference.low > margin,
        f"{METRIC} {result.test.metrics[METRIC]:.4f} against {other.test.metrics[METRIC]:.4f} of {other.recipe}: "
        f"{difference.mean:+.4f} {interval}, low end must exceed {margin:g}",
    )


def _slices(result: Result, baseline: Result, policy: Policy) -> Gate:
    """Look for the slices where the result is worse than the baseline, by more than the margin and beyond luck."""
    worse, looked = [], 0
    for name, mask in baseline.test.slices.items():
        if mask.sum() < policy.slice_queries:
            continue
        looked += 1
        difference = _compare(result.test, baseline.test, mask)
        reference = float(ndcg(baseline.test.ranks[mask], 10).mean())
        if difference.mean < -policy.slice_margin * reference and difference.high < 0:
            worse.append(f"{name} {reference + difference.mean:.4f} against {reference:.4f}")
    lost = f"worse on {'; '.join(worse)}" if worse else f"none of {looked} slices lost more than the margin"
    return Gate("slices", result.recipe, not worse, f"{lost} ({policy.slice_margin:.0%})")


def _compare(a: Evaluation, b: Evaluation, mask: NDArray[np.bool_] | None = None) -> Difference:
    rows = slice(None) if mask is None else mask
    return paired_bootstrap(ndcg(a.ranks[rows], 10), ndcg(b.ranks[rows], 10))
