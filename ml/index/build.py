"""Build and search FAISS inner-product indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ml.artifacts import ArtifactError


class IndexSpec(BaseModel):
    """What to build and how hard to search.

    Parameters
    ----------
    factory
        A FAISS factory string: ``"Flat"`` or ``"HNSW32"``, for example.
    effort
        ``efSearch`` of an HNSW index; without meaning, and ``None``, for an exact one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    factory: str
    effort: int | None = None

    def __str__(self) -> str:
        return self.factory if self.effort is None else f"{self.factory} ef={self.effort}"


def build_index(vectors: NDArray[np.float32], spec: IndexSpec) -> Any:
    """Build an inner-product index over ``vectors``.

    Parameters
    ----------
    vectors
        ``[n_items, d]`` float32; row number is item index.
    spec
        Type of index and search effort.

    Returns
    -------
    faiss.Index
        The same bytes for the same vectors: it is built by one thread.

    Raises
    ------
    ArtifactError
        If the vectors are empty or not finite.
    """
    import faiss

    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ArtifactError(f"cannot index vectors of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ArtifactError("cannot index vectors that hold NaN or infinity")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index = faiss.index_factory(vectors.shape[1], spec.factory, faiss.METRIC_INNER_PRODUCT)
        data = np.ascontiguousarray(vectors, dtype=np.float32)
        index.train(data)
        index.add(data)
    finally:
        faiss.omp_set_num_threads(threads)
    set_effort(index, spec.effort)
    return index


def set_effort(index: Any, effort: int | None) -> None:
    """Set ``efSearch`` of an HNSW index; does nothing when ``effort`` is ``None``."""
    if effort is not None:
        import faiss

        faiss.ParameterSpace().set_index_parameter(index, "efSearch", effort)


def search(index: Any, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ``k`` best items of each query.

    Parameters
    ----------
    index
        A FAISS index.
    queries
        ``[n, d]`` float32.
    k
        Items per query; where the index holds fewer, item -1 fills up.

    Returns
    -------
    items, scores
        ``[n, k]`` int64 and float32, best first.
    """
    scores, items = index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
    return items, scores


def exact_search(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the ``k`` highest inner products of each query by full scan, ``[n, k]`` float32, best first."""
    k = min(k, len(vectors))
    best = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), 256):
        scores = queries[start : start + 256] @ vectors.T
        best[start : start + 256] = -np.sort(-np.partition(scores, -k, axis=1)[:, -k:], axis=1)
    return best
