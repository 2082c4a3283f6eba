"""K-means in blocks, the same bytes every time: by Lloyd's iteration, by mini-batches, balanced.

The first centres are drawn as in Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding" (SODA 2007),
in the plane of most variance. They are refined in more and more dimensions, after Liu, Lu and Shao, "Improved Residual
Vector Quantization" (arXiv:1509.05195), and shaken less and less meanwhile, as in Zeger, Vaisey and Gersho, "Globally
Optimal Vector Quantizer Design by Stochastic Relaxation" (IEEE Trans. Signal Processing, 1992). Mini-batches are those
of Sculley, "Web-Scale K-Means Clustering" (WWW 2010).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16
# The start needs a picture of the data, not all of it.
_START_ROWS_PER_CENTRE = 64
_START_STAGES, _STAGE_ITERATIONS, _MOST_AXES = 5, 20, 96
# Of the root mean square distance of a point from its centre along one axis.
_JITTER = 0.3
# Steps of the offsets of balanced centres between two moves of these.
_BALANCE_STEPS = 60


def kmeans(
    vectors: NDArray[np.float32],
    n_centres: int,
    rng: np.random.Generator,
    iterations: int = 25,
    start: NDArray[np.float32] | None = None,
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
    start
        Centres ``[n_centres, d]`` to begin from; drawn if not given.

    Returns
    -------
    NDArray[np.float32]
        Centres ``[n_centres, d]``. A centre that loses its points is moved to the point that is farthest from its
        own centre, so centres coincide only where there are fewer distinct vectors than centres.
    """
    return _lloyd(vectors, _start(vectors, n_centres, rng) if start is None else start, iterations)


def _lloyd(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], iterations: int
) -> NDArray[np.float32]:
    before = np.inf
    for _ in range(iterations):
        codes, distances = nearest(vectors, centres)
        error = float(distances.mean(dtype=np.float64))
        if error >= before * (1 - 1e-4):
            break
        before = error
        centres = _means(vectors, codes, distances, centres)
    return centres


def minibatch_kmeans(
    vectors: NDArray[np.float32],
    n_centres: int,
    rng: np.random.Generator,
    batch: int,
    passes: int,
    start: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Cluster more vectors than Lloyd's iteration has time for.

    Every centre is the mean of all points that ever chose it during the present pass and half of those of the passes
    before, so that early, worse choices fade.

    Parameters
    ----------
    vectors, n_centres, rng, start
        As in `kmeans`.
    batch
        Rows of a step.
    passes
        How often every row takes part.

    Returns
    -------
    NDArray[np.float32]
        Centres ``[n_centres, d]``. A centre that nobody chose in a pass is moved to the farthest point of the last
        batch.
    """
    centres = (_start(vectors, n_centres, rng) if start is None else start).copy()
    # Given centres count as if they had seen everything once; drawn ones are single points.
    weights = np.full(n_centres, 0.0 if start is None else len(vectors) / n_centres)
    for step in range(passes):
        weights /= 2
        chosen = np.zeros(n_centres, np.int64)
        order = rng.permutation(len(vectors))
        for first in range(0, len(vectors), batch):
            rows = vectors[np.sort(order[first : first + batch])]
            codes, distances = nearest(rows, centres)
            counts = np.bincount(codes, minlength=n_centres)
            weights += counts
            rate = (counts / np.maximum(weights, 1e-12)).astype(np.float32)[:, None]
            centres += rate * (_sums(rows, codes, n_centres) / np.maximum(counts, 1)[:, None] - centres)
            chosen += counts
        empty = np.flatnonzero(chosen == 0)[: len(rows)]
        if len(empty) and step < passes - 1:
            centres[empty] = rows[np.argsort(-distances, kind="stable")[: len(empty)]]
            weights[empty] = 0
    return centres


def balanced_kmeans(
    vectors: NDArray[np.float32],
    n_centres: int,
    rng: np.random.Generator,
    iterations: int = 25,
    start: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cluster vectors into clusters of nearly equal size.

    OneRec (arXiv:2502.18965) fills one cluster after the other with what is nearest of the rest, which
    leaves the last ones with what nobody wanted. Here each centre has an offset that is added to squared distances: of
    all assignments to clusters of given sizes, the one of least distance is of that form (the dual of the transport
    problem). What is more, an item that was not there in fitting is assigned by the same rule.

    Parameters
    ----------
    vectors, n_centres, rng, iterations
        As in `kmeans`.
    start
        Centres and offsets to begin from.

    Returns
    -------
    centres
        float32 [n_centres, d].
    offsets
        float32 [n_centres], what `nearest` adds to squared distances; their mean is 0.
    """
    if start is None:
        start = _start(vectors, n_centres, rng), np.zeros(n_centres, np.float32)
    centres, offsets = start
    scale = float(nearest(vectors, centres)[1].mean(dtype=np.float64))
    for step in range(iterations):
        offsets, even = _balance(vectors, centres, offsets, scale, _BALANCE_STEPS, 0.05)
        codes, _ = nearest(vectors, centres, offsets)
        counts = np.bincount(codes, minlength=n_centres)[:, None].astype(np.float32)
        # A centre that nobody chose stays: its offset will bring somebody.
        moved = np.where(counts > 0, _sums(vectors, codes, n_centres) / np.maximum(counts, 1), centres)
        far = float(np.square(moved - centres).sum(axis=1).mean())
        centres = moved
        if even and step and far < 1e-4 * scale:
            break
    return centres, _balance(vectors, centres, offsets, scale, 5 * _BALANCE_STEPS, 0)[0]


def nearest(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    offsets: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find each vector's nearest centre, the lower index where two are equally near.

    Parameters
    ----------
    vectors
        float32 [n, d].
    centres
        float32 [k, d].
    offsets
        float32 [k], added to the squared distances when they are compared (not to those that are returned).

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
    if offsets is not None:
        half = half + 0.5 * offsets
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        closeness = block @ centres.T
        closeness -= half
        best = closeness.argmax(axis=1)
        closest = closeness[np.arange(len(block)), best]
        if offsets is not None:
            closest += 0.5 * offsets[best]
        codes[start : start + _BLOCK] = best
        squares = np.einsum("nd,nd->n", block, block)
        distances[start : start + _BLOCK] = np.maximum(squares - 2 * closest, 0)
    return codes, distances


def _start(vectors: NDArray[np.float32], n_centres: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Cluster a sample along its first two principal axes, then along more and more of them."""
    sample = subset(vectors, _START_ROWS_PER_CENTRE * n_centres, rng)
    mean = sample.mean(axis=0)
    sample = sample - mean
    width = sample.shape[1]
    stages = np.unique(np.geomspace(min(2, width), min(_MOST_AXES, width), _START_STAGES).astype(int))
    axes = _principal_axes(sample, int(stages[-1]), rng)
    turned = sample @ axes
    centres = _plus_plus(turned[:, : stages[0]], n_centres, rng)
    for stage in stages:
        centres = np.pad(centres, ((0, 0), (0, stage - centres.shape[1])))
        centres = _relax(np.ascontiguousarray(turned[:, :stage]), centres, rng)
    return np.ascontiguousarray(centres @ axes.T + mean)


def _principal_axes(
    centred: NDArray[np.float32], count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return about the first axes [width, count], by subspace iteration: vectors may be thousands of columns wide."""
    basis = rng.standard_normal((centred.shape[1], count), np.float32)
    for _ in range(3):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    turned = centred @ basis
    inner: NDArray[np.float32] = np.linalg.eigh(turned.T @ turned)[1][:, ::-1]
    return basis @ inner


def subset(vectors: NDArray[np.float32], rows: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return at most so many rows, drawn without replacement, in their order."""
    if len(vectors) <= rows:
        return vectors
    return vectors[np.sort(rng.choice(len(vectors), rows, replace=False))]


def _relax(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Run Lloyd's iteration with noise on the centres that falls to nothing: fewer of them settle where they stand."""
    for step in range(_STAGE_ITERATIONS):
        codes, distances = nearest(vectors, centres)
        centres = _means(vectors, codes, distances, centres)
        width = np.sqrt(distances.mean(dtype=np.float64) / vectors.shape[1])
        fall = 1 - (step + 1) / _STAGE_ITERATIONS
        noise = rng.standard_normal(centres.shape, np.float32)
        centres = centres + noise * np.float32(_JITTER * width * fall)
    return centres


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


def _sums(vectors: NDArray[np.float32], codes: NDArray[np.int32], n_centres: int) -> NDArray[np.float32]:
    from scipy.sparse import csr_array

    n = len(vectors)
    # One entry a row of the transpose, so that nothing needs sorting.
    chosen = csr_array((np.ones(n, np.float32), codes, np.arange(n + 1)), shape=(n, n_centres))
    return np.asarray(chosen.T @ vectors, np.float32)


def _means(
    vectors: NDArray[np.float32],
    codes: NDArray[np.int32],
    distances: NDArray[np.float32],
    centres: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Move every centre to the mean of its points."""
    counts = np.bincount(codes, minlength=len(centres))
    moved = _sums(vectors, codes, len(centres)) / np.maximum(counts, 1)[:, None].astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        moved[empty[: len(farthest)]] = vectors[farthest]
    return np.asarray(moved, np.float32)


def _balance(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    offsets: NDArray[np.float32],
    scale: float,
    steps: int,
    slack: float,
) -> tuple[NDArray[np.float32], bool]:
    """Raise the offsets of centres that are chosen too often, lower the others', and tell whether sizes are within slack.

    How far is left to each centre: its step grows while the sign of its error stays and is halved when that turns
    (Riedmiller and Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm", 1993).
    """
    k, wanted = len(centres), len(vectors) / len(centres)
    closeness = vectors @ centres.T - 0.5 * np.einsum("kd,kd->k", centres, centres)
    step, before = np.full(k, 0.05 * scale), np.zeros(k)
    best, least = offsets, np.inf
    for _ in range(steps):
        gap = np.bincount((closeness - 0.5 * offsets).argmax(axis=1), minlength=k) - wanted
        worst = float(np.abs(gap).max())
        if worst < least:
            best, least = offsets, worst
        if least <= max(1, slack * wanted):
            break
        # One item more or less is as even as it gets.
        sign = np.sign(np.where(np.abs(gap) < 1, 0, gap))
        step *= np.where(sign * before < 0, 0.5, np.where(sign * before > 0, 1.2, 1.0))
        # Without a bound, centres among far outliers overshoot, and everything falls to them.
        step = np.minimum(step, 0.2 * scale)
        before = sign
        offsets = (offsets + step * sign).astype(np.float32)
    return best - best.mean(dtype=np.float32), least <= max(1, slack * wanted)
