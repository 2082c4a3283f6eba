"""Alternating least squares: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets" (ICDM 2008).

The package ``implicit`` factorises; what it makes is served, and histories are solved for, without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import RecommenderParams, item_counts
from ml.recommenders.collaborative.factors import FactorRecommender, FoldInParams, known_items

if TYPE_CHECKING:
    from ml.snapshot import Catalogue


class ALSParams(FoldInParams):
    """Parameters of `ALS`, beside those of the fold-in; ``confidence`` and ``l2`` are those of the factorisation too.

    Parameters
    ----------
    d
        Width.
    iterations
        Each solves for all users, then for all items.
    """

    fold_in: Literal["mean", "propagate", "solve"] = "solve"
    d: int = Field(default=64, ge=1)
    iterations: int = Field(default=15, ge=1)


class ALS(FactorRecommender):
    """Recommend what least squares expects of a history."""

    kind: ClassVar[str] = "als"
    Params: ClassVar[type[RecommenderParams]] = ALSParams

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Factorise; see `ml.recommenders.base.Recommender.fit`.

        Raises
        ------
        ArtifactError
            If ``implicit`` is not installed.
        ValueError
            If there is no event.
        """
        params, n_items = self.params, len(catalogue)
        known = known_items(split.train, n_items)
        items = factorise(
            split.train, n_items, params.d, seed, params.iterations, params.l2, params.confidence
        )
        table = torch.from_numpy(items)[known]
        self.serve(table, table, known, split.train, n_items)
        return {"events": len(split.train.items), "untrained_items": n_items - len(known)}


def factorise(
    train: Histories,
    n_items: int,
    d: int,
    seed: int,
    iterations: int,
    l2: float,
    confidence: float,
) -> NDArray[np.float32]:
    """Factorise who met what; return the items' vectors. On one machine the same input and seed give the same bytes.

    Parameters
    ----------
    train
        Histories with an event, at least.
    n_items, d
        Shape of what is returned.
    seed
        Of the random start.
    iterations, l2
        Rounds and ridge.
    confidence
        n events make ``confidence * n`` sure of an item, against 1 for one never met.

    Returns
    -------
    NDArray[np.float32]
        ``[n_items, d]``; zero for items without an event.

    Raises
    ------
    ArtifactError
        If ``implicit`` is not installed.
    """
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ArtifactError(
            "ALS needs the package 'implicit', which is not installed: pip install 'tessera[als]'"
        ) from None
    shape = (len(train), n_items)
    counts = csr_matrix((np.ones(len(train.items), np.float32), (train.users, train.items)), shape)
    # Its own threads each call BLAS, which must then not start more.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=d, random_state=seed, iterations=iterations, regularization=l2, alpha=confidence
        )
        model.fit(counts, show_progress=False)
    vectors: NDArray[np.float32] = np.array(model.item_factors, np.float32)
    vectors[item_counts(train, n_items) == 0] = 0
    return vectors
