"""Product quantization: the columns are cut into blocks, and each block has a code book of its own.

Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (TPAMI 2011). With ``rotation``, OPQ: Ge et
al., "Optimized Product Quantization" (CVPR 2013; TPAMI 2014), its parametric start and its non-parametric iterations.
RPG (Hou et al., KDD 2025, arXiv:2506.05781) predicts many such codes in parallel.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError
from ml.tokenizers.base import CodebookParams, CodebookTokenizer, TokenizerParams
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest, subset


class ProductQuantizationParams(CodebookParams):
    """Parameters of `ProductQuantization`.

    Parameters
    ----------
    levels
        Codes of an item: blocks of columns.
    rotation
        Whether to learn a rotation of the space under which the blocks lose least.
    iterations
        Most Lloyd iterations of a block.
    rotations
        Rounds of learning the rotation: a k-means iteration in every block, then the best rotation for its codes.
    rows_per_code
        At most this many rows for each code take part in fitting.
    """

    levels: Annotated[int, Field(ge=1, le=64)] = 8
    rotation: bool = False
    iterations: Annotated[int, Field(ge=1)] = 25
    rotations: Annotated[int, Field(ge=1)] = 25
    rows_per_code: Annotated[int, Field(ge=1)] = 256


class ProductQuantization(CodebookTokenizer):
    """Tokenizer of parallel codes: none refines another, so that a prefix says no more than any other selection."""

    kind: ClassVar[str] = "product_quantization"
    Params: ClassVar[type[TokenizerParams]] = ProductQuantizationParams
    ordered: ClassVar[bool] = False

    def __init__(self, params: ProductQuantizationParams) -> None:
        super().__init__(params)
        # The books stand side by side, [code_size, width]: block b is the book of code b.
        self._books = np.zeros((0, 0), np.float32)
        self._rotation = np.zeros((0, 0), np.float32)

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Learn the rotation, then the books; report the share of the variance that is left in each block."""
        width = scaled.shape[1]
        if width < self.params.levels:
            raise ArtifactError(
                f"{self.kind}: {width} columns cannot be cut into {self.params.levels} blocks"
            )
        if start is not None and start.params.rotation != self.params.rotation:
            raise ArtifactError(
                f"{self.kind}: codes with a rotation cannot begin from codes without, nor these from those"
            )
        rng = np.random.default_rng(seed)
        scaled = subset(scaled, self.params.rows_per_code * self.params.code_size, rng)
        self._books = start._books if start is not None else np.zeros((self.params.code_size, 0), np.float32)
        self._rotation = start._rotation if start is not None else np.zeros((0, 0), np.float32)
        if self.params.rotation:
            self._learn_rotation(scaled, rng)
            scaled = scaled @ self._rotation
        self._books = self._fit_books(scaled, rng, self.params.iterations)
        left = [
            float(nearest(scaled[:, block], self._books[:, block])[1].mean(dtype=np.float64))
            for block in self._blocks(width)
        ]
        return {"residual": sum(left) / width, "blocks": left, "sampled": len(scaled)}

    def _learn_rotation(self, scaled: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Alternate between codes under a rotation and the rotation that brings the vectors nearest to their codes."""
        blocks = self._blocks(scaled.shape[1])
        if not len(self._rotation):
            self._rotation = _spread_rotation(scaled, [block.stop - block.start for block in blocks])
        for _ in range(self.params.rotations):
            turned = scaled @ self._rotation
            self._books = self._fit_books(turned, rng, 1)
            decoded = self._look_up(self._choose(turned))
            # Orthogonal Procrustes: the rotation R that minimises |X R - Y| is U V' of the SVD of X' Y.
            u, _, v = np.linalg.svd((scaled.T @ decoded).astype(np.float64))
            self._rotation = (u @ v).astype(np.float32)

    def _fit_books(
        self, turned: NDArray[np.float32], rng: np.random.Generator, iterations: int
    ) -> NDArray[np.float32]:
        """Return the books after some k-means iterations from the present ones, from k-means++ if there are none."""
        started = self._books.shape[1] > 0
        books = [
            kmeans(
                np.ascontiguousarray(turned[:, block]),
                self.params.code_size,
                rng,
                iterations,
                np.ascontiguousarray(self._books[:, block]) if started else None,
            )
            for block in self._blocks(turned.shape[1])
        ]
        return np.concatenate(books, axis=1)

    def _encode(self, scaled: NDArray[np.float32], items: ItemData) -> NDArray[np.int32]:
        return self._choose(scaled @ self._rotation if self.params.rotation else scaled)

    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        decoded = self._look_up(codes)
        return decoded @ self._rotation.T if self.params.rotation else decoded

    def _choose(self, turned: NDArray[np.float32]) -> NDArray[np.int32]:
        blocks = self._blocks(turned.shape[1])
        return np.stack([nearest(turned[:, block], self._books[:, block])[0] for block in blocks], axis=1)

    def _look_up(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        blocks = self._blocks(self._books.shape[1])
        parts = [self._books[codes[:, place], block] for place, block in enumerate(blocks)]
        return np.concatenate(parts, axis=1)

    def _blocks(self, width: int) -> list[slice]:
        """Return the columns of each code; where the width cannot be divided, some blocks have one column more."""
        bounds = [width * place // self.params.levels for place in range(self.params.levels + 1)]
        return [slice(left, right) for left, right in itertools.pairwise(bounds)]

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {"books": self._books, "rotation": self._rotation}

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._books, self._rotation = tensors["books"], tensors["rotation"]


def _spread_rotation(vectors: NDArray[np.float32], sizes: list[int]) -> NDArray[np.float32]:
    """Return principal axes [width, width], dealt to blocks of the given sizes so that all have a like share to tell.

    Ge et al.'s eigenvalue allocation: in falling order of variance, each axis goes to the block whose product of variances is
    least and that has room.
    """
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(vectors))
    logs = np.log(np.maximum(variances[::-1], 1e-12))
    # Above zero, so that a block with more axes counts as fuller.
    logs -= logs[-1]
    dealt: list[list[int]] = [[] for _ in sizes]
    told = np.zeros(len(sizes))
    for axis, log in enumerate(logs):
        room = [block for block, size in enumerate(sizes) if len(dealt[block]) < size]
        block = min(room, key=lambda place: told[place])
        dealt[block].append(axis)
        told[block] += log
    return np.ascontiguousarray(axes[:, ::-1][:, list(itertools.chain(*dealt))], dtype=np.float32)
