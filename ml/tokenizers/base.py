"""What every tokenizer is to the rest of Tessera, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from ml.artifacts import ArtifactError, read_json, write_json

CONFIG = "tokenizer.json"
TENSORS = "tokenizer.safetensors"


class TokenizerParams(BaseModel):
    """Parameters that every tokenizer has: unknown names are refused, values never change.

    Parameters
    ----------
    levels
        Codes of an item, the de-duplicating one not counted.
    code_size
        Codes of a level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    levels: Annotated[int, Field(ge=1, le=16)] = 3
    code_size: Annotated[int, Field(ge=2, le=65536)] = 256


P = TypeVar("P", bound=TokenizerParams)


class Tokenizer(Protocol):
    """Vectors in, codes out; once fitted it never changes, so that tomorrow's items get codes from the same books."""

    kind: ClassVar[str]
    Params: ClassVar[type[TokenizerParams]]
    params: Any

    def __init__(self, params: Any) -> None: ...

    def fit(self, vectors: NDArray[np.float32], seed: int) -> dict[str, Any]:
        """Learn code books from vectors [n, width]; return a JSON-able report.

        Raises
        ------
        ArtifactError
            If a value is not finite, or if there are fewer rows than codes in a level.
        """
        ...

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the codes of vectors [n, width] as int32 [n, levels].

        Raises
        ------
        ArtifactError
            If a value is not finite, if the width is not the one that was fitted, or if nothing was fitted.
        """
        ...

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors [n, width] that codes [n, levels] stand for."""
        ...

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


@dataclass(frozen=True)
class Scaler:
    """Moves vectors to mean 0 and an average variance of 1.

    There is one scale for all columns: where blocks of vectors were fused with chosen weights, scaling each column
    would undo the choice.

    Parameters
    ----------
    mean
        float32 [width].
    scale
        float32 [1], positive.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Scaler:
        """Measure vectors [n, width]."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        spread = float(np.sqrt(np.mean((vectors - mean) ** 2)))
        return cls(mean.astype(np.float32), np.array([spread if spread > 1e-12 else 1.0], np.float32))

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale vectors [n, width]."""
        return (vectors - self.mean) / self.scale

    def undo(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring scaled vectors back."""
        return scaled * self.scale + self.mean


def check_vectors(kind: str, vectors: NDArray[np.float32], width: int | None = None) -> NDArray[np.float32]:
    """Return the vectors as float32 if they are a finite matrix of the given width.

    Raises
    ------
    ArtifactError
        If they are not.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ArtifactError(f"{kind}: vectors must be a matrix with columns, not of shape {vectors.shape}")
    if width is not None and vectors.shape[1] != width:
        raise ArtifactError(f"{kind}: vectors have width {vectors.shape[1]}; it was fitted on width {width}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ArtifactError(f"{kind}: row {int(finite.argmin())} of the vectors holds NaN or infinity")
    return vectors


def check_rows(kind: str, rows: int, code_size: int) -> None:
    """Refuse to fit on fewer rows than codes.

    Raises
    ------
    ArtifactError
        With the parameter that would help.
    """
    if rows < code_size:
        raise ArtifactError(
            f"{kind}: {rows} items with vectors cannot fill {code_size} codes; set code_size to {rows} or less"
        )


def write_tokenizer(folder: Path, tokenizer: Tokenizer, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Write kind, parameters and tensors."""
    params = tokenizer.params.model_dump(mode="json")
    write_json(folder / CONFIG, {"kind": tokenizer.kind, "params": params})
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / TENSORS)


def read_tokenizer(folder: Path, params: type[P]) -> tuple[P, dict[str, NDArray[np.float32]]]:
    """Read what `write_tokenizer` wrote."""
    return params.model_validate(read_json(folder / CONFIG)["params"]), load_file(folder / TENSORS)
