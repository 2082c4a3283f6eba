"""Residual k-means: each level clusters what the levels before it left over.

Deng et al., "OneRec" (2025) and the comparisons after it find it as good as RQ-VAE, at a fraction of the time.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.tokenizers.base import CodebookParams, CodebookTokenizer, TokenizerParams
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest


class ResidualKMeansParams(CodebookParams):
    """Parameters of `ResidualKMeans`.

    Parameters
    ----------
    iterations
        Most Lloyd iterations of a level.
    rows_per_code
        At most this many rows for each code take part in fitting: more change centres little and cost much.
    """

    iterations: Annotated[int, Field(ge=1)] = 25
    rows_per_code: Annotated[int, Field(ge=1)] = 256


class ResidualKMeans(CodebookTokenizer):
    """Tokenizer with one k-means code book a level."""

    kind: ClassVar[str] = "residual_kmeans"
    Params: ClassVar[type[TokenizerParams]] = ResidualKMeansParams

    def __init__(self, params: ResidualKMeansParams) -> None:
        super().__init__(params)
        self._books = np.zeros((0, 0, 0), np.float32)

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Learn one code book after the other; report the share of the variance that is left after each level."""
        rng = np.random.default_rng(seed)
        most = self.params.rows_per_code * self.params.code_size
        if len(scaled) > most:
            scaled = scaled[np.sort(rng.choice(len(scaled), most, replace=False))]
        rest = scaled
        books, left = [], []
        for _ in range(self.params.levels):
            books.append(kmeans(rest, self.params.code_size, rng, self.params.iterations))
            codes, distances = nearest(rest, books[-1])
            rest = rest - books[-1][codes]
            left.append(float(distances.mean(dtype=np.float64)) / scaled.shape[1])
        self._books = np.stack(books)
        return {"residual": left, "sampled": len(scaled)}

    def _encode(self, scaled: NDArray[np.float32]) -> NDArray[np.int32]:
        rest = scaled
        codes = np.empty((len(rest), self.params.levels), np.int32)
        for level, book in enumerate(self._books):
            codes[:, level], _ = nearest(rest, book)
            rest = rest - book[codes[:, level]]
        return codes

    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        total = np.zeros((len(codes), self._books.shape[2]), np.float32)
        for level, book in enumerate(self._books):
            total += book[codes[:, level]]
        return total

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {"books": self._books}

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._books = tensors["books"]
