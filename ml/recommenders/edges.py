"""What recommenders share that score by edges: weighted edges from item to item, and votes that walk along them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ml.histories import Histories, ranges
from ml.recommenders.base import (
    RecommenderParams,
    rank_dense,
    read_params,
    read_weights,
    write_config,
    write_weights,
)

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

#: Rows of a graph made at once.
ROWS = 512
#: Edges walked at once while a graph is built; bounds memory.
_EDGES = 4_000_000


class Graph(NamedTuple):
    """Edges in compressed sparse rows: source ``i`` has ``targets[offsets[i]:offsets[i + 1]]``.

    Parameters
    ----------
    offsets
        int64 [n_sources + 1].
    targets
        int32 [n_edges], item index.
    weights
        float32 [n_edges].
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]


EMPTY = Graph(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def strongest(
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    weight: NDArray[np.floating],
    n_items: int,
    most: int,
) -> Graph:
    """Keep the ``most`` heaviest targets of each source (equal weights: the lower target), heaviest first."""
    order = np.lexsort((target, -weight, source))
    source, target, weight = source[order], target[order], weight[order]
    starts = np.searchsorted(source, np.arange(n_items + 1))
    keep = np.arange(len(source)) - starts[source] < most
    counts = np.bincount(source[keep], minlength=n_items)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Graph(offsets, target[keep].astype(np.int32), weight[keep].astype(np.float32))


def recency_votes(histories: Histories, recent: int, decay: float) -> tuple[Histories, NDArray[np.floating]]:
    """Return the last ``recent`` events of each history and their votes, ``decay ** places before the last``."""
    voters = histories.tail(recent)
    age = np.repeat(voters.offsets[1:], voters.lengths) - 1 - np.arange(len(voters.items))
    return voters, decay**age


def collect(
    graph: Graph,
    rows: NDArray[np.int64],
    sources: NDArray[np.int32] | NDArray[np.int64],
    votes: NDArray[np.floating],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Let votes walk one edge: add ``votes[v] * weight`` to every target of ``sources[v]``, in row ``rows[v]``.

    Parameters
    ----------
    graph
        Edges.
    rows, sources, votes
        [m] each.
    shape
        Rows and items of what is returned.

    Returns
    -------
    float32, of the given shape.
    """
    starts = graph.offsets[sources]
    degrees = graph.offsets[sources + 1] - starts
    edges = ranges(starts, degrees)
    cells = np.repeat(rows * shape[1], degrees) + graph.targets[edges]
    sums = np.bincount(cells, graph.weights[edges] * np.repeat(votes, degrees), shape[0] * shape[1])
    return sums.astype(np.float32).reshape(shape)


def relative(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row by its maximum, so that its best is 1; rows without a positive score stay. In place."""
    best = scores.max(axis=1, keepdims=True, initial=0)
    scores /= np.where(best > 0, best, 1)
    return scores


def blocks(work: NDArray[np.int64], most_rows: int = ROWS) -> Iterator[slice]:
    """Cut rows into runs that hold a bounded number of rows and of work (int64 [n], of each row)."""
    ends = np.cumsum(work)
    start = 0
    while start < len(work):
        done = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, done + _EDGES, side="right"))
        stop = min(max(stop, start + 1), start + most_rows, len(work))
        yield slice(start, stop)
        start = stop


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1; rows of zeros stay."""
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def text_vectors(catalogue: Catalogue) -> NDArray[np.float32]:
    """Return what the items' texts say at unit length, float32 [n_items, d]; the fused vectors where that is not there."""
    return unit_rows(catalogue.text if catalogue.text.shape[1] else catalogue.vectors)


def weighted_mean(
    vectors: NDArray[np.float32], voters: Histories, votes: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return the direction of the voters' weighted mean vector for each history, unit length or zero, [n, d]."""
    mean = torch.zeros(len(voters), vectors.shape[1])
    weighted = vectors[voters.items] * votes[:, None].astype(np.float32)
    mean.index_add_(0, torch.from_numpy(voters.users), torch.from_numpy(weighted))
    return unit_rows(mean.numpy())


class EdgeRecommender(ABC):
    """What recommenders share whose scores are votes along the edges of a graph of items, and popularity."""

    kind: ClassVar[str]
    Params: ClassVar[type[RecommenderParams]]
    training_free: ClassVar[bool] = True

    def __init__(self, params: Any) -> None:
        self.params = params
        self.graph = EMPTY
        self.popularity = np.zeros(0, dtype=np.float32)

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        return rank_dense(self._scores, histories, k, exclude_history)

    def item_vectors(self) -> None:
        """Return None: the scores are no inner product of small vectors."""
        return None

    def query_vectors(self, histories: Histories) -> None:
        """Return None, as there are no item vectors."""
        return None

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        write_weights(folder, {**self.graph._asdict(), "popularity": self.popularity, **self._made()})
        write_config(folder, self)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, cls.Params))
        weights = read_weights(folder)
        made.popularity = weights.pop("popularity")
        made.graph = Graph(**{name: weights.pop(name) for name in Graph._fields})
        made._prepare(catalogue, weights)
        return made

    @abstractmethod
    def _scores(self, histories: Histories) -> NDArray[np.float32]:
        """Score every item, float32 [n, n_items]."""

    def _made(self) -> dict[str, NDArray[Any]]:
        """Return what else is saved, for it takes long to make."""
        return {}

    def _prepare(self, catalogue: Catalogue, made: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - not every one has such
        """Make what follows from graph and catalogue, but for what was ``made`` and saved."""
