"""What is served of a factor model: item vectors, and a user vector folded in from a history.

No user has a vector of their own at serving time: whoever asks, seen in training or not, is their history. A history
becomes a query by one step of propagation (a weighted mean of its items' vectors), or by solving for the vector that
explains it best. All parameters of that are fixed on validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import (
    RecommenderParams,
    encode,
    item_counts,
    rank_dense,
    read_params,
    read_weights,
    write_config,
    write_weights,
)
from ml.recommenders.collaborative.propagation import edges

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_SAMPLE_FOR_EMPTY = 1000


class FoldInParams(RecommenderParams):
    """How a history becomes a query, among the parameters of each factor model.

    Parameters
    ----------
    fold_in
        Weighted ``mean`` of the items' vectors; of what they send along the graph (``propagate``, the same where there
        is no graph); or ``solve``: the vector q whose scores are nearest to 1 on the history's items, with confidence
        c, and to 0 on all others, with confidence 1, under a ridge ``l2`` (Hu, Koren and Volinsky, ICDM 2008, Eq. 4).
    recent
        Latest history items that are read.
    recency_decay, source_norm
        The item ``a`` places before the last weighs ``recency_decay ** a / users(item) ** source_norm``; a half is
        the propagation of a LightGCN layer.
    confidence, l2
        c and the ridge of ``solve``.
    """

    fold_in: Literal["mean", "propagate", "solve"] = "mean"
    recent: int = Field(default=50, ge=1)
    recency_decay: float = Field(default=1.0, gt=0, le=1)
    source_norm: float = Field(default=0.0, ge=0)
    confidence: float = Field(default=40.0, ge=1)
    l2: float = Field(default=0.05, gt=0)


class FactorRecommender:
    """Recommend by inner product with item vectors; a subclass fits and hands over to `serve`.

    Attributes
    ----------
    vectors
        float [n_items, d + 1], for queries that end in 1. The last column is 0 for items with a training event; the
        others are zero but for that column, a constant below every score that a query can give.
    sources
        float [n_items, d + 1], what a query is made of; the last column is 0.
    weights
        float [n_items], of a history's items; 0 for items without a training event.
    default
        float [d + 1], the query of a history that says nothing: the mean of a sample of training users' queries.
    """

    kind: ClassVar[str]
    Params: ClassVar[type[RecommenderParams]]
    training_free: ClassVar[bool] = False

    def __init__(self, params: Any) -> None:
        self.params = params
        self.vectors, self.sources = torch.zeros(0, 1), torch.zeros(0, 1)
        self.weights, self.default = torch.zeros(0), torch.zeros(1)
        self.gram = torch.zeros(0, 0)

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """See `ml.recommenders.base.Recommender.fit`: learn, then `serve`."""
        raise NotImplementedError

    def serve(self, table: Tensor, sources: Tensor, known: Tensor, train: Histories, n_items: int) -> None:
        """Take up vectors.

        Parameters
        ----------
        table, sources
            float [m, d], of the items with a training event: what is scored, and what they send along the graph.
        known
            int64 [m], their index in the catalogue.
        train
            What was trained on.
        n_items
            Size of the catalogue.
        """
        table, sources = table.detach().float(), sources.detach().float()
        users = torch.from_numpy(np.bincount(edges(train, n_items)[1], minlength=n_items)).to(table.device)
        self.weights = torch.zeros(n_items, device=table.device)
        self.weights[known] = users[known].float() ** -self.params.source_norm
        self.vectors = torch.zeros(n_items, table.shape[1] + 1, device=table.device)
        self.sources = torch.zeros_like(self.vectors)
        self.vectors[known, :-1] = table
        self.sources[known, :-1] = sources if self.params.fold_in == "propagate" else table
        self.default = torch.zeros(table.shape[1] + 1, device=table.device)
        self._prepare()
        some = np.flatnonzero(train.lengths > 0)
        some = np.random.default_rng(0).permutation(some)[:_SAMPLE_FOR_EMPTY]
        self.default = self._queries(train.rows(some)).mean(dim=0)
        self.default[-1] = 1
        self.vectors[:, -1] = self._floor()
        self.vectors[known, -1] = 0

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        return rank_dense(lambda some: self._queries(some) @ self.vectors.T, histories, k, exclude_history)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return float32 [n_items, d + 1]; the last column keeps untrained items below all others."""
        vectors: NDArray[np.float32] = self.vectors.cpu().numpy()
        return vectors

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        """Return float32 [n, d + 1], the last column 1."""
        return encode(self._queries, histories, len(self.default))

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`: what answers, and not the users' vectors."""
        names = ("vectors", "sources", "weights", "default")
        write_weights(folder, {name: getattr(self, name).cpu().numpy() for name in names})
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, cls.Params))
        for name, array in read_weights(folder).items():
            setattr(made, name, torch.from_numpy(array))
        if len(made.vectors) != len(catalogue):
            raise ArtifactError(f"{folder} was trained on {len(made.vectors)} items, not {len(catalogue)}")
        made._prepare()
        return made

    def _prepare(self) -> None:
        """Compute what `solve` needs of all items, float [d, d]."""
        if self.params.fold_in == "solve":
            table = self.vectors[:, :-1]
            self.gram = table.T @ table + self.params.l2 * torch.eye(table.shape[1], device=table.device)

    @torch.no_grad()
    def _queries(self, histories: Histories) -> Tensor:
        """Fold histories in, float [n, d + 1]."""
        recent = histories.tail(self.params.recent)
        device = self.vectors.device
        items = torch.from_numpy(recent.items.astype(np.int64)).to(device)
        age = np.repeat(recent.offsets[1:], recent.lengths) - 1 - np.arange(len(recent.items))
        decay = torch.from_numpy((self.params.recency_decay**age).astype(np.float32)).to(device)
        weights = decay * self.weights[items]
        rows = torch.from_numpy(recent.users).to(device)
        total = torch.zeros(len(recent), device=device).index_add_(0, rows, weights)
        sums = torch.zeros(len(recent), self.vectors.shape[1], device=device)
        sums.index_add_(0, rows, self.sources[items] * weights[:, None])
        if self.params.fold_in == "solve":
            query = self._solve(recent, items, weights, sums)
        else:
            query = sums / total.clamp(min=1e-30)[:, None]
        query[:, -1] = 1
        return torch.where((total > 0)[:, None], query, self.default)

    def _solve(self, recent: Histories, items: Tensor, weights: Tensor, sums: Tensor) -> Tensor:
        """Solve ``(gram + (c - 1) sum w v v') q = c sum w v``, float [n, d + 1]."""
        device, width = self.vectors.device, int(recent.lengths.max(initial=1))
        place = torch.from_numpy(np.arange(width) < recent.lengths[:, None]).to(device)
        scaled = torch.zeros(len(recent), width, self.vectors.shape[1] - 1, device=device)
        scaled[place] = self.vectors[items, :-1] * weights.sqrt()[:, None]
        normal = self.gram + (self.params.confidence - 1) * (scaled.mT @ scaled)
        solved = torch.linalg.solve(normal, self.params.confidence * sums[:, :-1, None])[..., 0]
        return torch.nn.functional.pad(solved, (0, 1))

    def _floor(self) -> float:
        """Return a score that no query can give to a trained item."""
        longest = self.vectors[:, :-1].norm(dim=1).max()
        query = self.sources.norm(dim=1).max()
        if self.params.fold_in == "solve":
            # No eigenvalue of what is solved is below l2.
            query = (
                self.params.confidence * self.params.recent * self.weights.max() * longest / self.params.l2
            )
        return -1.0 - 2.0 * float(longest * query)


def known_items(train: Histories, n_items: int) -> Tensor:
    """Return the items with a training event, int64 [m], rising.

    Raises
    ------
    ValueError
        If there is none.
    """
    known = np.flatnonzero(item_counts(train, n_items))
    if len(known) == 0:
        raise ValueError("no training history has an event: nothing to learn from")
    return torch.from_numpy(known)
