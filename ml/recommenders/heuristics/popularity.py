"""What is popular, or popular of late, for everyone alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ml.evaluation.splits import Split
from ml.histories import Histories
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

_DAY_US = 86_400_000_000


class PopularityParams(RecommenderParams):
    """Parameters of `Popularity`.

    Parameters
    ----------
    half_life_days
        Age at which a training event counts half, seen from the newest one; None counts all alike.
    """

    half_life_days: float | None = Field(default=None, gt=0)


def popularity(histories: Histories, n_items: int, half_life_days: float | None) -> NDArray[np.float32]:
    """Return the (aged) number of events of each item, float32 [n_items]."""
    if half_life_days is None or len(histories.times) == 0:
        return np.bincount(histories.items, minlength=n_items).astype(np.float32)
    age_days = (histories.times.max() - histories.times) / _DAY_US
    return np.bincount(histories.items, np.exp2(-age_days / half_life_days), n_items).astype(np.float32)


class Popularity:
    """Recommend the items with the most training events."""

    kind: ClassVar[str] = "popularity"
    Params: ClassVar[type[RecommenderParams]] = PopularityParams
    training_free: ClassVar[bool] = True

    def __init__(self, params: PopularityParams) -> None:
        self.params = params
        self.scores = np.zeros(0, dtype=np.float32)

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Count; see `ml.recommenders.base.Recommender.fit`."""
        self.scores = popularity(split.train, len(catalogue), self.params.half_life_days)
        return {"events": len(split.train.items)}

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        scores = torch.from_numpy(self.scores)
        return rank_dense(lambda some: scores.repeat(len(some), 1), histories, k, exclude_history)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the scores as a single column."""
        return self.scores[:, None].copy()

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        """Return ones: everyone asks the same."""
        return np.ones((len(histories), 1), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        write_weights(folder, {"scores": self.scores})
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, PopularityParams))
        made.scores = read_weights(folder)["scores"]
        return made
