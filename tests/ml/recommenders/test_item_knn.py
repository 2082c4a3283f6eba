from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders import edges
from ml.recommenders.heuristics import item_knn
from ml.recommenders.heuristics.item_knn import ItemKNN, ItemKNNParams, neighbours
from tests.ml.recommenders.test_heuristics import N_ITEMS, rows_of_items, small_catalogue


def dense(found: edges.Graph) -> np.ndarray:
    out = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):
        own = slice(found.offsets[item], found.offsets[item + 1])
        out[item, found.targets[own]] = found.weights[own]
    return out


def by_hand(rows: list[list[int]], p: ItemKNNParams) -> np.ndarray:
    """Compare every two items by their sets of users."""
    sets = [{u for u, row in enumerate(rows) if item in row} for item in range(N_ITEMS)]
    met = [len(set(row)) for row in rows]
    idf = [np.log(1 + N_ITEMS / n) if n else 0 for n in met]
    mean = np.mean([len(s) for s in sets if s] or [1])
    out = np.zeros((N_ITEMS, N_ITEMS))
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            common = a & b
            if i == j or not common:
                continue
            if p.similarity == "cosine":
                out[i, j] = len(common) / (np.sqrt(len(a) * len(b)) + p.shrinkage)
            elif p.similarity == "jaccard":
                out[i, j] = len(common) / (len(a | b) + p.shrinkage)
            elif p.similarity == "tfidf":
                lengths = [np.sqrt(sum(idf[u] ** 2 for u in s)) for s in (a, b)]
                out[i, j] = sum(idf[u] ** 2 for u in common) / (lengths[0] * lengths[1] + p.shrinkage)
            else:
                each = [(p.k1 + 1) / (p.k1 * (1 - p.b + p.b * len(s) / mean) + 1) for s in (a, b)]
                out[i, j] = sum(idf[u] ** 2 for u in common) * each[0] * each[1] / (1 + p.shrinkage)
    return out


@given(rows_of_items, st.sampled_from(["cosine", "jaccard", "tfidf", "bm25"]), st.sampled_from([0.0, 2.0]))
def test_neighbours_equal_loops_over_sets(rows: list[list[int]], similarity: str, shrinkage: float) -> None:
    params = ItemKNNParams.model_validate({"similarity": similarity, "shrinkage": shrinkage})
    found = dense(neighbours(Histories.of(rows), N_ITEMS, params))
    np.testing.assert_allclose(found, by_hand(rows, params), rtol=1e-5, atol=1e-7)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(N_ITEMS, size=5).tolist() for _ in range(30)]
    params = ItemKNNParams(neighbours=3)
    whole = neighbours(Histories.of(rows), N_ITEMS, params)
    monkeypatch.setattr(edges, "_EDGES", 7)
    cut = neighbours(Histories.of(rows), N_ITEMS, params)
    assert len(list(edges.blocks(np.full(N_ITEMS, 5, np.int64)))) == N_ITEMS
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_the_nearest_stay_and_later_items_vote_more() -> None:
    rows = [[0, 1], [0, 1], [0, 2], [3, 4], [3, 4]]
    assert (
        np.count_nonzero(dense(neighbours(Histories.of(rows), N_ITEMS, ItemKNNParams(neighbours=1)))[0]) == 1
    )
    first = {}
    for decay in (1.0, 0.3):
        model = ItemKNN(ItemKNNParams(recency_decay=decay))
        model.fit(split(Histories.of(rows), "full"), small_catalogue(), 0)
        first[decay] = model.recommend(Histories.of([[3, 0]]), 1)[0][0, 0]
    # Items 3 and 4 share all users, 0 and 1 only two of three.
    assert first == {1.0: 4, 0.3: 1}


def test_an_endless_history_is_cut() -> None:
    rows = [[0, 1, *range(2, N_ITEMS)]]
    found = dense(neighbours(Histories.of(rows).tail(2), N_ITEMS, ItemKNNParams(history=2)))
    model = ItemKNN(item_knn.ItemKNNParams(history=2))
    model.fit(split(Histories.of(rows), "full"), small_catalogue(), 0)
    np.testing.assert_array_equal(dense(model.graph), found)
    assert np.count_nonzero(found) == 2
