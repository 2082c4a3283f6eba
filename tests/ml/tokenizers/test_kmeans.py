from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.tokenizers import kmeans as module
from ml.tokenizers.kmeans import kmeans, nearest


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 1000))
def test_nearest_equals_plain_loops(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (n, 3)).astype(np.float32)
    centres = rng.integers(-3, 4, (k, 3)).astype(np.float32)
    codes, distances = nearest(vectors, centres)
    squares = ((vectors[:, None] - centres[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(codes, squares.argmin(axis=1))
    np.testing.assert_allclose(distances, squares.min(axis=1), atol=1e-4)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    whole = nearest(vectors, vectors[:7])
    monkeypatch.setattr(module, "_BLOCK", 13)
    np.testing.assert_array_equal(nearest(vectors, vectors[:7])[0], whole[0])


def test_well_separated_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(10), 30)
    vectors = (rng.normal(size=(10, 8))[truth] * 20 + rng.normal(size=(300, 8)) * 0.1).astype(np.float32)
    centres = kmeans(vectors, 10, np.random.default_rng(1))
    codes, distances = nearest(vectors, centres)
    assert len(np.unique(np.stack([codes, truth]), axis=1).T) == 10
    assert distances.mean() < 0.1


def test_no_centre_is_wasted() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(500, 3)) * 0.01, rng.normal(size=(20, 3)) * 50]).astype(
        np.float32
    )
    centres = kmeans(vectors, 40, np.random.default_rng(0))
    assert len(np.unique(nearest(vectors, centres)[0])) == 40
