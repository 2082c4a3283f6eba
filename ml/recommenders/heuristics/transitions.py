"""The training-free bar: what followed, and preceded, a user's recent items in other histories.

Pairs of items at a distance of at most ``window`` places in a training history are counted, nearer pairs more; a
candidate collects the (normalised) counts of the recent items, later items more; popularity decides among the rest.

With the catalogue's text it is the strongest recommender here that is not trained: a transition counts more between
items that say alike, two transitions in a row reach further, and items that nobody has met are ranked by what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import (
    RecommenderParams,
    top_k,
)
from ml.recommenders.edges import (
    EdgeRecommender,
    collect,
    recency_votes,
    relative,
    strongest,
    text_vectors,
    weighted_mean,
)
from ml.recommenders.heuristics.popularity import popularity
from ml.recommenders.heuristics.text_similarity import whitened

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

#: Parameters that have no part in counting.
VOTING = frozenset(
    {"recent", "recency_decay", "day_decay", "two_hop", "hop_width", "similarity", "popularity", "again"}
)
_DAY_US = 86_400_000_000
_PAIRS = 50_000


class TransitionsParams(RecommenderParams):
    """Parameters of `Transitions`, all fixed on validation data.

    Parameters
    ----------
    window
        Greatest distance, in places, of two items that are counted as a pair.
    skip_decay
        Weight of a pair at distance s is ``skip_decay ** (s - 1)``.
    same_day
        A pair of the same day (UTC) counts so many times.
    backward
        Weight of the pair read backwards (what preceded the item).
    source_norm, target_norm
        A count is divided by ``events(source) ** source_norm * events(target) ** target_norm``.
    affinity
        A pair's weight is multiplied by ``exp(affinity * cosine)`` of the two items' text vectors.
    recent
        Number of latest history items that vote.
    recency_decay, day_decay
        Weight of the vote of the item ``a`` places before the last, on the ``d``-th last of the history's days
        (from 0), is ``recency_decay ** a * day_decay ** d``.
    neighbours
        Strongest targets kept for each item; bounds memory and time.
    two_hop
        Weight of what follows the ``hop_width`` best candidates, relative to a query's best score at two hops.
    hop_width
        Candidates that pass their votes on.
    similarity
        Weight of cosine similarity to the recency-weighted mean of the voters' text vectors; relative to a query's
        best transition score. Ranks items without a training event.
    whiten
        How far directions of the text vectors are evened out; see `ml.recommenders.heuristics.text_similarity`. None
        takes the vectors as they are.
    popularity
        Weight of popularity, relative likewise. Small: it decides among items that nothing else speaks for.
    again
        Weight of a history item itself, by its vote, beside the best transition's 1; for logs in which users come back
        to items.
    half_life_days
        Age at which an event counts half in that popularity; None counts all alike.
    """

    window: int = Field(default=10, ge=1)
    skip_decay: float = Field(default=0.85, gt=0, le=1)
    same_day: float = Field(default=1.0, ge=0)
    backward: float = Field(default=0.25, ge=0)
    source_norm: float = Field(default=0.5, ge=0)
    target_norm: float = Field(default=0.0, ge=0)
    affinity: float = Field(default=0.0, ge=0, le=50)
    recent: int = Field(default=20, ge=1)
    recency_decay: float = Field(default=0.5, gt=0, le=1)
    day_decay: float = Field(default=1.0, gt=0, le=1)
    neighbours: int = Field(default=1000, ge=1)
    two_hop: float = Field(default=0.0, ge=0)
    hop_width: int = Field(default=50, ge=1)
    similarity: float = Field(default=0.0, ge=0)
    whiten: float | None = Field(default=None, ge=0, le=1)
    popularity: float = Field(default=1e-4, ge=0)
    again: float = Field(default=0.0, ge=0)
    half_life_days: float | None = Field(default=None, gt=0)


class Transitions(EdgeRecommender):
    """Recommend by counted item-to-item transitions."""

    kind: ClassVar[str] = "transitions"
    Params: ClassVar[type[RecommenderParams]] = TransitionsParams

    def __init__(self, params: TransitionsParams) -> None:
        super().__init__(params)
        self.vectors = np.zeros((0, 0), dtype=np.float32)
        self.given_away = np.zeros(0)

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Count; see `ml.recommenders.base.Recommender.fit`."""
        n_items = len(catalogue)
        source, target, weight = count_pairs(split.train, n_items, self.params)
        if self.params.affinity:
            alike = cosines(self._text(catalogue), source, target)
            weight = weight * np.exp(self.params.affinity * alike)
        self.graph = strongest(source, target, weight, n_items, self.params.neighbours)
        self.popularity = popularity(split.train, n_items, self.params.half_life_days)
        self.popularity /= max(float(self.popularity.max(initial=0)), 1e-30)
        self._prepare(catalogue, {})
        return {"events": len(split.train.items), "pairs": len(self.graph.targets)}

    def voting(self, catalogue: Catalogue, **params: float) -> Transitions:
        """Return a recommender of the same counts that votes otherwise: far less work than counting anew.

        Raises
        ------
        ValueError
            If a parameter has a part in counting.
        """
        if counted := sorted(set(params) - VOTING):
            raise ValueError(f"{counted[0]} has a part in counting")
        made = Transitions(self.params.model_validate({**self.params.model_dump(), **params}))
        made.graph, made.popularity = self.graph, self.popularity
        made._prepare(catalogue, {})
        return made

    def _made(self) -> dict[str, NDArray[Any]]:
        """Return evened text vectors and sums of edges: a service that loads them has better to do than make them again."""
        made: dict[str, NDArray[Any]] = {"given_away": self.given_away}
        if self.params.similarity and self.params.whiten is not None:
            made["vectors"] = self.vectors
        return made

    def _prepare(self, catalogue: Catalogue, made: Mapping[str, NDArray[Any]]) -> None:
        """Make what follows from graph and catalogue: text vectors, where they have a weight, and sums of edges."""
        self.vectors = np.zeros((len(catalogue), 0), dtype=np.float32)
        if self.params.similarity:
            self.vectors = made["vectors"] if "vectors" in made else self._text(catalogue)
        if "given_away" in made:
            self.given_away = made["given_away"]
        else:
            sums = np.concatenate([[0.0], np.cumsum(self.graph.weights, dtype=np.float64)])
            self.given_away = np.maximum(np.diff(sums[self.graph.offsets]), 1e-30)

    def _text(self, catalogue: Catalogue) -> NDArray[np.float32]:
        vectors = text_vectors(catalogue)
        return vectors if self.params.whiten is None else whitened(vectors, self.params.whiten)

    def _scores(self, histories: Histories) -> NDArray[np.float32]:
        """Score every item, float32 [n, n_items]; each row's best transition is 1."""
        shape = (len(histories), len(self.popularity))
        voters, votes = recency_votes(histories, self.params.recent, self.params.recency_decay)
        if self.params.day_decay < 1:
            votes = votes * self.params.day_decay ** later_days(voters)
        scores = relative(collect(self.graph, voters.users, voters.items, votes, shape))
        if self.params.two_hop:
            scores += self.params.two_hop * self._second_hop(scores)
        scores += self.params.popularity * self.popularity
        if self.vectors.shape[1]:
            mean = weighted_mean(self.vectors, voters, votes)
            scores += self.params.similarity * (mean @ self.vectors.T)
        if self.params.again:
            np.add.at(scores, (voters.users, voters.items), self.params.again * votes.astype(np.float32))
        return scores

    def _second_hop(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Let the best candidates share out their scores among what follows them; each row's best is 1."""
        items, votes = top_k(torch.from_numpy(scores), min(self.params.hop_width, scores.shape[1]))
        rows, place = np.nonzero(votes > 0)
        sources = items[rows, place]
        shared = votes[rows, place] / self.given_away[sources]
        return relative(collect(self.graph, rows, sources, shared, scores.shape))


def later_days(histories: Histories) -> NDArray[np.int64]:
    """Count, for each event, the distinct days (UTC) of its history that are later than its own; int64 [n_events]."""
    days, users = histories.times // _DAY_US, histories.users
    begins = np.zeros(len(days), dtype=np.int64)
    begins[1:] = (days[1:] != days[:-1]) & (users[1:] == users[:-1])
    count = np.cumsum(begins)
    last = np.repeat(count[histories.offsets[1:] - 1], histories.lengths) if len(count) else count
    return last - count


def cosines(
    unit: NDArray[np.float32], source: NDArray[np.int64], target: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the inner product of the given pairs of rows, float32 [n_pairs]."""
    out = np.empty(len(source), dtype=np.float32)
    for start in range(0, len(source), _PAIRS):
        rows = slice(start, start + _PAIRS)
        out[rows] = np.einsum("ij,ij->i", unit[source[rows]], unit[target[rows]])
    return out


def count_pairs(
    train: Histories, n_items: int, params: TransitionsParams
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Count item pairs within the window, both directions, and normalise.

    Returns
    -------
    Source, target (int64, sorted by source then target, each pair once, never an item with itself) and weight
    float64, all [n_pairs].
    """
    users, items, days = train.users, train.items.astype(np.int64), train.times // _DAY_US
    keys, weights = [], []
    for skip in range(1, params.window + 1):
        same = users[skip:] == users[:-skip]
        early, late = items[:-skip][same], items[skip:][same]
        one_day = days[:-skip][same] == days[skip:][same]
        weight = params.skip_decay ** (skip - 1) * np.where(one_day, params.same_day, 1.0)
        keys += [early * n_items + late, late * n_items + early]
        weights += [weight, weight * params.backward]
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    count = np.bincount(place, np.concatenate(weights), len(key))
    source, target = key // n_items, key % n_items
    events = np.maximum(np.bincount(items, minlength=n_items), 1).astype(np.float64)
    weight = count / (events[source] ** params.source_norm * events[target] ** params.target_norm)
    keep = (source != target) & (weight > 0)
    return source[keep], target[keep], weight[keep]
