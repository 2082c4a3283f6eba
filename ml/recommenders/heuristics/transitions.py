"""The training-free bar: what followed, and preceded, a user's recent items in other histories.

Pairs of items at a distance of at most ``window`` places in a training history are counted, nearer pairs more; a
candidate collects the (normalised) counts of the recent items, later items more; popularity decides among the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ml.evaluation.splits import Split
from ml.histories import Histories, ranges
from ml.recommenders.base import (
    RecommenderParams,
    mask_history,
    read_params,
    read_weights,
    top_k,
    write_config,
    write_weights,
)
from ml.recommenders.heuristics.popularity import popularity

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

#: Rows of a dense score matrix made at once: 512 x 100,000 items x 8 bytes is 400 MB.
_ROWS = 512


class TransitionsParams(RecommenderParams):
    """Parameters of `Transitions`, all fixed on validation data.

    Parameters
    ----------
    window
        Greatest distance, in places, of two items that are counted as a pair.
    skip_decay
        Weight of a pair at distance s is ``skip_decay ** (s - 1)``.
    backward
        Weight of the pair read backwards (what preceded the item).
    source_norm, target_norm
        A count is divided by ``events(source) ** source_norm * events(target) ** target_norm``.
    recent
        Number of latest history items that vote.
    recency_decay
        Weight of the vote of the item ``a`` places before the last is ``recency_decay ** a``.
    neighbours
        Strongest targets kept for each item; bounds memory and time.
    similarity
        Weight of cosine similarity to the recency-weighted mean of the voters' vectors, where the catalogue has
        vectors; relative to a query's best transition score.
    popularity
        Weight of popularity, relative likewise. Small: it decides among items that nothing else speaks for.
    half_life_days
        Age at which an event counts half in that popularity; None counts all alike.
    """

    window: int = Field(default=10, ge=1)
    skip_decay: float = Field(default=0.85, gt=0, le=1)
    backward: float = Field(default=0.25, ge=0)
    source_norm: float = Field(default=0.5, ge=0)
    target_norm: float = Field(default=0.0, ge=0)
    recent: int = Field(default=20, ge=1)
    recency_decay: float = Field(default=0.5, gt=0, le=1)
    neighbours: int = Field(default=1000, ge=1)
    similarity: float = Field(default=0.0, ge=0)
    popularity: float = Field(default=1e-4, ge=0)
    half_life_days: float | None = Field(default=None, gt=0)


class Transitions:
    """Recommend by counted item-to-item transitions."""

    kind: ClassVar[str] = "transitions"
    Params: ClassVar[type[RecommenderParams]] = TransitionsParams
    training_free: ClassVar[bool] = True

    def __init__(self, params: TransitionsParams) -> None:
        self.params = params
        self.offsets = np.zeros(1, dtype=np.int64)
        self.targets = np.zeros(0, dtype=np.int32)
        self.weights = np.zeros(0, dtype=np.float32)
        self.popularity = np.zeros(0, dtype=np.float32)
        self.vectors = np.zeros((0, 0), dtype=np.float32)

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Count; see `ml.recommenders.base.Recommender.fit`."""
        n_items = len(catalogue)
        source, target, weight = count_pairs(split.train, n_items, self.params)
        self.offsets, self.targets, self.weights = strongest(
            source, target, weight, n_items, self.params.neighbours
        )
        self.popularity = popularity(split.train, n_items, self.params.half_life_days)
        self.popularity /= max(float(self.popularity.max(initial=0)), 1e-30)
        self.vectors = self._unit(catalogue)
        return {"events": len(split.train.items), "pairs": len(self.targets)}

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        items = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        for start in range(0, len(histories), _ROWS):
            rows = slice(start, start + _ROWS)
            some = histories.rows(rows)
            dense = torch.from_numpy(self._scores(some))
            if exclude_history:
                mask_history(dense, some)
            items[rows], scores[rows] = top_k(dense, k)
        return items, scores

    def item_vectors(self) -> None:
        """Return None: the scores are no inner product of small vectors."""
        return None

    def query_vectors(self, histories: Histories) -> None:
        """Return None, as there are no item vectors."""
        return None

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        names = ("offsets", "targets", "weights", "popularity")
        write_weights(folder, {name: getattr(self, name) for name in names})
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, TransitionsParams))
        for name, tensor in read_weights(folder).items():
            setattr(made, name, tensor)
        made.vectors = made._unit(catalogue)
        return made

    def _unit(self, catalogue: Catalogue) -> NDArray[np.float32]:
        """Return the catalogue's vectors at unit length, or none where they have no weight."""
        if not self.params.similarity:
            return np.zeros((len(catalogue), 0), dtype=np.float32)
        norms = np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = catalogue.vectors / np.maximum(norms, 1e-12)
        return unit

    def _scores(self, histories: Histories) -> NDArray[np.float32]:
        """Score every item, float32 [n, n_items]; each row's best transition is 1."""
        n, n_items = len(histories), len(self.popularity)
        voters = histories.tail(self.params.recent)
        age = np.repeat(voters.offsets[1:], voters.lengths) - 1 - np.arange(len(voters.items))
        votes = self.params.recency_decay**age
        starts = self.offsets[voters.items]
        degrees = self.offsets[voters.items + 1] - starts
        pairs = ranges(starts, degrees)
        cells = np.repeat(voters.users * n_items, degrees) + self.targets[pairs]
        collected = np.bincount(cells, self.weights[pairs] * np.repeat(votes, degrees), n * n_items)
        scores = collected.astype(np.float32).reshape(n, n_items)
        scores /= np.maximum(scores.max(axis=1, keepdims=True, initial=0), 1e-30)
        scores += self.params.popularity * self.popularity
        if self.vectors.shape[1]:
            scores += self.params.similarity * self._similarity(voters, votes)
        return scores

    def _similarity(self, voters: Histories, votes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the cosine of each query's mean voter with every item, float32 [n, n_items]."""
        mean = torch.zeros(len(voters), self.vectors.shape[1])
        weighted = self.vectors[voters.items] * votes[:, None].astype(np.float32)
        mean.index_add_(0, torch.from_numpy(voters.users), torch.from_numpy(weighted))
        mean = torch.nn.functional.normalize(mean, dim=1)
        cosine: NDArray[np.float32] = (mean @ torch.from_numpy(self.vectors).T).numpy()
        return cosine


def count_pairs(
    train: Histories, n_items: int, params: TransitionsParams
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Count item pairs within the window, both directions, and normalise.

    Returns
    -------
    Source, target (int64, sorted by source then target, each pair once, never an item with itself) and weight
    float64, all [n_pairs].
    """
    users, items = train.users, train.items.astype(np.int64)
    keys, weights = [], []
    for skip in range(1, params.window + 1):
        same = users[skip:] == users[:-skip]
        early, late = items[:-skip][same], items[skip:][same]
        weight = params.skip_decay ** (skip - 1)
        keys += [early * n_items + late, late * n_items + early]
        weights += [np.full(len(early), weight), np.full(len(early), weight * params.backward)]
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    count = np.bincount(place, np.concatenate(weights), len(key))
    source, target = key // n_items, key % n_items
    events = np.maximum(np.bincount(items, minlength=n_items), 1).astype(np.float64)
    weight = count / (events[source] ** params.source_norm * events[target] ** params.target_norm)
    keep = (source != target) & (weight > 0)
    return source[keep], target[keep], weight[keep]


def strongest(
    source: NDArray[np.int64], target: NDArray[np.int64], weight: NDArray[np.float64], n_items: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Keep the ``most`` heaviest targets of each source (equal weights: the lower target).

    Returns
    -------
    Offsets int64 [n_items + 1], targets int32 and weights float32, heaviest first within a source.
    """
    order = np.lexsort((target, -weight, source))
    source, target, weight = source[order], target[order], weight[order]
    starts = np.searchsorted(source, np.arange(n_items + 1))
    keep = np.arange(len(source)) - starts[source] < most
    counts = np.bincount(source[keep], minlength=n_items)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return offsets, target[keep].astype(np.int32), weight[keep].astype(np.float32)
