"""Which recipe serves: a pure function of results under the temporal protocol, and of what serving would cost.

The bar is the best recommender that only counts. A learned one must pass every gate, the bar among them; the best
eligible NDCG@10 wins, and an incumbent stays unless the challenger beats it beyond luck and on every slice. Where
nothing is eligible the baseline serves, so there is always a champion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.cost import Cost
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
        NDCG@10 by which a learned recipe must beat the bar, and a challenger the incumbent, at the low end of the
        95 % interval.
    slice_margin
        Share of the other's NDCG@10 on a slice that may be lost there. It fails only where the loss is larger than
        this and the 95 % interval of the difference lies below zero.
    slice_queries
        Slices with fewer queries do not matter: their numbers are noise.
    latency_ms
        Milliseconds for one user, at the 90th percentile.
    size_mb
        Megabytes (10^6 bytes) of the model on disk.
    churn
        Share of items that may get another semantic ID than they have under the live champion. Asked of recipes that
        recommend by semantic IDs alone.
    """

    margin: float = 0.0
    slice_margin: float = 0.1
    slice_queries: int = 200
    latency_ms: float = 250.0
    size_mb: float = 2000.0
    churn: float = 0.9


def choose_champion(
    results: Mapping[str, Result],
    baseline: str = "transitions",
    incumbent: str | None = None,
    policy: Policy | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Verdict:
    """Decide which recipe serves.

    Parameters
    ----------
    results
        Recipe name to its result; all under the temporal protocol, on the same queries.
    baseline
        Recipe that serves where no other may; it must be among the results.
    incumbent
        Recipe that serves now. It stays if it is eligible and no other beats it beyond luck; it is forgotten
        where it is not among the results.
    policy
        Numbers behind the gates.
    costs
        Recipe name to what serving it would cost. Gates of cost are not put to a recipe without one.

    Raises
    ------
    ValueError
        If the baseline is missing, or if results are not of the temporal protocol or not on the same queries.
    """
    policy, costs = policy or Policy(), costs or {}
    _check(results, baseline)
    bar = results[bar_of(results, baseline)]
    gates: list[Gate] = []
    eligible = []
    for name, result in sorted(results.items()):
        tried = _gates(result, bar, policy)
        if name in costs:
            tried += _cost_gates(name, costs[name], policy)
        gates += tried
        if all(gate.passed for gate in tried):
            eligible.append(name)
    # Equal scores: the baseline before others, then by name.
    best = min(eligible or [baseline], key=lambda name: _order(results, baseline, name))
    if incumbent in eligible and best != incumbent:
        against = [
            _beats(results[best], results[incumbent], "beats_incumbent", policy.margin),
            _slices(results[best], results[incumbent], policy, "slices_of_incumbent"),
        ]
        gates += against
        best = best if all(gate.passed for gate in against) else incumbent
    return Verdict(best, gates)


def bar_of(results: Mapping[str, Result], baseline: str = "transitions") -> str:
    """Return the training-free recipe that learned ones must beat: the best on the temporal split.

    One that answers with faults is none, unless it is the baseline.
    """
    counting = [
        name
        for name, result in results.items()
        if name == baseline or (result.training_free and not result.test.invalid)
    ]
    return min(counting, key=lambda name: _order(results, baseline, name))


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


def _gates(result: Result, bar: Result, policy: Policy) -> list[Gate]:
    faults = result.test.invalid
    told = ", ".join(f"{n} {name}" for name, n in result.test.checks.items() if n) or "no queries"
    valid = Gate("valid_output", result.recipe, faults == 0, f"{faults} faults ({told})")
    if result.training_free:
        return [valid]
    return [
        valid,
        _beats(result, bar, "beats_bar", policy.margin),
        _slices(result, bar, policy, "slices"),
    ]


def _cost_gates(recipe: str, cost: Cost, policy: Policy) -> list[Gate]:
    gates = [
        Gate(
            "latency",
            recipe,
            cost.latency_ms <= policy.latency_ms,
            f"{cost.latency_ms:.1f} ms a user (90th percentile of {cost.users}, one at a time), "
            f"limit {policy.latency_ms:g} ms",
        ),
        Gate(
            "size",
            recipe,
            cost.size_mb <= policy.size_mb,
            f"{cost.size_mb:.1f} MB on disk, limit {policy.size_mb:g} MB",
        ),
    ]
    if cost.uses_ids:
        told = f"nothing to compare with: {cost.no_churn}"
        if cost.churn is not None:
            told = f"{cost.churn:.1%} of items in common changed their semantic ID, limit {policy.churn:.0%}"
        gates.append(Gate("id_churn", recipe, cost.churn is None or cost.churn <= policy.churn, told))
    return gates


def _order(results: Mapping[str, Result], baseline: str, name: str) -> tuple[float, bool, str]:
    return -results[name].test.metrics[METRIC], name != baseline, name


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


def _slices(result: Result, other: Result, policy: Policy, name: str) -> Gate:
    """Look for the slices where the result is worse than the other, by more than the margin and beyond luck."""
    worse, looked = [], 0
    for part, mask in other.test.slices.items():
        if mask.sum() < policy.slice_queries:
            continue
        looked += 1
        difference = _compare(result.test, other.test, mask)
        reference = float(ndcg(other.test.ranks[mask], 10).mean())
        if difference.mean < -policy.slice_margin * reference and difference.high < 0:
            worse.append(f"{part} {reference + difference.mean:.4f} against {reference:.4f}")
    lost = f"worse on {'; '.join(worse)}" if worse else f"none of {looked} slices lost more than the margin"
    return Gate(name, result.recipe, not worse, f"beside {other.recipe}: {lost} ({policy.slice_margin:.0%})")


def _compare(a: Evaluation, b: Evaluation, mask: NDArray[np.bool_] | None = None) -> Difference:
    rows = slice(None) if mask is None else mask
    return paired_bootstrap(ndcg(a.ranks[rows], 10), ndcg(b.ranks[rows], 10))
