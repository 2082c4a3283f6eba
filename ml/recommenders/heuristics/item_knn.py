"""Item-to-item neighbours by the users whom they share; a user's recent items vote with theirs.

Sarwar et al., Item-based collaborative filtering recommendation algorithms, WWW 2001. Shrinkage as in Bell and Koren,
Scalable collaborative filtering with jointly derived neighborhood interpolation weights, ICDM 2007.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import (
    RecommenderParams,
    item_counts,
    top_k,
)
from ml.recommenders.edges import (
    EdgeRecommender,
    Graph,
    blocks,
    collect,
    recency_votes,
    relative,
    strongest,
)

if TYPE_CHECKING:
    from ml.snapshot import Catalogue


class ItemKNNParams(RecommenderParams):
    """Parameters of `ItemKNN`.

    Parameters
    ----------
    similarity
        Of two items with user sets A and B, a user ``u`` with ``n_u`` of the ``N`` items weighing
        ``idf = ln(1 + N / n_u)``. ``cosine``: ``|A & B| / (sqrt(|A| |B|) + shrinkage)``. ``jaccard``:
        ``|A & B| / (|A | B| + shrinkage)``. ``tfidf``: cosine of the idf-weighted sets. ``bm25``: inner product of
        ``idf (k1 + 1) / (k1 (1 - b + b |A| / mean) + 1)``, Robertson and Zaragoza 2009, over ``1 + shrinkage``.
    shrinkage
        The larger, the less is believed of items with few users in common.
    k1, b
        Of BM25 only.
    neighbours
        Neighbours that each item keeps.
    history
        Latest events of a user that are counted; bounds the time that one endless history can cost.
    recent
        Number of latest history items that vote.
    recency_decay
        Weight of the vote of the item ``a`` places before the last is ``recency_decay ** a``; 1 counts all alike.
    popularity
        Weight of popularity, relative to a query's best score. Small: it decides among items that nothing else
        speaks for.
    """

    similarity: Literal["cosine", "jaccard", "tfidf", "bm25"] = "cosine"
    shrinkage: float = Field(default=0.0, ge=0)
    k1: float = Field(default=1.2, ge=0)
    b: float = Field(default=0.75, ge=0, le=1)
    neighbours: int = Field(default=200, ge=1)
    history: int = Field(default=500, ge=2)
    recent: int = Field(default=50, ge=1)
    recency_decay: float = Field(default=1.0, gt=0, le=1)
    popularity: float = Field(default=1e-4, ge=0)


class ItemKNN(EdgeRecommender):
    """Recommend the neighbours of a user's items."""

    kind: ClassVar[str] = "item_knn"
    Params: ClassVar[type[RecommenderParams]] = ItemKNNParams

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Count; see `ml.recommenders.base.Recommender.fit`."""
        n_items = len(catalogue)
        self.graph = neighbours(split.train.tail(self.params.history), n_items, self.params)
        counts = item_counts(split.train, n_items).astype(np.float32)
        self.popularity = relative(counts[None])[0]
        return {"events": len(split.train.items), "edges": len(self.graph.targets)}

    def _scores(self, histories: Histories) -> NDArray[np.float32]:
        voters, votes = recency_votes(histories, self.params.recent, self.params.recency_decay)
        shape = (len(histories), len(self.popularity))
        scores = relative(collect(self.graph, voters.users, voters.items, votes, shape))
        scores += self.params.popularity * self.popularity
        return scores


def neighbours(train: Histories, n_items: int, params: ItemKNNParams) -> Graph:
    """Return the most similar items of each item, never itself."""
    keys = np.unique(train.users * n_items + train.items)
    users, items = keys // n_items, keys % n_items
    met = np.bincount(items, minlength=n_items).astype(np.float64)
    weight, norm = _weights(users, items, met, n_items, params)
    of_user = _rows(users, items, weight, len(train))
    order = np.argsort(items, kind="stable")
    of_item = _rows(items[order], users[order], weight[order], n_items)
    taken = np.bincount(items, of_user.offsets[users + 1] - of_user.offsets[users], n_items).astype(np.int64)
    parts = []
    for rows in blocks(taken):
        edges = slice(of_item.offsets[rows.start], of_item.offsets[rows.stop])
        place = items[order[edges]] - rows.start
        shape = (rows.stop - rows.start, n_items)
        common = collect(of_user, place, of_item.targets[edges], of_item.weights[edges], shape)
        if params.similarity == "jaccard":
            common /= np.maximum(met[rows, None] + met - common + params.shrinkage, 1)
        elif params.similarity == "bm25":
            common /= 1 + params.shrinkage
        else:
            common /= np.maximum(norm[rows, None] * norm + params.shrinkage, 1e-12)
        common[np.arange(shape[0]), np.arange(rows.start, rows.stop)] = 0
        parts.append(_best(common, rows.start, params.neighbours))
    source, target, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return strongest(source, target, value, n_items, params.neighbours)


def _weights(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    met: NDArray[np.float64],
    n_items: int,
    params: ItemKNNParams,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weight of each (user, item) pair, and the length of each item's row."""
    weight = np.ones(len(items))
    if params.similarity in ("tfidf", "bm25"):
        weight = np.log1p(n_items / np.bincount(users)[users])
    if params.similarity == "bm25":
        length = met / max(met[met > 0].mean(), 1) if len(items) else met
        weight = weight * (params.k1 + 1) / (params.k1 * (1 - params.b + params.b * length[items]) + 1)
    return weight, np.sqrt(np.bincount(items, weight**2, n_items))


def _rows(
    sources: NDArray[np.int64], targets: NDArray[np.int64], weight: NDArray[np.float64], n: int
) -> Graph:
    """Make a graph of edges that are sorted by source already."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=n))]).astype(np.int64)
    return Graph(offsets, targets.astype(np.int32), weight.astype(np.float32))


def _best(
    block: NDArray[np.float32], first: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return source, target and weight of the positive edges among the ``most`` best of each row."""
    import torch

    found, values = top_k(torch.from_numpy(block), min(most, block.shape[1]))
    row, column = np.nonzero(values > 0)
    return row + first, found[row, column].astype(np.int64), values[row, column]
