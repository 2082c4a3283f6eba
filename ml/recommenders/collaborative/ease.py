"""EASE: item-to-item weights of a ridge regression in closed form (Steck, WWW 2019, arXiv:1905.03375)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import RecommenderParams
from ml.recommenders.collaborative.factors import known_items
from ml.recommenders.collaborative.propagation import edges, sparse_rows
from ml.recommenders.edges import EdgeRecommender, Graph, collect, recency_votes

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

#: Rows of dense scores made at once: 256 x 20,000 items x 8 bytes is 41 MB.
_ROWS = 256
#: Below every weighted sum.
_FLOOR = -1e30
#: Share of the popularity in a score: it decides only among items that no weight speaks for or against.
_POPULARITY = 1e-6
#: Columns of the Gram matrix made at once.
_COLUMNS = 512


class EASEParams(RecommenderParams):
    """Parameters of `EASE`.

    Parameters
    ----------
    l2
        The ridge.
    neighbours
        Weights kept for each item of a history, those of the largest magnitude; all of them are as many as items.
    recent, recency_decay
        Latest history items that vote; the one ``a`` places before the last weighs ``recency_decay ** a``.
    most_items
        Largest catalogue (items with a training event) that is tried: n of them take ``4 n^2`` bytes at once, 1.6 GB
        for 20,000, and a time that grows with their third power.
    """

    l2: float = Field(default=100.0, gt=0)
    neighbours: int = Field(default=1000, ge=1)
    recent: int = Field(default=50, ge=1)
    recency_decay: float = Field(default=1.0, gt=0, le=1)
    most_items: int = Field(default=20_000, ge=1)


class EASE(EdgeRecommender):
    """Recommend by weights between items that are fitted to rebuild every history from its own other items."""

    kind: ClassVar[str] = "ease"
    Params: ClassVar[type[RecommenderParams]] = EASEParams
    training_free: ClassVar[bool] = False

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Solve; see `ml.recommenders.base.Recommender.fit`. Nothing is random.

        Raises
        ------
        ValueError
            If there is no event, or if the catalogue is larger than ``most_items``.
        """
        n_items = len(catalogue)
        known = known_items(split.train, n_items).numpy()
        if len(known) > self.params.most_items:
            raise ValueError(
                f"EASE of {len(known)} items needs {4e-9 * len(known) ** 2:.1f} GB at once: raise most_items "
                f"({self.params.most_items}) if there is room, or train another recipe"
            )
        users, items = edges(split.train, n_items)
        _, items = np.unique(items, return_inverse=True)
        weights = regress(gram(users, items, len(split.train), len(known)), self.params.l2)
        kept, strongest = _strongest(weights, self.params.neighbours)
        degrees = np.zeros(n_items, dtype=np.int64)
        degrees[known] = strongest.shape[1]
        offsets = np.concatenate([[0], np.cumsum(degrees)])
        self.graph = Graph(offsets, known[strongest].astype(np.int32).ravel(), kept.ravel())
        self.popularity = np.full(n_items, _FLOOR, dtype=np.float32)
        self.popularity[known] = _POPULARITY * np.bincount(items) / len(split.train)
        return {"users": len(split.train), "edges": len(users), "untrained_items": n_items - len(known)}

    def _scores(self, histories: Histories) -> NDArray[np.float32]:
        voters, votes = recency_votes(histories, self.params.recent, self.params.recency_decay)
        shape = (len(histories), len(self.popularity))
        return collect(self.graph, voters.users, voters.items, votes, shape) + self.popularity

    def _prepare(self, catalogue: Catalogue, made: Mapping[str, NDArray[Any]]) -> None:
        if len(self.popularity) != len(catalogue):
            raise ArtifactError(f"EASE was trained on {len(self.popularity)} items, not {len(catalogue)}")


def gram(users: NDArray[np.int64], items: NDArray[np.int64], n_users: int, n_items: int) -> Tensor:
    """Return how many users met both of two items, float32 [n_items, n_items].

    Parameters
    ----------
    users, items
        int64 [n_edges], each pair once.
    """
    order = np.argsort(items, kind="stable")
    by_item, items = users[order], items[order]
    degrees = np.bincount(items, minlength=n_items)
    met = sparse_rows(degrees, by_item, np.ones(len(items), np.float32), n_users)
    both = torch.empty(n_items, n_items)
    for start in range(0, n_items, _COLUMNS):
        some = slice(*np.searchsorted(items, [start, start + _COLUMNS]))
        dense = torch.zeros(n_users, min(_COLUMNS, n_items - start))
        dense[torch.from_numpy(by_item[some]), torch.from_numpy(items[some] - start)] = 1
        both[:, start : start + _COLUMNS] = met @ dense
    return both


def regress(both: Tensor, l2: float) -> Tensor:
    """Return the weights of a ridge regression of every item on all others (Steck, Eq. 8).

    Parameters
    ----------
    both
        See `gram`; its memory becomes the answer's, and no other is needed.
    l2
        The ridge.

    Returns
    -------
    float32 [n_items, n_items]: entry (i, j) is the weight of i for j; the diagonal is zero.
    """
    both.diagonal().add_(l2)
    # LAPACK works in place on columns; the matrix is symmetric, so its transpose is as good.
    inverse = both.mT
    torch.linalg.cholesky_ex(inverse, check_errors=True, out=(inverse, torch.empty((), dtype=torch.int32)))
    torch.cholesky_inverse(inverse, out=inverse)
    both.div_(-both.diagonal().clone())
    both.fill_diagonal_(0)
    return both


def _strongest(weights: Tensor, most: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return weights and targets of the largest magnitude in each row, [n_items, at most ``most``], by target."""
    kept, targets = [], []
    for rows in weights.split(_ROWS):
        target = rows.abs().topk(min(most, len(weights))).indices.sort(dim=1).values
        kept.append(rows.gather(1, target))
        targets.append(target)
    return torch.cat(kept).numpy(), torch.cat(targets).numpy()
