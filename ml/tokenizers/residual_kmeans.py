"""Residual k-means: each level clusters what the levels before it left over.

Deng et al., "OneRec" (2025) and the comparisons after it find it as good as RQ-VAE, at a fraction of the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError
from ml.tokenizers.base import (
    Scaler,
    TokenizerParams,
    check_rows,
    check_vectors,
    read_tokenizer,
    write_tokenizer,
)
from ml.tokenizers.kmeans import kmeans, nearest


class ResidualKMeansParams(TokenizerParams):
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


class ResidualKMeans:
    """Tokenizer with one k-means code book a level."""

    kind: ClassVar[str] = "residual_kmeans"
    Params: ClassVar[type[TokenizerParams]] = ResidualKMeansParams

    def __init__(self, params: ResidualKMeansParams) -> None:
        self.params = params
        self._scaler: Scaler | None = None
        self._books = np.zeros((0, 0, 0), np.float32)

    def fit(self, vectors: NDArray[np.float32], seed: int) -> dict[str, Any]:
        """Learn one code book after the other; see `ml.tokenizers.base.Tokenizer.fit`.

        Returns
        -------
        dict[str, Any]
            ``residual``: share of the variance that is left after each level.
        """
        vectors = check_vectors(self.kind, vectors)
        check_rows(self.kind, len(vectors), self.params.code_size)
        rng = np.random.default_rng(seed)
        most = self.params.rows_per_code * self.params.code_size
        if len(vectors) > most:
            vectors = vectors[np.sort(rng.choice(len(vectors), most, replace=False))]
        self._scaler = Scaler.of(vectors)
        rest = self._scaler.apply(vectors)
        books, left = [], []
        for _ in range(self.params.levels):
            books.append(kmeans(rest, self.params.code_size, rng, self.params.iterations))
            codes, distances = nearest(rest, books[-1])
            rest = rest - books[-1][codes]
            left.append(float(distances.mean(dtype=np.float64)) / vectors.shape[1])
        self._books = np.stack(books)
        return {"residual": left, "rows": len(vectors)}

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return codes; see `ml.tokenizers.base.Tokenizer.encode`."""
        scaler = self._fitted()
        rest = scaler.apply(check_vectors(self.kind, vectors, self._books.shape[2]))
        codes = np.empty((len(rest), self.params.levels), np.int32)
        for level, book in enumerate(self._books):
            codes[:, level], _ = nearest(rest, book)
            rest = rest - book[codes[:, level]]
        return codes

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the sum of the codes' centres, int32 [n, levels] to float32 [n, width]."""
        scaler = self._fitted()
        total = np.zeros((len(codes), self._books.shape[2]), np.float32)
        for level, book in enumerate(self._books):
            total += book[codes[:, level]]
        return scaler.undo(total)

    def save(self, folder: Path) -> None:
        """Write parameters and code books into an existing folder."""
        scaler = self._fitted()
        write_tokenizer(folder, self, {"mean": scaler.mean, "scale": scaler.scale, "books": self._books})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        params, tensors = read_tokenizer(folder, ResidualKMeansParams)
        tokenizer = cls(params)
        tokenizer._scaler = Scaler(tensors["mean"], tensors["scale"])
        tokenizer._books = tensors["books"]
        return tokenizer

    def _fitted(self) -> Scaler:
        if self._scaler is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._scaler
