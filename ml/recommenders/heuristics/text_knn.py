"""Item-to-item neighbours by what the items say, sense and words alike; ranks what nobody has met yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import RecommenderParams, item_counts, top_k
from ml.recommenders.edges import (
    ROWS,
    EdgeRecommender,
    Graph,
    collect,
    recency_votes,
    relative,
    text_vectors,
)
from ml.recommenders.heuristics.text_similarity import whitened

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_WORD = re.compile(r"\w+")


class TextKNNParams(RecommenderParams):
    """Parameters of `TextKNN`.

    Parameters
    ----------
    whiten
        How far directions of the text vectors are evened out; see `ml.recommenders.heuristics.text_similarity`.
    words
        Weight of the cosine of titles as TF-IDF bags of words, beside 1 of that of text vectors.
    sharpness
        Of a mean cosine ``c`` a neighbour's edge weighs ``exp(sharpness * (c - 1))``: one near neighbour says more than
        several far ones.
    neighbours
        Neighbours that each item keeps.
    recent
        Number of latest history items that vote.
    recency_decay
        Weight of the vote of the item ``a`` places before the last is ``recency_decay ** a``.
    advance
        Factor on the score of items that nobody has met: the more, the more of them are shown, at the cost of others.
    popularity
        Weight of popularity, relative to a query's best score. Small: it decides among items that nothing else
        speaks for.
    """

    whiten: float = Field(default=0.7, ge=0, le=1)
    words: float = Field(default=1.0, ge=0)
    sharpness: float = Field(default=3.0, ge=0, le=50)
    neighbours: int = Field(default=500, ge=1)
    recent: int = Field(default=20, ge=1)
    recency_decay: float = Field(default=0.6, gt=0, le=1)
    advance: float = Field(default=1.0, gt=0)
    popularity: float = Field(default=1e-4, ge=0)


class TextKNN(EdgeRecommender):
    """Recommend what says the same as any of a user's recent items."""

    kind: ClassVar[str] = "text_knn"
    Params: ClassVar[type[RecommenderParams]] = TextKNNParams

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Compare; see `ml.recommenders.base.Recommender.fit`."""
        self.graph = neighbours(catalogue, self.params)
        counts = item_counts(split.train, len(catalogue)).astype(np.float32)
        self.popularity = relative(counts[None])[0]
        return {"edges": len(self.graph.targets)}

    def _scores(self, histories: Histories) -> NDArray[np.float32]:
        voters, votes = recency_votes(histories, self.params.recent, self.params.recency_decay)
        shape = (len(histories), len(self.popularity))
        scores = relative(collect(self.graph, voters.users, voters.items, votes, shape))
        scores *= np.where(self.popularity > 0, np.float32(1), np.float32(self.params.advance))
        scores += self.params.popularity * self.popularity
        return scores


def neighbours(catalogue: Catalogue, params: TextKNNParams) -> Graph:
    """Return the items nearest to each item, never itself; none for an item without text vector and words."""
    vectors = torch.from_numpy(whitened(text_vectors(catalogue), params.whiten))
    words = bags_of_words(catalogue.titles) if params.words else None
    n = len(catalogue)
    most = min(params.neighbours, max(n - 1, 0))
    targets, weights = np.zeros((n, most), np.int32), np.zeros((n, most), np.float32)
    for start in range(0, n, ROWS):
        rows = torch.arange(start, min(start + ROWS, n))
        alike = vectors[rows] @ vectors.T
        if words is not None:
            alike += params.words * (words @ words.index_select(0, rows).to_dense().T).T
        told = torch.where(alike > 0, torch.exp(params.sharpness * (alike / (1 + params.words) - 1)), 0.0)
        told[torch.arange(len(rows)), rows] = 0
        targets[rows], weights[rows] = top_k(told, most)
    kept = weights > 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    return Graph(offsets, targets[kept], weights[kept])


def bags_of_words(texts: Sequence[str]) -> torch.Tensor:
    """Return TF-IDF vectors of length 1, sparse float32 [n, words]: a word of one text alone tells of no other.

    A word is counted once a text and weighs ``ln(n / texts that have it)``; a plural counts as its singular.
    """
    numbers: dict[str, int] = {}
    bags = [
        sorted({numbers.setdefault(word.rstrip("s"), len(numbers)) for word in _WORD.findall(text.lower())})
        for text in texts
    ]
    row = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    column = np.array([number for bag in bags for number in bag], dtype=np.int64)
    having = np.bincount(column, minlength=len(numbers))
    weight = np.where(having > 1, np.log(len(texts) / np.maximum(having, 1)), 0.0)[column]
    length = np.sqrt(np.bincount(row, weight**2, minlength=len(bags)))[row]
    values = torch.from_numpy((weight / np.maximum(length, 1e-12)).astype(np.float32))
    places = torch.from_numpy(np.stack([row, column]))
    return torch.sparse_coo_tensor(
        places, values, (len(texts), max(len(numbers), 1)), is_coalesced=True, check_invariants=False
    )
