"""Recall of an index against exact search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError
from ml.index.build import exact_search, search

_TOLERANCE = 1e-5


def recall_against_exact(
    index: Any,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int = 100,
    bounds: NDArray[np.float32] | None = None,
) -> float:
    """Return the share of the true top ``k`` that the index finds.

    An item counts when its true inner product reaches the k-th best one, so that ties do not count against an
    index; scores are recomputed from ``vectors`` and never taken from the index.

    Parameters
    ----------
    index
        A FAISS index whose item ids are row numbers of ``vectors``.
    vectors
        ``[n_items, d]`` float32, what the index should hold.
    queries
        ``[n, d]`` float32.
    k
        Depth; cut to the number of items.
    bounds
        float32 [n], the k-th best inner product of each query, where it is known from an earlier call of
        :func:`~ml.index.build.exact_search`.
    """
    k = min(k, len(vectors))
    if len(queries) == 0:
        raise ArtifactError("recall needs at least one query")
    if bounds is None:
        bounds = exact_search(vectors, queries, k)[:, -1]
    items, _ = search(index, queries, k)
    found = 0
    for query, row, bound in zip(queries, items, bounds, strict=True):
        unique = np.unique(row[(row >= 0) & (row < len(vectors))])
        slack = _TOLERANCE * max(1.0, abs(float(bound)))
        found += min(k, int(np.sum(vectors[unique] @ query >= bound - slack)))
    return found / (k * len(queries))


def verify_index(
    index: Any, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, target: float
) -> tuple[bool, float, str]:
    """Compare an index with exact search; return whether it passes, its recall, and one line that says why."""
    if index.ntotal != len(vectors):
        return False, 0.0, f"index holds {index.ntotal} vectors, the catalogue {len(vectors)}"
    recall = recall_against_exact(index, vectors, queries, k)
    verdict = "reaches" if recall >= target else "is below"
    return recall >= target, recall, f"recall@{k} {recall:.4f} {verdict} {target}"
