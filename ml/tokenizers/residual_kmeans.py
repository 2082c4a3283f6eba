"""Residual k-means: each level clusters what the levels before it left over.

Deng et al., "OneRec" (2025) and the comparisons after it find it as good as RQ-VAE, at a fraction of the time.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ml.tokenizers.base import CodebookParams, CodebookTokenizer, TokenizerParams
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import balanced_kmeans, kmeans, minibatch_kmeans, nearest, subset

_BLOCK = 1 << 16


class ResidualKMeansParams(CodebookParams):
    """Parameters of `ResidualKMeans`.

    Parameters
    ----------
    iterations
        Most Lloyd iterations of a level; passes over all items where ``batch`` is set.
    rows_per_code
        At most this many rows for each code take part in Lloyd's iterations: more change centres little and cost much.
    balanced
        Whether the codes of a level hold nearly equally many of the items that take part in fitting.
    batch
        Rows of a mini-batch, so that every item of a catalogue of any size takes part; 0 for Lloyd's iteration.
    """

    iterations: Annotated[int, Field(ge=1)] = 25
    rows_per_code: Annotated[int, Field(ge=1)] = 256
    balanced: bool = False
    batch: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.balanced and self.batch:
            raise ValueError("balanced k-means has no mini-batches; set batch to 0")
        return self


class ResidualKMeans(CodebookTokenizer):
    """Tokenizer with one k-means code book a level.

    An item takes the nearest code of each level. Where levels are balanced, a code's offset, learned in fitting, is
    added to its squared distance: so items that were fitted keep the even sizes, and any other is treated alike,
    whatever that does to the sizes.
    """

    kind: ClassVar[str] = "residual_kmeans"
    Params: ClassVar[type[TokenizerParams]] = ResidualKMeansParams

    def __init__(self, params: ResidualKMeansParams) -> None:
        super().__init__(params)
        self._books = np.zeros((0, 0, 0), np.float32)
        self._offsets = np.zeros((0, 0), np.float32)

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Learn one code book after the other.

        Returns
        -------
        dict[str, Any]
            By level, ``residual``: the share of the variance that is left; ``fullest``: items of the fullest code, as
            a multiple of the mean. ``sampled``: items that took part.
        """
        rng = np.random.default_rng(seed)
        if not self.params.batch:
            scaled = subset(scaled, self.params.rows_per_code * self.params.code_size, rng)
        books, offsets, left, fullest = [], [], [], []
        for level in range(self.params.levels):
            old = (start._books[level], start._offsets[level]) if start is not None else None
            book, offset = self._book(scaled, rng, old)
            codes, distances = _step(scaled, book, offset)
            books.append(book)
            offsets.append(offset)
            left.append(float(distances.mean(dtype=np.float64)) / scaled.shape[1])
            fullest.append(float(np.bincount(codes).max()) * self.params.code_size / len(scaled))
        self._books, self._offsets = np.stack(books), np.stack(offsets)
        return {"residual": left, "fullest": fullest, "sampled": len(scaled)}

    def _book(
        self,
        rest: NDArray[np.float32],
        rng: np.random.Generator,
        start: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the centres [code_size, width] of a level and their offsets [code_size]."""
        size, iterations = self.params.code_size, self.params.iterations
        if self.params.balanced:
            return balanced_kmeans(rest, size, rng, iterations, start)
        centres = start[0] if start is not None else None
        none = np.zeros(size, np.float32)
        if self.params.batch:
            return minibatch_kmeans(rest, size, rng, self.params.batch, iterations, centres), none
        return kmeans(rest, size, rng, iterations, centres), none

    def _encode(self, scaled: NDArray[np.float32], items: ItemData) -> NDArray[np.int32]:
        codes = np.empty((len(scaled), self.params.levels), np.int32)
        for level, (book, offset) in enumerate(zip(self._books, self._offsets, strict=True)):
            codes[:, level], _ = _step(scaled, book, offset)
        return codes

    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        total = np.zeros((len(codes), self._books.shape[2]), np.float32)
        for level, book in enumerate(self._books):
            total += book[codes[:, level]]
        return total

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {"books": self._books, "offsets": self._offsets}

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._books, self._offsets = tensors["books"], tensors["offsets"]


def _step(
    rest: NDArray[np.float32], book: NDArray[np.float32], offset: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Choose codes and leave in ``rest`` what they leave over, block by block: a large catalogue has no room for two."""
    codes, distances = nearest(rest, book, offset)
    for start in range(0, len(rest), _BLOCK):
        rest[start : start + _BLOCK] -= book[codes[start : start + _BLOCK]]
    return codes, distances
