from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.collaborative.ease import EASE, EASEParams, gram, regress
from ml.recommenders.collaborative.propagation import edges
from ml.snapshot import Catalogue

ROWS = [[0, 1, 2], [1, 2, 2], [0, 3], [2, 4, 0, 1], [4, 3], [1, 4]]
N_ITEMS = 7
KNOWN = 5


def small_catalogue() -> Catalogue:
    n = N_ITEMS
    nothing = np.zeros((n, 0), np.float32)
    return Catalogue([str(i) for i in range(n)], [""] * n, [[]] * n, nothing, nothing.astype(np.int32), ())


def met(rows: list[list[int]]) -> np.ndarray:
    x = np.zeros((len(rows), N_ITEMS))
    for user, row in enumerate(rows):
        x[user, row] = 1
    return x


def by_columns(x: np.ndarray, l2: float) -> np.ndarray:
    """Regress each item on all others by least squares on rows extended by the ridge."""
    n = x.shape[1]
    weights = np.zeros((n, n))
    for j in range(n):
        others = [i for i in range(n) if i != j]
        a = np.concatenate([x[:, others], np.sqrt(l2) * np.eye(n - 1)])
        weights[others, j] = np.linalg.lstsq(a, np.concatenate([x[:, j], np.zeros(n - 1)]), rcond=None)[0]
    return weights


def fitted(**params: float) -> EASE:
    model = EASE(EASEParams(**params))
    model.fit(split(Histories.of(ROWS), "full"), small_catalogue(), 0)
    return model


@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_weights_are_those_of_a_ridge_regression_per_item(l2: float) -> None:
    users, items = edges(Histories.of(ROWS), N_ITEMS)
    both = gram(users, items, len(ROWS), N_ITEMS)
    x = met(ROWS)
    np.testing.assert_array_equal(both.numpy(), x.T @ x)
    np.testing.assert_allclose(regress(both, l2).numpy(), by_columns(x, l2), atol=1e-5)


def test_a_large_gram_matrix_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    users, items = edges(Histories.of(ROWS), N_ITEMS)
    whole = gram(users, items, len(ROWS), N_ITEMS)
    monkeypatch.setattr("ml.recommenders.collaborative.ease._COLUMNS", 2)
    assert torch.equal(gram(users, items, len(ROWS), N_ITEMS), whole)


def test_scores_are_weights_of_the_history_with_the_latest_first() -> None:
    model = fitted(l2=0.5, recency_decay=0.5, recent=2)
    asked = [[3, 0, 4], [2], []]
    items, scores = model.recommend(Histories.of(asked), N_ITEMS, exclude_history=False)
    weights = by_columns(met(ROWS), 0.5)
    expected = np.stack([0.5 * weights[0] + weights[4], weights[2], np.zeros(N_ITEMS)])
    for row in range(3):
        assert set(items[row, -2:]) == {5, 6}, "items without an event come last"
        np.testing.assert_allclose(scores[row, :KNOWN], expected[row][items[row, :KNOWN]], atol=1e-5)
    popular = met(ROWS).sum(axis=0)[items[2, :KNOWN]]
    assert (np.diff(popular) <= 0).all(), "nobody's history: by popularity"


def test_only_the_strongest_weights_are_kept() -> None:
    model, weights = fitted(l2=0.5, neighbours=2), by_columns(met(ROWS), 0.5)
    for item in range(KNOWN):
        kept = slice(model.graph.offsets[item], model.graph.offsets[item + 1])
        strongest = np.argsort(-np.abs(weights[item, :KNOWN]), kind="stable")[:2]
        assert sorted(model.graph.targets[kept]) == sorted(strongest)
        np.testing.assert_allclose(
            model.graph.weights[kept], weights[item, model.graph.targets[kept]], atol=1e-5
        )
    assert len(model.graph.targets) == 2 * KNOWN


def test_blocks_are_found() -> None:
    """Users meet half of one of four blocks of ten items; the rest of the block is what they miss."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(4, size=200)
    rows = [(10 * block + rng.permutation(10)[:5]).tolist() for block in blocks]
    n = 40
    nothing = np.zeros((n, 0), np.float32)
    catalogue = replace(
        small_catalogue(),
        item_ids=[str(i) for i in range(n)],
        vectors=nothing,
        codes=nothing.astype(np.int32),
    )
    model = EASE(EASEParams(l2=10))
    model.fit(split(Histories.of(rows), "full"), catalogue, 0)
    items, _ = model.recommend(Histories.of(rows), 5)
    assert (items // 10 == blocks[:, None]).all()


def test_a_catalogue_that_is_too_large_is_named_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"EASE of 5 items needs 0\.0 GB at once: raise most_items \(4\)"):
        fitted(most_items=4)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        EASE(EASEParams()).fit(split(Histories.of([[]]), "full"), small_catalogue(), 0)
