from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from simulated import SMALL, Simulated, run

from orchestration.simulate import SimulationConfig, SimulationError, interest_recovery
from orchestration.simulate.events import World
from orchestration.simulate.truth import read_truth


def twin(truth: Path, lists: dict[str, list[str]]) -> float:
    """Recovery by its definition, one user and one item at a time, the best list by trying all of them."""
    interests = {
        row["user_id"]: row["interest"] for row in pq.read_table(truth / "users.parquet").to_pylist()
    }
    factors = {row["item_id"]: row["factors"] for row in pq.read_table(truth / "items.parquet").to_pylist()}
    scores = []
    for user, items in lists.items():
        affinity = {
            i: sum(a * b for a, b in zip(interests[user], f, strict=True)) for i, f in factors.items()
        }
        chance = sum(affinity.values()) / len(affinity)
        best = max(sum(affinity[i] for i in some) / len(some) for some in combinations(affinity, len(items)))
        mean = sum(affinity[i] for i in items) / len(items)
        scores.append((mean - chance) / (best - chance))
    return sum(scores) / len(scores)


def test_recovery_agrees_with_its_definition(tmp_path: Path) -> None:
    truth = run(SimulationConfig(items=9, users=12, events=50, days=2), tmp_path).truth
    rng = np.random.default_rng(0)
    items = [f"i{n:05d}" for n in range(9)]
    lists = {f"u{n:06d}": rng.choice(items, rng.integers(1, 5), replace=False).tolist() for n in range(12)}
    popular = rng.permutation(items).tolist()
    result = interest_recovery(truth, {**lists, "u000003": []}, popular)
    del lists["u000003"]
    assert result["users"] == 11
    assert result["recommendations"] == pytest.approx(twin(truth, lists), abs=1e-5)
    bestsellers = {user: popular[: len(own)] for user, own in lists.items()}
    assert result["popularity"] == pytest.approx(twin(truth, bestsellers), abs=1e-5)


def test_the_best_list_is_one_and_chance_is_zero(small: Simulated) -> None:
    known = read_truth(small.truth)
    affinity = known.interests @ known.factors.T
    best = np.argsort(-affinity, axis=1)[:, :10]
    ideal = {user: [known.item_ids[i] for i in row] for user, row in zip(known.user_ids, best, strict=True)}
    result = interest_recovery(small.truth, ideal, known.item_ids, seed=1)
    assert result["recommendations"] == pytest.approx(1, abs=1e-5)
    assert result["chance"] == pytest.approx(0, abs=0.02)
    assert result["users"] == SMALL.users
    worst = np.argsort(affinity, axis=1)[:, :10]
    lists = {user: [known.item_ids[i] for i in row] for user, row in zip(known.user_ids, worst, strict=True)}
    assert interest_recovery(small.truth, lists, known.item_ids)["recommendations"] < -0.3


def test_what_users_viewed_beats_popularity_beats_chance(clean: Simulated) -> None:
    viewed: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for event in clean.events():
        if event["type"] == "view":
            viewed.setdefault(event["user"], []).append(event["item"])
            counts[event["item"]] = counts.get(event["item"], 0) + 1
    popular = sorted(counts, key=lambda item: (-counts[item], item))
    result = interest_recovery(clean.truth, viewed, popular)
    assert result["recommendations"] > result["popularity"] + 0.2
    assert result["chance"] == pytest.approx(0, abs=0.03)


def test_truth_is_what_drove_the_logs(small: Simulated, world: World) -> None:
    known = read_truth(small.truth)
    rows = np.arange(SMALL.users)
    np.testing.assert_array_equal(known.interests, world.users.interests(rows, 1.0, world.catalogue))
    np.testing.assert_array_equal(known.factors, world.catalogue.factors)
    users = pq.read_table(small.truth / "users.parquet").to_pylist()
    leaves = [" > ".join(leaf.path) for leaf in world.catalogue.leaves]
    assert users[7]["favourites"] == [leaves[i] for i in world.users.favourites[7]]
    assert sum(users[7]["weights"]) == pytest.approx(1, abs=1e-5)


def test_a_list_of_everything_is_no_better_than_chance(small: Simulated) -> None:
    known = read_truth(small.truth)
    result = interest_recovery(small.truth, {"u000001": known.item_ids}, known.item_ids)
    assert [result[name] for name in ("recommendations", "popularity", "chance")] == pytest.approx([0, 0, 0])


def test_a_repeated_item_counts_once(small: Simulated) -> None:
    once, repeated = (
        interest_recovery(small.truth, {"u000001": items}, ["i00001"])
        for items in (["i00002", "i00003"], ["i00002", "i00003", "i00002"])
    )
    assert once == repeated


@pytest.mark.parametrize(
    ("lists", "popular", "cause"),
    [
        ({}, ["i00001"], "no recommendations"),
        ({"u000001": []}, ["i00001"], "no recommendations"),
        ({"u000001": ["i00001"]}, [], "no recommendations"),
        ({"u000001": ["i99999"]}, ["i00001"], "i99999"),
        ({"nobody": ["i00001"]}, ["i00001"], "nobody"),
    ],
)
def test_lists_that_cannot_be_compared_are_named(
    small: Simulated, lists: dict[str, list[str]], popular: list[str], cause: str
) -> None:
    with pytest.raises(SimulationError, match=cause):
        interest_recovery(small.truth, lists, popular)


def test_missing_and_broken_truth_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"^[^\n]*users.parquet does not exist$"):
        interest_recovery(tmp_path, {"u000001": ["i00001"]}, ["i00001"])
    (tmp_path / "users.parquet").write_bytes(b"no parquet")
    with pytest.raises(SimulationError, match=r"^[^\n]*users.parquet cannot be read[^\n]*$"):
        interest_recovery(tmp_path, {"u000001": ["i00001"]}, ["i00001"])
