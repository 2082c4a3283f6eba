from __future__ import annotations

import numpy as np
import pytest

from ml.tokenizers.kmeans import balanced_kmeans, kmeans, minibatch_kmeans, nearest
from tests.ml.tokenizers.samples import cluster_vectors


def _uneven(n: int = 900) -> np.ndarray:
    """Three clusters, of which one has four fifths of the points."""
    rng = np.random.default_rng(0)
    sizes = rng.choice(3, size=n, p=[0.8, 0.1, 0.1])
    return (rng.normal(size=(n, 4)) + np.eye(3, 4)[sizes] * 5).astype(np.float32)


def test_offsets_are_added_to_distances_and_not_returned() -> None:
    vectors = np.array([[0.0], [1.0], [2.0]], np.float32)
    centres = np.array([[0.0], [2.0]], np.float32)
    codes, distances = nearest(vectors, centres, np.array([0.5, 0], np.float32))
    assert codes.tolist() == [0, 1, 1]
    assert distances.tolist() == [0, 1, 0]


def test_balanced_clusters_have_like_sizes_where_plain_ones_do_not() -> None:
    vectors = _uneven()
    counts = np.bincount(nearest(vectors, kmeans(vectors, 9, np.random.default_rng(0)))[0], minlength=9)
    assert counts.max() > 1.3 * counts.mean()
    centres, offsets = balanced_kmeans(vectors, 9, np.random.default_rng(0))
    counts = np.bincount(nearest(vectors, centres, offsets)[0], minlength=9)
    assert counts.max() <= 105
    assert counts.min() >= 95
    assert abs(float(offsets.mean())) < 1e-4 * float(np.abs(offsets).max())


def test_balanced_assignment_is_nearly_the_best_of_its_sizes() -> None:
    from scipy.optimize import linear_sum_assignment

    vectors = _uneven(240)
    centres, offsets = balanced_kmeans(vectors, 6, np.random.default_rng(0))
    codes, distances = nearest(vectors, centres, offsets)
    sizes = np.bincount(codes, minlength=6)
    squares = ((vectors[:, None] - centres[None]) ** 2).sum(axis=2)
    rows, seats = linear_sum_assignment(squares[:, np.repeat(np.arange(6), sizes)])
    best = squares[rows, np.repeat(np.arange(6), sizes)[seats]].sum()
    assert distances.sum() == pytest.approx(best, rel=1e-4)


def test_mini_batches_come_near_to_lloyd() -> None:
    vectors = cluster_vectors(3000)
    lloyd = nearest(vectors, kmeans(vectors, 12, np.random.default_rng(0)))[1].mean()
    small = minibatch_kmeans(vectors, 12, np.random.default_rng(0), batch=250, passes=5)
    assert nearest(vectors, small)[1].mean() < 1.05 * lloyd
    assert len(np.unique(nearest(vectors, small)[0])) == 12


def test_a_warm_start_keeps_the_places_of_centres() -> None:
    vectors = cluster_vectors(600)
    before = kmeans(vectors, 6, np.random.default_rng(2))[::-1].copy()
    assert nearest(vectors, before)[1].mean() < 13
    for again in (
        kmeans(vectors, 6, np.random.default_rng(1), start=before),
        minibatch_kmeans(vectors, 6, np.random.default_rng(1), 100, 3, before),
        balanced_kmeans(vectors, 6, np.random.default_rng(1), start=(before, np.zeros(6, np.float32)))[0],
    ):
        assert nearest(before, again)[0].tolist() == list(range(6))
