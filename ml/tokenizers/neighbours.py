"""Nearest neighbours by vectors and by codes, with ties told exactly: what a random order of them gives on average."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 20_000
# Cosines of equal vectors differ by rounding.
_TOLERANCE = 1e-5


def sample_rows(n: int, seed: int, queries: int = 500) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the items that neighbours are sought among, at most 20,000, and the places in them that are asked about.

    Returns
    -------
    candidates
        int64 [m], rising rows below ``n``.
    queries
        int64 [q], rising places below ``m``.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(n) if n <= CANDIDATES else np.sort(rng.choice(n, CANDIDATES, replace=False))
    return rows, np.sort(rng.choice(len(rows), min(queries, len(rows)), replace=False))


def cosine(vectors: NDArray[np.float32], queries: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the cosine of each query row with each row, float32 [q, n]; a query with itself is -inf."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return _without_self(unit[queries] @ unit.T, queries)


def code_similarity(
    codes: NDArray[np.int32], queries: NDArray[np.int64], ordered: bool
) -> NDArray[np.float32]:
    """Count what each query's codes have in common with each row's.

    Parameters
    ----------
    codes
        int32 [n, levels].
    queries
        int64 [q], rows.
    ordered
        Whether a prefix means something: then the length of the common prefix counts, else the number of equal codes.

    Returns
    -------
    NDArray[np.float32]
        ``[q, n]``; a query with itself is -inf.
    """
    alike = np.zeros((len(queries), len(codes)), np.float32)
    equal = np.ones(alike.shape, bool)
    for column in codes.T:
        same = column[queries][:, None] == column[None, :]
        equal = equal & same if ordered else same
        alike += equal
    return _without_self(alike, queries)


def inclusion(similarity: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the chance that each column is among the ``k`` most similar of its row, ties in random order.

    Parameters
    ----------
    similarity
        float32 [q, n], -inf for what is no candidate.
    k
        Below the number of candidates of every row.

    Returns
    -------
    NDArray[np.float32]
        ``[q, n]``; each row sums to ``k``.
    """
    last = np.partition(similarity, -k, axis=1)[:, -k:].min(axis=1, keepdims=True)
    above = similarity > last + _TOLERANCE
    tied = (similarity >= last - _TOLERANCE) & ~above
    left = k - above.sum(axis=1, keepdims=True)
    return np.asarray(above + tied * (left / tied.sum(axis=1, keepdims=True)), np.float32)


def overlap(left: NDArray[np.float32], right: NDArray[np.float32], k: int) -> float:
    """Return the mean share of ``k`` neighbours that two similarities [q, n] have in common.

    Ties of either side are in random order, independent of the other's; the result is the expected value, not a draw.
    """
    common = (inclusion(left, k) * inclusion(right, k)).sum(axis=1, dtype=np.float64)
    return float(common.mean() / k)


def break_ties(similarity: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Add to similarities by codes [q, n] an order of the columns that is the same for every row and every call."""
    rank = np.random.default_rng(seed).permutation(similarity.shape[1])
    return np.asarray(similarity + rank / (2 * len(rank)), np.float32)


def _without_self(similarity: NDArray[np.float32], queries: NDArray[np.int64]) -> NDArray[np.float32]:
    similarity[np.arange(len(queries)), queries] = -np.inf
    return similarity
