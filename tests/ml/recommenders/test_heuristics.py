from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.base import mask_history, top_k
from ml.recommenders.heuristics.graph import strongest
from ml.recommenders.heuristics.popularity import Popularity, PopularityParams
from ml.recommenders.heuristics.transitions import Transitions, TransitionsParams
from ml.snapshot import Catalogue

N_ITEMS = 8
rows_of_items = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=6), min_size=1, max_size=5)


def small_catalogue(vectors: np.ndarray | None = None) -> Catalogue:
    n = N_ITEMS
    vectors = np.zeros((n, 0), np.float32) if vectors is None else vectors
    return Catalogue([str(i) for i in range(n)], [""] * n, [[]] * n, vectors, np.zeros((n, 0), np.int32), ())


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf]), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    st.integers(1, 8),
)
def test_top_k_equals_a_sort(rows: list[list[float]], k: int) -> None:
    items, scores = top_k(torch.tensor(rows), k)
    for row, got_items, got_scores in zip(rows, items.tolist(), scores.tolist(), strict=True):
        order = sorted((-x, i) for i, x in enumerate(row) if x > -np.inf)[:k]
        padding = k - len(order)
        assert got_items == [i for _, i in order] + [-1] * padding
        assert got_scores == [-x for x, _ in order] + [-np.inf] * padding


def test_mask_history() -> None:
    scores = torch.zeros(3, 4)
    mask_history(scores, Histories.of([[1, 1], [], [0, 3]]))
    assert torch.isinf(scores).tolist() == [
        [False, True, False, False],
        [False] * 4,
        [True, False, False, True],
    ]


def test_popularity_counts_and_ages() -> None:
    train = replace(
        Histories.of([[1, 1, 1], [2, 2]]), times=np.array([0, 0, 0, 10, 10], dtype=np.int64) * 86_400_000_000
    )
    plain, aged = (Popularity(PopularityParams(half_life_days=days)) for days in (None, 5))
    for model in (plain, aged):
        model.fit(split(train, "full"), small_catalogue(), 0)
    assert plain.scores[:4].tolist() == [0, 3, 2, 0]
    assert aged.scores[:4].tolist() == [0, 0.75, 2, 0]
    assert plain.recommend(Histories.of([[]]), 3)[0].tolist() == [[1, 2, 0]]


def by_hand(train: list[list[int]], history: list[int], p: TransitionsParams) -> np.ndarray:
    """Score every item by loops over pairs of events."""
    events = [i for row in train for i in row]
    counts = np.zeros((N_ITEMS, N_ITEMS))
    for row in train:
        for late in range(len(row)):
            for early in range(max(0, late - p.window), late):
                weight = p.skip_decay ** (late - early - 1)
                counts[row[early], row[late]] += weight
                counts[row[late], row[early]] += weight * p.backward
    np.fill_diagonal(counts, 0)
    size = np.maximum(np.bincount(events, minlength=N_ITEMS), 1)
    weights = counts / (size[:, None] ** p.source_norm * size[None, :] ** p.target_norm)
    scores = np.zeros(N_ITEMS)
    for age, item in enumerate(reversed(history[-p.recent :])):
        scores += p.recency_decay**age * weights[item]
    scores /= max(scores.max(), 1e-30)
    popular = np.bincount(events, minlength=N_ITEMS)
    return scores + p.popularity * popular / max(popular.max(), 1)


@given(rows_of_items, rows_of_items, st.sampled_from([0.0, 0.5]), st.integers(1, 3))
def test_transitions_equal_loops(
    train: list[list[int]], asked: list[list[int]], norm: float, window: int
) -> None:
    params = TransitionsParams(window=window, target_norm=norm, recent=3, popularity=0.01)
    model = Transitions(params)
    model.fit(split(Histories.of(train), "full"), small_catalogue(), 0)
    items, scores = model.recommend(Histories.of(asked), N_ITEMS, exclude_history=False)
    for row, history in enumerate(asked):
        expected = by_hand(train, history, params)
        np.testing.assert_allclose(scores[row], expected[items[row]], rtol=1e-5, atol=1e-7)


def test_strongest_keeps_the_heaviest() -> None:
    source = np.array([0, 0, 0, 2, 2])
    target = np.array([1, 2, 3, 0, 1])
    weight = np.array([1.0, 3.0, 3.0, 0.5, 0.7])
    offsets, targets, weights = strongest(source, target, weight, 3, most=2)
    assert offsets.tolist() == [0, 2, 2, 4]
    assert targets.tolist() == [2, 3, 1, 0]
    assert weights.tolist() == pytest.approx([3, 3, 0.7, 0.5])


def test_similar_vectors_can_speak_for_items_never_met() -> None:
    vectors = np.eye(N_ITEMS, 4, dtype=np.float32)
    vectors[7] = [0.9, 0.1, 0, 0]
    train = split(Histories.of([[0, 1, 2], [3, 1]]), "full")
    asked = Histories.of([[0]])
    found = []
    for weight in (0.0, 2.0):
        model = Transitions(TransitionsParams(similarity=weight))
        model.fit(train, small_catalogue(vectors), 0)
        found.append(int(model.recommend(asked, 1)[0][0, 0]))
    assert found == [1, 7]
