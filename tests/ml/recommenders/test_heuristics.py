from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.base import mask_history, top_k
from ml.recommenders.edges import strongest
from ml.recommenders.heuristics.popularity import Popularity, PopularityParams
from ml.recommenders.heuristics.transitions import Transitions, TransitionsParams, later_days
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


#: Places 0-1, 2-3 and 4-5 of every history share a day.
HALF_DAY_US = 43_200_000_000
TEXT = np.random.default_rng(0).standard_normal((N_ITEMS, 3)).astype(np.float32)


def timed(rows: list[list[int]]) -> Histories:
    histories = Histories.of(rows)
    return replace(histories, times=histories.times * HALF_DAY_US)


def by_hand(train: list[list[int]], history: list[int], p: TransitionsParams) -> np.ndarray:
    """Score every item by loops over pairs of events."""
    events = [i for row in train for i in row]
    counts = np.zeros((N_ITEMS, N_ITEMS))
    text = TEXT / np.linalg.norm(TEXT, axis=1, keepdims=True)
    for row in train:
        for late in range(len(row)):
            for early in range(max(0, late - p.window), late):
                weight = p.skip_decay ** (late - early - 1)
                weight *= p.same_day if late // 2 == early // 2 else 1
                counts[row[early], row[late]] += weight
                counts[row[late], row[early]] += weight * p.backward
    np.fill_diagonal(counts, 0)
    size = np.maximum(np.bincount(events, minlength=N_ITEMS), 1)
    weights = counts / (size[:, None] ** p.source_norm * size[None, :] ** p.target_norm)
    weights *= np.exp(p.affinity * (text @ text.T))
    scores, again, mean = np.zeros(N_ITEMS), np.zeros(N_ITEMS), np.zeros(3)
    last = (len(history) - 1) // 2
    for place in range(max(0, len(history) - p.recent), len(history)):
        vote = p.recency_decay ** (len(history) - 1 - place) * p.day_decay ** (last - place // 2)
        scores += vote * weights[history[place]]
        mean += vote * text[history[place]]
        again[history[place]] += p.again * vote
    scores /= max(scores.max(), 1e-30)
    second = np.zeros(N_ITEMS)
    for item in np.argsort(-scores, kind="stable")[: p.hop_width]:
        second += scores[item] * weights[item] / max(weights[item].sum(), 1e-30)
    scores += p.two_hop * second / max(second.max(), 1e-30)
    popular = np.bincount(events, minlength=N_ITEMS)
    scores += p.popularity * popular / max(popular.max(), 1)
    return scores + again + p.similarity * text @ (mean / max(np.linalg.norm(mean), 1e-12))


@given(
    rows_of_items,
    rows_of_items,
    st.sampled_from(
        [
            {},
            {"target_norm": 0.5, "window": 1},
            {"window": 3, "same_day": 3.0, "day_decay": 0.5},
            {"affinity": 2.0, "similarity": 0.3},
            {"two_hop": 0.4, "hop_width": N_ITEMS},
            {"again": 2.0, "day_decay": 0.5},
        ]
    ),
)
def test_transitions_equal_loops(
    train: list[list[int]], asked: list[list[int]], changed: dict[str, float]
) -> None:
    params = TransitionsParams.model_validate({"recent": 3, "popularity": 0.01, **changed})
    model = Transitions(params)
    model.fit(split(timed(train), "full"), small_catalogue(TEXT), 0)
    items, scores = model.recommend(timed(asked), N_ITEMS, exclude_history=False)
    for row, history in enumerate(asked):
        expected = by_hand(train, history, params)
        np.testing.assert_allclose(scores[row], expected[items[row]], rtol=1e-4, atol=1e-6)


def test_the_history_comes_again_latest_first_where_it_may() -> None:
    model = Transitions(TransitionsParams(again=2.0, recency_decay=0.9))
    model.fit(split(timed([[0, 1, 2, 3], [2, 3, 4]]), "full"), small_catalogue(TEXT), 0)
    asked = timed([[5, 6, 2]])
    assert model.recommend(asked, 4, exclude_history=False)[0].tolist() == [[2, 6, 5, 3]]
    assert model.recommend(asked, 1)[0].tolist() == [[3]]


def test_voting_otherwise_needs_no_counting() -> None:
    train, asked = split(timed([[0, 1, 2, 3], [2, 3, 4], [4, 0, 1]]), "full"), timed([[0, 2], [4]])
    counted = Transitions(TransitionsParams())
    counted.fit(train, small_catalogue(TEXT), 0)
    changed = counted.voting(small_catalogue(TEXT), recent=1, similarity=0.5, two_hop=0.3)
    afresh = Transitions(TransitionsParams(recent=1, similarity=0.5, two_hop=0.3))
    afresh.fit(train, small_catalogue(TEXT), 0)
    for got, expected in zip(changed.recommend(asked, 5), afresh.recommend(asked, 5), strict=True):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="window has a part in counting"):
        counted.voting(small_catalogue(TEXT), window=2)


def test_what_takes_long_is_not_made_again_by_whoever_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = Histories.of([[0, 1, 2, 3], [3, 2, 5], [4, 6, 0]])
    made = Transitions(TransitionsParams(similarity=0.5, whiten=0.5, two_hop=0.3))
    made.fit(split(histories, "full"), small_catalogue(TEXT), 0)
    made.save(tmp_path)
    monkeypatch.setattr("ml.recommenders.heuristics.transitions.whitened", None)
    monkeypatch.setattr("ml.recommenders.heuristics.transitions.np.cumsum", None)
    loaded = Transitions.load(tmp_path, small_catalogue(TEXT))
    monkeypatch.undo()
    for told, expected in zip(loaded.recommend(histories, 5), made.recommend(histories, 5), strict=True):
        np.testing.assert_array_equal(told, expected)


def test_later_days() -> None:
    day = 86_400_000_000
    histories = replace(
        Histories.of([[1, 2, 3], [], [4], [5, 6]]),
        times=np.array([0, 1, 3 * day, 5, day - 1, day], dtype=np.int64),
    )
    assert later_days(histories).tolist() == [1, 1, 0, 0, 1, 0]
    assert later_days(Histories.of([])).tolist() == []


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
