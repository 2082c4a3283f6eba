from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.evaluation.cost import Cost
from ml.evaluation.evaluate import INVALID, Evaluation
from ml.evaluation.gates import Gate, Policy, bar_of, choose_champion
from ml.evaluation.metrics import accuracy
from ml.evaluation.results import Result
from ml.evaluation.significance import paired_bootstrap

N = 1000


def test_bootstrap_equals_drawing_queries_one_by_one() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.choice([0, 0.5, 1.0], size=(2, 300), p=[0.6, 0.3, 0.1])
    told = paired_bootstrap(a, b, seed=1, samples=4000)
    means = [(a - b)[rng.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert told.mean == pytest.approx((a - b).mean())
    assert told.low == pytest.approx(np.quantile(means, 0.025), abs=0.006)
    assert told.high == pytest.approx(np.quantile(means, 0.975), abs=0.006)


def test_bootstrap_is_paired_and_repeats() -> None:
    a = np.random.default_rng(0).random(50)
    told = paired_bootstrap(a + 0.25, a)
    assert told == pytest.approx((0.25, 0.25, 0.25))
    assert paired_bootstrap(a, a[::-1], seed=4) == paired_bootstrap(a, a[::-1], seed=4)
    assert paired_bootstrap(a[:0], a[:0]) == (0, 0, 0)
    with pytest.raises(ValueError, match="cannot pair 50 queries with 49"):
        paired_bootstrap(a, a[1:])


def result(
    name: str, hits: float, *, training_free: bool = False, tail_hits: float | None = None, faults: int = 0
) -> Result:
    """Hit first place in a share of the queries; the last 300 are the tail."""
    ranks = np.zeros(N, dtype=np.int32)
    tail = np.arange(N) >= 700
    ranks[np.arange(N) % 100 < 100 * hits] = 1
    if tail_hits is not None:
        ranks[tail] = np.arange(300) % 100 < 100 * tail_hits
    checks = {"queries": N, **dict.fromkeys(INVALID, 0), "short_lists": faults}
    few = np.arange(N) < 50
    seen = Evaluation(
        np.arange(N, dtype=np.int32), ranks, {"tail": tail, "few": few}, accuracy(ranks, 10), checks, 10
    )
    return Result("temporal", name, 0, training_free, seen, seen, {}, {})


BASE = result("transitions", 0.2, training_free=True)
POPULAR = result("popularity", 0.1, training_free=True)


def verdict(*learned: Result, incumbent: str | None = None) -> tuple[str, dict[tuple[str, str], Gate]]:
    told = choose_champion({r.recipe: r for r in (BASE, POPULAR, *learned)}, incumbent=incumbent)
    return told.champion, {(g.recipe, g.name): g for g in told.gates}


def test_heuristics_need_no_bar() -> None:
    assert verdict()[0] == "transitions"
    better = result("popularity", 0.5, training_free=True)
    assert choose_champion({"transitions": BASE, "popularity": better}).champion == "popularity"
    same = result("popularity", 0.2, training_free=True)
    assert choose_champion({"popularity": same, "transitions": BASE}).champion == "transitions"


def test_the_bar_is_the_best_that_needs_no_training() -> None:
    graph = result("graph-heuristic", 0.3, training_free=True)
    assert bar_of({"transitions": BASE, "graph-heuristic": graph, "sasrec": result("sasrec", 0.9)}) == (
        "graph-heuristic"
    )
    assert verdict(result("sasrec", 0.25))[0] == "sasrec"
    champion, gates = verdict(graph, result("sasrec", 0.25))
    assert champion == "graph-heuristic"
    assert not gates["sasrec", "beats_bar"].passed
    assert "0.2500 against 0.3000 of graph-heuristic" in gates["sasrec", "beats_bar"].reason
    # One that answers with faults is no bar, and does not serve.
    faulty = result("graph-heuristic", 0.3, training_free=True, faults=1)
    champion, gates = verdict(faulty, result("sasrec", 0.25))
    assert champion == "sasrec"
    assert not gates["graph-heuristic", "valid_output"].passed


def test_the_baseline_serves_where_nothing_may() -> None:
    faulty = result("transitions", 0.2, training_free=True, faults=1)
    told = choose_champion({"transitions": faulty, "sasrec": result("sasrec", 0.1)})
    assert told.champion == "transitions"
    assert [g.passed for g in told.gates if g.recipe == "transitions"] == [False]


CHEAP = Cost(latency_ms=5.0, users=50, size_mb=3.0)


@pytest.mark.parametrize(
    ("cost", "gate", "told"),
    [
        (replace(CHEAP, latency_ms=250.1), "latency", "250.1 ms a user (90th percentile of 50"),
        (replace(CHEAP, size_mb=2000.1), "size", "2000.1 MB on disk, limit 2000 MB"),
        (replace(CHEAP, uses_ids=True, churn=0.91), "id_churn", "91.0% of items in common changed"),
    ],
)
def test_what_serving_costs_can_stop_promotion(cost: Cost, gate: str, told: str) -> None:
    results = {"transitions": BASE, "tiger": result("tiger", 0.5)}

    def choose(tiger: Cost, policy: Policy | None = None) -> tuple[str, dict[str, Gate]]:
        made = choose_champion(results, policy=policy, costs={"transitions": CHEAP, "tiger": tiger})
        return made.champion, {g.name: g for g in made.gates if g.recipe == "tiger"}

    champion, gates = choose(cost)
    assert champion == "transitions"
    assert [name for name, found in gates.items() if not found.passed] == [gate]
    assert told in gates[gate].reason
    champion, gates = choose(replace(CHEAP, uses_ids=True, churn=None, no_churn="no champion is live"))
    assert champion == "tiger"
    assert gates["id_churn"].reason == "nothing to compare with: no champion is live"
    assert choose(cost, Policy(latency_ms=300, size_mb=3000, churn=1))[0] == "tiger"
    # Items of a recipe that does not use IDs keep nothing by them.
    assert "id_churn" not in choose(CHEAP)[1]


def test_a_challenger_that_loses_a_slice_to_the_incumbent_does_not_replace_it() -> None:
    old = result("sasrec", 0.4)
    new = result("tiger", 0.7, tail_hits=0.3)
    assert verdict(new)[0] == "tiger"
    champion, gates = verdict(old, new, incumbent="sasrec")
    assert champion == "sasrec"
    assert gates["tiger", "beats_incumbent"].passed
    assert not gates["tiger", "slices_of_incumbent"].passed
    assert (
        "beside sasrec: worse on tail 0.3000 against 0.4000" in gates["tiger", "slices_of_incumbent"].reason
    )


def test_a_learned_model_that_wins_everywhere_is_champion() -> None:
    champion, gates = verdict(result("sasrec", 0.3))
    assert champion == "sasrec"
    assert [gates["sasrec", name].passed for name in ("valid_output", "beats_bar", "slices")] == [True] * 3
    assert "0.3000 against 0.2000 of transitions" in gates["sasrec", "beats_bar"].reason


def test_a_win_within_luck_is_none() -> None:
    luck = result("sasrec", 0.2)
    luck.test.ranks[:4] = [1, 0, 0, 0]
    luck.test.ranks[300] = 1
    luck.test.ranks[60] = 1
    luck = Result(
        "temporal",
        "sasrec",
        0,
        False,
        Evaluation(
            luck.test.users,
            luck.test.ranks,
            luck.test.slices,
            {"ndcg@10": 0.21},
            luck.test.checks,
            10,
        ),
        luck.validation,
        {},
        {},
    )
    champion, gates = verdict(luck)
    assert champion == "transitions"
    assert not gates["sasrec", "beats_bar"].passed


def test_a_margin_can_be_set() -> None:
    results = {"transitions": BASE, "sasrec": result("sasrec", 0.3)}
    assert choose_champion(results, policy=Policy(margin=0.05)).champion == "sasrec"
    assert choose_champion(results, policy=Policy(margin=0.1)).champion == "transitions"


def test_a_slice_that_suffers_stops_promotion() -> None:
    champion, gates = verdict(result("sasrec", 0.4, tail_hits=0.1))
    assert champion == "transitions"
    assert gates["sasrec", "beats_bar"].passed
    assert not gates["sasrec", "slices"].passed
    assert "tail 0.1000 against 0.2000" in gates["sasrec", "slices"].reason
    # A loss within the margin, and a slice of too few queries, do not.
    assert verdict(result("sasrec", 0.4, tail_hits=0.19))[0] == "sasrec"
    assert "none of 1 slices" in verdict(result("sasrec", 0.4))[1]["sasrec", "slices"].reason


def test_invalid_output_stops_promotion() -> None:
    champion, gates = verdict(result("tiger", 0.9, faults=2))
    assert champion == "transitions"
    assert "2 faults" in gates["tiger", "valid_output"].reason


def test_an_incumbent_stays_unless_beaten_beyond_luck() -> None:
    strong, stronger = result("sasrec", 0.4), result("tiger", 0.4)
    stronger.test.ranks[41] = 1
    stronger.test.metrics.update(accuracy(stronger.test.ranks, 10))
    assert verdict(strong, stronger)[0] == "tiger"
    champion, gates = verdict(strong, stronger, incumbent="sasrec")
    assert champion == "sasrec"
    assert not gates["tiger", "beats_incumbent"].passed
    assert verdict(strong, result("tiger", 0.6), incumbent="sasrec")[0] == "tiger"
    # One that fails its gates now, or has no result, does not stay.
    assert verdict(result("sasrec", 0.1), incumbent="sasrec")[0] == "transitions"
    assert verdict(incumbent="gone")[0] == "transitions"


def test_results_must_be_comparable() -> None:
    with pytest.raises(ValueError, match="no result of the baseline 'transitions'"):
        choose_champion({"popularity": POPULAR})
    other = result("sasrec", 0.3)
    other.test.users[0] = 77
    with pytest.raises(ValueError, match="other queries"):
        verdict(other)
    papers = Result("leave_one_out", "sasrec", 0, False, BASE.test, BASE.test, {}, {})
    with pytest.raises(ValueError, match="not temporal"):
        verdict(papers)
