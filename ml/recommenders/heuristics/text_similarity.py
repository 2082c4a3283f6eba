"""Items that say the same as a user's recent items: ranks what nobody has met yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import (
    RecommenderParams,
    item_counts,
    rank_dense,
    read_params,
    read_weights,
    write_config,
    write_weights,
)
from ml.recommenders.edges import (
    recency_votes,
    relative,
    text_vectors,
    unit_rows,
    weighted_mean,
)

if TYPE_CHECKING:
    from ml.snapshot import Catalogue


class TextSimilarityParams(RecommenderParams):
    """Parameters of `TextSimilarity`.

    Parameters
    ----------
    recent
        Number of latest history items that are read.
    recency_decay
        Weight of the item ``a`` places before the last is ``recency_decay ** a``.
    whiten
        Each principal direction of the catalogue's vectors is divided by its deviation to this power: 0 only moves
        their mean to 0, 1 makes all directions alike. Text vectors crowd into few directions (Su et al., Whitening
        Sentence Representations, arXiv:2103.15316; for recommendation Zhang et al., arXiv:2407.02863).
    popularity
        Weight of popularity beside a cosine. Small: it speaks where there is no history or no text.
    """

    recent: int = Field(default=20, ge=1)
    recency_decay: float = Field(default=0.6, gt=0, le=1)
    whiten: float = Field(default=0.5, ge=0, le=1)
    popularity: float = Field(default=1e-3, ge=0)


class TextSimilarity:
    """Recommend the nearest items by text."""

    kind: ClassVar[str] = "text_similarity"
    Params: ClassVar[type[RecommenderParams]] = TextSimilarityParams
    training_free: ClassVar[bool] = True

    def __init__(self, params: TextSimilarityParams) -> None:
        self.params = params
        self.vectors = np.zeros((0, 1), dtype=np.float32)

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Whiten; see `ml.recommenders.base.Recommender.fit`."""
        counts = item_counts(split.train, len(catalogue)).astype(np.float32)
        vectors = whitened(text_vectors(catalogue), self.params.whiten)
        popular = self.params.popularity * relative(counts[None]).T
        self.vectors = np.concatenate([vectors, popular], axis=1)
        return {"items_with_text": int((vectors != 0).any(axis=1).sum())}

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""

        def score(some: Histories) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = self.query_vectors(some) @ self.vectors.T
            return scores

        return rank_dense(score, histories, k, exclude_history)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return float32 [n_items, d + 1]; the last column is popularity."""
        return self.vectors

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        """Return the mean of the recent items at unit length, and a one for popularity, float32 [n, d + 1]."""
        voters, votes = recency_votes(histories, self.params.recent, self.params.recency_decay)
        mean = weighted_mean(self.vectors[:, :-1], voters, votes)
        return np.concatenate([mean, np.ones((len(mean), 1), np.float32)], axis=1)

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        write_weights(folder, {"vectors": self.vectors})
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, TextSimilarityParams))
        made.vectors = read_weights(folder)["vectors"]
        return made


def whitened(vectors: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Centre the rows that are not zero, even out their directions, and bring them to length 1.

    Parameters
    ----------
    vectors
        float32 [n, d]; rows of zeros (no text) stay zeros.
    power
        0 centres only; 1 whitens wholly. Directions of next to no deviation are left out.
    """
    known = (vectors != 0).any(axis=1)
    out = np.zeros_like(vectors)
    if known.sum() < 2:
        return unit_rows(vectors)
    centred = vectors[known].astype(np.float64)
    centred -= centred.mean(axis=0)
    variance, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = variance > 1e-9 * max(variance.max(), 1e-30)
    scale = variance[kept] ** (-power / 2)
    even = centred @ (directions[:, kept] * scale) @ directions[:, kept].T
    out[known] = unit_rows(even.astype(np.float32))
    return out
