"""K-means by Lloyd's iteration from a k-means++ start, in blocks, the same bytes every time.

Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding" (SODA 2007).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16
# The start needs a picture of the data, not all of it: its cost is one pass over the sample for every centre.
_START_ROWS_PER_CENTRE = 16


def kmeans(
    vectors: NDArray[np.float32], n_centres: int, rng: np.random.Generator, iterations: int = 25
) -> NDArray[np.float32]:
    """Cluster vectors.

    Parameters
    ----------
    vectors
        float32 [n, d], at least ``n_centres`` rows.
    n_centres
        Number of clusters.
    rng
        Source of every random choice.
    iterations
        Most iterations; fewer where the mean distance has stopped falling.

    Returns
    -------
    NDArray[np.float32]
        Centres ``[n_centres, d]``. A centre that loses its points is moved to the point that is farthest from its
        own centre, so centres coincide only where there are fewer distinct vectors than centres.
    """
    sample = _subset(vectors, _START_ROWS_PER_CENTRE * n_centres, rng)
    centres = _plus_plus(sample, n_centres, rng)
    before = np.inf
    for _ in range(iterations):
        codes, distances = nearest(vectors, centres)
        error = float(distances.mean(dtype=np.float64))
        if error >= before * (1 - 1e-4):
            break
        before = error
        centres = _means(vectors, codes, distances, centres)
    return centres


def nearest(
    vectors: NDArray[np.float32], centres: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find each vector's nearest centre, the lower index where two are equally near.

    Returns
    -------
    codes
        int32 [n].
    distances
        Squared Euclidean distance to that centre, float32 [n].
    """
    codes = np.empty(len(vectors), np.int32)
    distances = np.empty(len(vectors), np.float32)
    half = 0.5 * np.einsum("kd,kd->k", centres, centres)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        closeness = block @ centres.T - half
        best = closeness.argmax(axis=1)
        closest = closeness[np.arange(len(block)), best]
        codes[start : start + _BLOCK] = best
        squares = np.einsum("nd,nd->n", block, block)
        distances[start : start + _BLOCK] = np.maximum(squares - 2 * closest, 0)
    return codes, distances


def _subset(vectors: NDArray[np.float32], rows: int, rng: np.random.Generator) -> NDArray[np.float32]:
    if len(vectors) <= rows:
        return vectors
    return vectors[np.sort(rng.choice(len(vectors), rows, replace=False))]


def _plus_plus(vectors: NDArray[np.float32], n_centres: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw centres one by one, each with a chance proportional to its squared distance to the nearest so far."""
    centres = np.empty((n_centres, vectors.shape[1]), np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    distances = np.full(len(vectors), np.inf)
    pick = int(rng.integers(len(vectors)))
    for place in range(n_centres):
        centres[place] = vectors[pick]
        to_pick = squares - 2 * (vectors @ vectors[pick]) + squares[pick]
        distances = np.minimum(distances, np.maximum(to_pick, 0))
        distances[pick] = 0
        cumulative = np.cumsum(distances)
        if cumulative[-1] > 0:
            pick = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
            pick = min(pick, len(vectors) - 1)
        else:
            pick = int(rng.integers(len(vectors)))
    return centres


def _means(
    vectors: NDArray[np.float32],
    codes: NDArray[np.int32],
    distances: NDArray[np.float32],
    centres: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Move every centre to the mean of its points."""
    from scipy.sparse import csr_array

    n, k = len(vectors), len(centres)
    members = csr_array((np.ones(n, np.float32), (codes, np.arange(n))), shape=(k, n))
    counts = np.bincount(codes, minlength=k)
    moved = (members @ vectors) / np.maximum(counts, 1)[:, None].astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        moved[empty[: len(farthest)]] = vectors[farthest]
    return np.asarray(moved, np.float32)
