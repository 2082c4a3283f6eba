"""Search in an item index, of all items or of those that a filter lets through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError

_FEW_REFUSED = 64
"""So many refused items are asked for on top and dropped: cheaper than any selector, and as complete."""
_FEW_ALLOWED = 12_000
"""What an exact scan reads in the time of one search in an inverted file of 100,000, about 0.4 ms."""
_LEAST_SHARE = 50
"""Of an inverted file, one allowed item in so many: fewer, and the lists looked into hold too few of them."""
_ROWS_A_STEP = 50
"""Rows that an exact scan reads in the time that a graph search spends on one unit of ``efSearch``."""


@dataclass(frozen=True)
class Allowed:
    """Items that may come, made ready by :meth:`ItemSearch.prepare` for any number of searches.

    Parameters
    ----------
    mask
        bool [n_items].
    count
        How many may come.
    index
        What is searched.
    params
        How, as FAISS takes it; it holds the selector.
    more
        What is asked for on top, and dropped where it may not come.
    scans
        Whether all allowed items are scored.
    """

    mask: NDArray[np.bool_]
    count: int
    index: Any
    params: Any
    more: int = 0
    scans: bool = False


class ItemSearch:
    """Searches an index; threads may share it while nothing is appended.

    Parameters
    ----------
    index
        A FAISS index of any type that :func:`~ml.index.tune.tune_index` makes; item ids are row numbers.
    """

    def __init__(self, index: Any) -> None:
        faiss = _faiss()

        self.index = index
        self._searched = faiss.downcast_index(index)
        self._refine = None
        if isinstance(self._searched, faiss.IndexRefine):
            self._refine = self._searched
            self._searched = faiss.downcast_index(self._refine.base_index)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | Allowed | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ``k`` best items of each query.

        Parameters
        ----------
        queries
            ``[n, d]`` float32.
        k
            Items per query; where there are fewer, item -1 fills up.
        allowed
            Which items may come, bool [n_items]; one that is used again is better prepared once. None lets all.

        Returns
        -------
        items, scores
            ``[n, k]`` int64 and float32, best first.
        """
        if allowed is None:
            scores, items = self.index.search(queries, k)
            return items, scores
        ready = allowed if isinstance(allowed, Allowed) else self.prepare(allowed)
        if ready.index is None:
            return np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
        scores, items = ready.index.search(queries, k + ready.more, params=ready.params)
        return _without_refused(items, scores, k, ready.mask) if ready.more else (items, scores)

    def prepare(self, mask: NDArray[np.bool_]) -> Allowed:
        """Choose how to search among the allowed items, and make ready what that needs.

        A filter that refuses few is answered by asking for more. One that leaves few is answered by an exact scan over
        those, which is then both faster and complete: a graph walks past refused items, so that it must look the
        further the fewer are allowed, and an inverted file looks into a fixed number of lists.

        Parameters
        ----------
        mask
            bool [n_items].

        Raises
        ------
        ArtifactError
            If the index holds another number of items.
        """
        faiss = _faiss()

        if mask.shape != (len(self),):
            raise ArtifactError(f"a filter of {len(mask)} items for an index of {len(self)}")
        count = int(np.count_nonzero(mask))
        refused = len(mask) - count
        if refused <= _FEW_REFUSED:
            return Allowed(mask, count, self.index, None, refused)
        if not count:
            return Allowed(mask, 0, None, None)
        if count <= self.scanned_below():
            rows = faiss.IDSelectorArray(np.flatnonzero(mask))
            return Allowed(mask, count, self._exact(), faiss.SearchParameters(sel=rows), scans=True)
        bits = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        return Allowed(mask, count, self.index, self.filtered_by(bits, count / len(mask)))

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add items behind those that are there; masks that were prepared before do not fit any more."""
        self.index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def scanned_below(self) -> int:
        """Return for how many allowed items an exact scan is no slower than what the index does."""
        faiss = _faiss()

        n = len(self)
        if isinstance(self._searched, faiss.IndexHNSW):
            # The graph takes efSearch / share steps, and the scan share * n rows.
            return math.isqrt(int(self._searched.hnsw.efSearch) * _ROWS_A_STEP * n)
        if isinstance(self._searched, faiss.IndexIVF):
            return max(_FEW_ALLOWED, n // _LEAST_SHARE)
        # A scan by row number skips what it need not read; where most may come, testing a bit a row costs less.
        return n // 2

    def _exact(self) -> Any:
        """Return the full vectors that an index has with it, as a flat index."""
        faiss = _faiss()

        if self._refine is not None:
            return faiss.downcast_index(self._refine.refine_index)
        if isinstance(self._searched, faiss.IndexHNSW):
            return faiss.downcast_index(self._searched.storage)
        return self.index

    def filtered_by(self, selector: Any, share: float) -> Any:
        """Return parameters that search as hard as the index does by itself; given ones replace all of its own."""
        faiss = _faiss()

        if isinstance(self._searched, faiss.IndexHNSW):
            effort = math.ceil(int(self._searched.hnsw.efSearch) / share)
            return faiss.SearchParametersHNSW(sel=selector, efSearch=effort)
        if not isinstance(self._searched, faiss.IndexIVF):
            return faiss.SearchParameters(sel=selector)
        inner = faiss.SearchParametersIVF(sel=selector, nprobe=int(self._searched.nprobe))
        if self._refine is None:
            return inner
        return faiss.IndexRefineSearchParameters(k_factor=self._refine.k_factor, base_index_params=inner)


def _faiss() -> Any:
    """Return FAISS; its stubs do not know what its Python layer adds, keyword arguments of parameters above all."""
    import faiss

    return faiss


def _without_refused(
    items: NDArray[np.int64], scores: NDArray[np.float32], k: int, mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Move what may not come behind what may, and cut to ``k``."""
    refused = ~mask[items]
    refused[items < 0] = True
    order = np.argsort(refused, axis=1, kind="stable")[:, :k]
    gone = np.take_along_axis(refused, order, axis=1)
    items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)
    items[gone], scores[gone] = -1, -np.inf
    return items, scores
