from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.evaluate import evaluate
from ml.evaluation.results import Result, read_result, write_result
from ml.evaluation.slices import popularity_groups, query_slices
from ml.evaluation.splits import Queries, split
from ml.histories import Histories

N_ITEMS = 60


def padded(items: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lists of length k, -1 and -inf where there is no more."""
    more = max(k - items.shape[1], 0)
    items = np.pad(items, ((0, 0), (0, more)), constant_values=-1)
    return items[:, :k], np.pad(scores, ((0, 0), (0, more)), constant_values=-np.inf)[:, :k]


@dataclass
class Fixed:
    """Answers each query with the lists it was given, in the order of the queries."""

    items: np.ndarray
    scores: np.ndarray
    asked: int = 0

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(self.asked, self.asked + len(histories))
        self.asked += len(histories)
        return padded(self.items[rows], self.scores[rows], k)


def queries(histories: list[list[int]], targets: list[int]) -> Queries:
    return Queries(
        np.arange(len(targets), dtype=np.int32), Histories.of(histories), np.array(targets, dtype=np.int32)
    )


def falling(items: np.ndarray) -> np.ndarray:
    return np.broadcast_to(-np.arange(items.shape[1], dtype=np.float32), items.shape)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_metrics_equal_an_independent_implementation(seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    n = 9
    train = Histories.of([rng.integers(0, N_ITEMS, 30).tolist() for _ in range(4)])
    targets = rng.integers(0, N_ITEMS, n).tolist()
    lists = np.array([rng.permutation(N_ITEMS)[:50] for _ in range(n)], dtype=np.int32)
    told = evaluate(
        Fixed(lists, falling(lists)), queries([[]] * n, targets), train, N_ITEMS, batch=batch
    ).metrics
    counts = [train.items.tolist().count(i) for i in range(N_ITEMS)]
    expected: dict[str, float] = {}
    for c in (5, 10, 20, 50):
        places = [
            row[:c].tolist().index(t) + 1 if t in row[:c] else None
            for row, t in zip(lists, targets, strict=True)
        ]
        expected[f"recall@{c}"] = sum(p is not None for p in places) / n
        expected[f"ndcg@{c}"] = sum(1 / math.log2(p + 1) for p in places if p) / n
        expected[f"mrr@{c}"] = sum(1 / p for p in places if p) / n
    shown = [i for row in lists for i in row[:10].tolist()]
    expected["coverage@10"] = len(set(shown)) / N_ITEMS
    share = [(x + 1) / (sum(counts) + N_ITEMS) for x in counts]
    expected["novelty@10"] = sum(-math.log2(share[i]) for i in shown) / len(shown)
    liked = sum(counts[t] for t in targets) / n
    expected["popularity_bias@10"] = sum(counts[i] for i in shown) / len(shown) / liked
    assert told == pytest.approx(expected)


def test_invalid_output_is_counted() -> None:
    items = np.array(
        [
            [3, 3, 5],  # 3 twice
            [9, 4, 2],  # 9 is outside a catalogue of 6; 4 is in the history
            [1, 2, -1],  # one too few
            [0, 1, 2],  # scores not in order
            [0, 1, 2],  # a score that is no number
            [-2, 1, 2],  # -1 is the only item that is none
        ],
        dtype=np.int32,
    )
    scores = np.array([[3, 2, 1]] * 6, dtype=np.float32)
    scores[3] = [1, 2, 3]
    scores[4, 1] = np.nan
    asked = queries([[1], [4], [0], [4], [5], [0]], [5, 2, 2, 2, 2, 0])
    seen = evaluate(Fixed(items, scores), asked, Histories.of([[0, 1, 2]]), 6, k=3)
    assert seen.checks == {
        "queries": 6,
        "tied_targets": 0,
        "target_in_history": 1,
        "unknown_items": 2,
        "repeated_items": 1,
        "history_items": 1,
        "short_lists": 3,
        "unordered_lists": 2,
    }
    assert seen.invalid == 9
    assert seen.ranks.tolist() == [3, 3, 2, 3, 3, 0]


def test_history_may_be_allowed() -> None:
    items = np.array([[4, 0]], dtype=np.int32)
    allowed = evaluate(
        Fixed(items, falling(items)),
        queries([[4]], [0]),
        Histories.of([[0]]),
        6,
        k=2,
        exclude_history=False,
    )
    assert allowed.invalid == 0


def test_a_list_may_be_short_where_the_catalogue_is() -> None:
    items = np.array([[0, 2, -1, -1]], dtype=np.int32)
    scores = np.array([[2, 1, -np.inf, -np.inf]], dtype=np.float32)
    seen = evaluate(Fixed(items, scores), queries([[1, 1]], [2]), Histories.of([[0]]), 3, k=4)
    assert seen.invalid == 0
    assert seen.ranks.tolist() == [2]


def test_targets_in_ties_are_counted() -> None:
    items = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2]], dtype=np.int32)
    scores = np.array([[3, 2, 2], [3, 3, 2], [3, 3, 2]], dtype=np.float32)
    seen = evaluate(Fixed(items, scores), queries([[], [], []], [1, 2, 0]), Histories.of([[0]]), 3, k=3)
    assert seen.checks["tied_targets"] == 2


def test_wrong_shape_is_refused() -> None:
    class Narrow:
        def recommend(
            self, histories: Histories, k: int, exclude_history: bool = True
        ) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32)

    with pytest.raises(ValueError, match="shape"):
        evaluate(Narrow(), queries([[]], [0]), Histories.of([[0]]), 3, k=3)


def test_nothing_asked() -> None:
    nothing = np.zeros((0, 5), dtype=np.int32)
    seen = evaluate(Fixed(nothing, falling(nothing)), queries([], []), Histories.of([[0]]), 3, k=5)
    assert set(seen.metrics.values()) == {0.0}
    assert seen.slice_metrics == {}


def test_popularity_groups() -> None:
    # 12 events: a third is 4. Item 2 holds 5 alone; the next third ends within item 0.
    counts = np.array([3, 1, 5, 0, 3])
    assert popularity_groups(counts).tolist() == [1, 2, 0, 3, 2]
    assert popularity_groups(np.zeros(2, dtype=np.int64)).tolist() == [3, 3]


def test_slices() -> None:
    train = Histories.of([[0] * 3 + [1] + [2] * 5 + [4] * 3])
    asked = queries([[0], [0] * 4, [0] * 5, [0] * 20, []], [2, 0, 1, 3, 4])
    slices = {name: np.flatnonzero(mask).tolist() for name, mask in query_slices(asked, train, 5).items()}
    assert slices == {
        "item=head": [0],
        "item=mid": [1],
        "item=tail": [2, 4],
        "item=cold": [3],
        "history=1-4": [0, 1],
        "history=5-9": [2],
        "history=10-19": [],
        "history=20+": [3],
    }


def test_slices_by_what_was_done_with_the_target() -> None:
    times = np.arange(9, dtype=np.int64)
    types = np.array([0, 1, 0, 2, 2, 1, 1, 0, 2], np.int8)
    whole = replace(Histories.of([[0, 1, 2], [3, 1, 0], [2, 2, 1]]), event_types=types, times=times)
    asked = split(whole, "leave_one_out").test
    assert asked.types.tolist() == [0, 1, 2]
    assert asked.take(np.array([2, 0])).types.tolist() == [2, 0]
    named = query_slices(asked, whole, 4, ["cart", "purchase", "view"])
    told = {name: mask.tolist() for name, mask in named.items() if name.startswith("type=")}
    assert told == {
        "type=cart": [True, False, False],
        "type=purchase": [False, True, False],
        "type=view": [False, False, True],
    }
    # Of one type there is nothing to tell apart.
    assert set(query_slices(asked, whole, 4, ["view"])) == set(query_slices(asked, whole, 4))
    items = np.array([[2, 0], [3, 1], [1, 0]], np.int32)
    seen = evaluate(
        Fixed(items, falling(items)), asked, whole, 4, k=5, exclude_history=False, event_types=["c", "p", "v"]
    )
    assert {name: seen.slice_metrics[f"type={name}"]["recall@5"] for name in "cpv"} == {
        "c": 1,
        "p": 0,
        "v": 1,
    }


def test_results_come_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    items = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], dtype=np.int32)
    seen = [
        evaluate(Fixed(items, falling(items)), queries([[], [5]], t), Histories.of([[0, 1, 4]]), 6, k=5)
        for t in ([1, 4], [2, 5])
    ]
    written = Result("temporal", "toy", 3, True, seen[0], seen[1], {"epochs": 2}, {"device": "cpu"})
    write_result(tmp_path, written)
    read = read_result(tmp_path, "temporal")
    assert (read.recipe, read.seed, read.training_free, read.fit) == ("toy", 3, True, {"epochs": 2})
    assert read.test.metrics == written.test.metrics
    assert read.test.slice_metrics == written.test.slice_metrics
    assert read.validation.ranks.tolist() == written.validation.ranks.tolist() == [3, 0]
    assert read.test.metrics["recall@5"] == 1.0
