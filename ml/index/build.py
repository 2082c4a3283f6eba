"""Build and search FAISS inner-product indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ml.artifacts import ArtifactError


class IndexSpec(BaseModel):
    """What to build and how hard to search.

    Parameters
    ----------
    factory
        A FAISS factory string: ``"Flat"``, ``"HNSW32"`` or ``"IVF256,PQ32x4fs,RFlat"``, for example.
    effort
        ``efSearch`` of an HNSW index, ``nprobe`` of an inverted file; without meaning, and ``None``, for an exact one.
    refine
        Of an index that ends in ``RFlat``: how many candidates are scored exactly for each item asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    factory: str
    effort: int | None = Field(default=None, ge=1)
    refine: int | None = Field(default=None, ge=1)

    def __str__(self) -> str:
        told = "nprobe" if "IVF" in self.factory else "ef"
        parts = [(told, self.effort), ("refine", self.refine)]
        return " ".join([self.factory, *(f"{name}={value}" for name, value in parts if value is not None)])


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
    set_effort(index, spec)
    return index


def set_effort(index: Any, spec: IndexSpec) -> None:
    """Let an index of the type of ``spec`` search as hard as it says; where it says nothing, nothing changes."""
    if spec.effort is None and spec.refine is None:
        return
    import faiss

    space = faiss.ParameterSpace()
    if spec.effort is not None:
        space.set_index_parameter(index, "nprobe" if "IVF" in spec.factory else "efSearch", spec.effort)
    if spec.refine is not None:
        space.set_index_parameter(index, "k_factor_rf", spec.refine)


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
