"""Collaborative item IDs: the path of an item in clusters of clusters of what is consumed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError
from ml.tokenizers.base import TokenizerParams, pack
from ml.tokenizers.indexing.base import IndexTokenizer, rows_of
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Below this, all eigenvectors cost less than a few.
_DENSE = 400
# With few clusters, one k-means may take two for one; the best of some does so less often.
_TRIALS = 5


class CollaborativeIndexParams(TokenizerParams):
    """Parameters of `CollaborativeIndex`.

    Parameters
    ----------
    levels
        Most clusters of a path.
    code_size
        Clusters that a cluster is split into.
    leaf
        A cluster of at most so many items is not split.
    """

    levels: Annotated[int, Field(ge=1, le=64)] = 3
    code_size: Annotated[int, Field(ge=2, le=65536)] = 16
    leaf: Annotated[int, Field(ge=1)] = 16


class CollaborativeIndex(IndexTokenizer):
    """Codes are the numbers of clusters within clusters by spectral clustering of transitions, both ways counted.

    Below a cluster that is not split, codes are 0. An item that was not there in fitting joins the path that holds most
    of the weight of its pairs; an item without pairs has a first code of its own, ``code_size``, and then 0.

    Spectral clustering after Ng, Jordan and Weiss (NIPS 2001), degrees regularised after Qin and Rohe (NIPS 2013) for
    graphs as sparse as these.
    """

    kind: ClassVar[str] = "collaborative_index"
    Params: ClassVar[type[TokenizerParams]] = CollaborativeIndexParams

    def _fit(
        self, items: ItemData, seed: int, start: Self | None
    ) -> tuple[list[int], dict[str, NDArray[Any]]]:
        if items.pairs is None:
            raise ArtifactError("there are no pairs of the items")
        graph = (items.pairs + items.pairs.T).tocsr()
        paths = np.zeros((len(items), self.params.levels), np.int32)
        paired = np.asarray(graph.sum(axis=1)).ravel() > 0
        paths[~paired, 0] = self.params.code_size
        before = _paths_before(items, start, self.params)
        self._split(graph, np.flatnonzero(paired), 0, paths, before, np.random.default_rng(seed))
        sizes = [self.params.code_size + 1] + [self.params.code_size] * (self.params.levels - 1)
        return sizes, {"paths": paths, **pack(items.item_ids)}

    def _split(
        self,
        graph: csr_array,
        rows: NDArray[np.int64],
        level: int,
        paths: NDArray[np.int32],
        before: NDArray[np.int32],
        rng: np.random.Generator,
    ) -> None:
        """Write the codes of some rows from a level on."""
        if level == self.params.levels or len(rows) <= self.params.leaf:
            return
        labels = spectral_clusters(graph[rows][:, rows], min(self.params.code_size, len(rows)), rng)
        paths[rows, level] = _renumbered(labels, before[rows, level], self.params.code_size)
        for code in np.unique(paths[rows, level]):
            self._split(graph, rows[paths[rows, level] == code], level + 1, paths, before, rng)

    def _encode(self, items: ItemData, state: dict[str, NDArray[Any]]) -> NDArray[Any]:
        paths = state["paths"]
        found = rows_of(state, items)
        known, new = np.flatnonzero(found >= 0), np.flatnonzero(found < 0)
        codes = np.zeros((len(items), self.params.levels), np.int32)
        codes[:, 0] = self.params.code_size
        codes[known] = paths[found[known]]
        # Only an item that has pairs itself can say what it is paired with.
        known = known[codes[known, 0] < self.params.code_size]
        if items.pairs is not None and len(new) and len(known):
            weights = (items.pairs + items.pairs.T).tocsr()[new][:, known]
            codes[new] = _strongest(weights, codes[known], codes[new])
        return codes


def spectral_clusters(graph: csr_array, clusters: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Cluster the nodes of a graph.

    Parameters
    ----------
    graph
        Symmetric weights [n, n].
    clusters
        Number of clusters, at most ``n``.
    rng
        Source of every random choice.

    Returns
    -------
    NDArray[np.int32]
        Cluster of each node, int32 [n].
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh

    n = graph.shape[0]
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = diags_array(1 / np.sqrt(degrees + max(degrees.mean(), 1e-12)))
    normalised = scale @ graph @ scale
    if n <= max(_DENSE, 4 * clusters):
        vectors = np.linalg.eigh(normalised.toarray())[1][:, -clusters:]
    else:
        vectors = eigsh(normalised, k=clusters, which="LA", v0=rng.normal(size=n), tol=1e-4)[1]
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rows = np.ascontiguousarray(vectors, np.float32)
    found = [nearest(rows, kmeans(rows, clusters, rng)) for _ in range(_TRIALS)]
    return min(found, key=lambda one: float(one[1].sum()))[0]


def _strongest(
    weights: csr_array, paths: NDArray[np.int32], otherwise: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the path [new, levels] that holds most of each row's weight [new, known]; the given one without any."""
    from scipy.sparse import csr_array

    distinct, which = np.unique(paths, axis=0, return_inverse=True)
    member = csr_array(
        (np.ones(len(paths)), (np.arange(len(paths)), which.ravel())), (len(paths), len(distinct))
    )
    held = (weights @ member).tocsr()
    any_held = np.asarray(held.sum(axis=1)).ravel() > 0
    best = np.asarray(held.argmax(axis=1)).ravel()
    return np.where(any_held[:, None], distinct[best], otherwise)


def _paths_before(
    items: ItemData, start: CollaborativeIndex | None, params: CollaborativeIndexParams
) -> NDArray[np.int32]:
    """Return the codes [n, levels] that items had; -1 where there are none."""
    paths = np.full((len(items), params.levels), -1, np.int32)
    if start is None:
        return paths
    if (start.params.levels, start.params.code_size) != (params.levels, params.code_size):
        raise ArtifactError(
            f"{start.kind}: the tokenizer to begin from has other levels or another code_size"
        )
    found = rows_of(start._state, items)
    paths[found >= 0] = start._state["paths"][found[found >= 0]]
    return paths


def _renumbered(labels: NDArray[np.int32], before: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Give clusters the numbers under which most of their items stay where they were."""
    from scipy.optimize import linear_sum_assignment

    shared = np.zeros((size, size))
    there = (before >= 0) & (before < size)
    np.add.at(shared, (labels[there], before[there]), 1)
    numbers = linear_sum_assignment(shared, maximize=True)[1]
    return numbers[labels].astype(np.int32)
