from __future__ import annotations

from dataclasses import replace

import numpy as np

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.heuristics.text_similarity import TextSimilarity, TextSimilarityParams, whitened
from tests.ml.recommenders.test_heuristics import N_ITEMS, small_catalogue

#: Items 0-3 and 4-7 say alike; item 7 is in no history.
TEXT = np.repeat(np.eye(2, 3, dtype=np.float32), 4, axis=0)
TEXT += np.random.default_rng(0).normal(0, 0.05, TEXT.shape).astype(np.float32)
TRAIN = Histories.of([[0, 1, 4], [5, 6, 5], [2, 3]])


def fitted(vectors: np.ndarray, **params: float) -> TextSimilarity:
    model = TextSimilarity(TextSimilarityParams.model_validate(params))
    model.fit(split(TRAIN, "full"), small_catalogue(vectors), 0)
    return model


def test_the_recent_items_decide_and_nobody_need_have_met_what_is_found() -> None:
    items, _ = fitted(TEXT, recency_decay=0.2).recommend(Histories.of([[0, 4, 5]]), N_ITEMS)
    assert set(items[0, :2]) == {6, 7}
    items, _ = fitted(TEXT, recency_decay=1.0).recommend(Histories.of([[0, 1, 2, 5]]), N_ITEMS)
    assert items[0, 0] == 3


def test_popularity_speaks_where_text_is_silent() -> None:
    items, _ = fitted(TEXT).recommend(Histories.of([[]]), 1)
    assert items[0, 0] == 5
    silent = TEXT.copy()
    silent[[1, 6]] = 0
    items, scores = fitted(silent).recommend(Histories.of([[1]]), 2)
    assert items[0, 0] == 5
    assert (scores < 0.01).all()


def test_text_alone_is_read_where_the_snapshot_has_it() -> None:
    fused = small_catalogue(np.random.default_rng(1).standard_normal((N_ITEMS, 5)).astype(np.float32))
    with_text = replace(fused, text=TEXT)
    model = TextSimilarity(TextSimilarityParams())
    model.fit(split(TRAIN, "full"), with_text, 0)
    assert model.item_vectors().shape == (N_ITEMS, TEXT.shape[1] + 1)


def test_whitening() -> None:
    rng = np.random.default_rng(2)
    skewed = (rng.standard_normal((500, 4)) * [10, 3, 1, 0.3] + 5).astype(np.float32)
    skewed[7] = 0
    rest = np.delete(np.arange(500), 7)
    even = whitened(skewed, 1.0)
    assert (even[7] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(even[rest], axis=1), 1, atol=1e-5)
    spread = np.linalg.eigvalsh(np.cov(even[rest].T))
    assert spread.max() / spread.min() < 1.5
    # Without a power the directions stay as they are, about the mean.
    centred = skewed[rest] - skewed[rest].mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(whitened(skewed, 0.0)[rest], expected, atol=1e-4)
    one = np.zeros((3, 2), np.float32)
    one[1] = 4
    np.testing.assert_allclose(whitened(one, 0.5), one / np.sqrt(32), rtol=1e-6)
