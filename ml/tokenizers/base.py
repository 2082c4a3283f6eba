"""What every tokenizer is to the rest of Tessera, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from ml.artifacts import ArtifactError, read_json, write_json
from ml.tokenizers.items import ItemData

CONFIG = "tokenizer.json"
TENSORS = "tokenizer.safetensors"
_MEAN, _SCALE = "mean", "scale"
_BLOCK = 1 << 16


class TokenizerParams(BaseModel):
    """Parameters of any tokenizer: unknown names are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CodebookParams(TokenizerParams):
    """Parameters of a tokenizer of one space of vectors with code books of one size.

    Parameters
    ----------
    input
        The space that is read, a key of `ItemData.spaces`.
    levels
        Codes of an item, the de-duplicating one not counted.
    code_size
        Codes of a level.
    """

    input: str = "fused"
    levels: Annotated[int, Field(ge=1, le=64)] = 3
    code_size: Annotated[int, Field(ge=2, le=65536)] = 256


class Tokenizer(Protocol):
    """Items in, codes out; once fitted it never changes, so that tomorrow's items get codes from the same books.

    Parameters
    ----------
    params
        An instance of `Params`.

    Attributes
    ----------
    kind
        Its name in `ml.tokenizers.build`.
    Params
        What `params` is an instance of.
    ordered
        Whether a code refines the codes before it, so that a prefix means something.
    params
        As given.
    """

    kind: ClassVar[str]
    Params: ClassVar[type[TokenizerParams]]
    ordered: ClassVar[bool]
    params: Any

    def __init__(self, params: Any) -> None: ...

    @property
    def decodes(self) -> bool:
        """Whether `decode` exists."""
        ...

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Exclusive upper bound of each code, the de-duplicating one not counted."""
        ...

    def fit(self, items: ItemData, seed: int, start: Self | None = None) -> dict[str, Any]:
        """Learn from items; return a JSON-able report.

        Parameters
        ----------
        items
            What the kind needs of it; items that its input does not know take no part.
        seed
            Of every random choice: the same items and seed give the same bytes on CPU.
        start
            A fitted tokenizer of the same kind and shape to begin from, so that few items change their codes.

        Raises
        ------
        ArtifactError
            If something needed was not given, a value is not finite, or there are fewer items than codes in a level.
        """
        ...

    def encode(self, items: ItemData) -> NDArray[np.int32]:
        """Return the codes of items, seen in fitting or not, as int32 [n, levels].

        Raises
        ------
        ArtifactError
            If a value is not finite, if the width is not the one that was fitted, or if nothing was fitted.
        """
        ...

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors [n, width] that codes [n, levels] stand for.

        Raises
        ------
        ArtifactError
            If codes of this kind stand for no vector (`decodes` is False).
        """
        ...

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


@runtime_checkable
class MultiIdentifier(Protocol):
    """A tokenizer that gives an item several semantic IDs, one of which it is known by.

    A generative recommender may be trained on all of them (MTGRec, arXiv:2504.04400); what is served is `encode`.
    """

    @property
    def identifiers(self) -> int:
        """How many, 1 or more."""
        ...

    def encode_all(self, items: ItemData) -> NDArray[np.int32]:
        """Return the codes int32 [identifiers, n, levels] of items; the last [n, levels] are those of `encode`."""
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
        squares = 0.0
        for start in range(0, len(vectors), _BLOCK):
            squares += float(np.square(vectors[start : start + _BLOCK] - mean).sum())
        spread = float(np.sqrt(squares / vectors.size))
        return cls(mean.astype(np.float32), np.array([spread if spread > 1e-12 else 1.0], np.float32))

    def apply(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale vectors [n, width]; the result is always new."""
        scaled = vectors - self.mean
        scaled /= self.scale
        return scaled

    def undo(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring scaled vectors back."""
        return scaled * self.scale + self.mean


class CodebookTokenizer(ABC):
    """The half that tokenizers of one space share: checking, scaling, saving.

    A family adds what it learns: `_fit`, `_encode`, `_decode` see scaled vectors of known items, `_tensors` and
    `_restore` carry its arrays through a file.
    """

    kind: ClassVar[str]
    Params: ClassVar[type[TokenizerParams]] = CodebookParams
    ordered: ClassVar[bool] = True
    decodes: ClassVar[bool] = True

    def __init__(self, params: Any) -> None:
        self.params = params
        self._scaler: Scaler | None = None

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Exclusive upper bound of each code."""
        return (self.params.code_size,) * self.params.levels

    @property
    def _least_rows(self) -> int:
        """Items that fitting needs: each code of a book must have one to stand for."""
        return max(self.code_sizes)

    def fit(self, items: ItemData, seed: int, start: Self | None = None) -> dict[str, Any]:
        """Learn from the items that the input space knows; see `Tokenizer.fit`."""
        space = self.params.input
        vectors = check_vectors(self.kind, items.space(space))
        known = np.flatnonzero(items.known(space))
        check_rows(self.kind, len(known), self._least_rows)
        if start is not None:
            check_start(self, start, vectors.shape[1])
        if len(known) < len(vectors):
            vectors, items = vectors[known], items.take(known)
        # Where the old books are to be kept close, so is the scale that they live in.
        scaler = start._fitted() if start is not None else Scaler.of(vectors)
        report = self._fit(scaler.apply(vectors), items, seed, start)
        self._scaler = scaler
        return {"rows": len(known), **report}

    def encode(self, items: ItemData) -> NDArray[np.int32]:
        """Return codes; see `Tokenizer.encode`."""
        return self._encode(self._scaled(items), items)

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return vectors; see `Tokenizer.decode`."""
        return self._fitted().undo(self._decode(codes))

    def save(self, folder: Path) -> None:
        """Write kind, parameters and tensors into an existing folder."""
        scaler = self._fitted()
        write_tokenizer(folder, self, {_MEAN: scaler.mean, _SCALE: scaler.scale, **self._tensors()})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        params, tensors = read_tokenizer(folder, cls.Params)
        tokenizer = cls(params)
        tokenizer._scaler = Scaler(tensors.pop(_MEAN), tensors.pop(_SCALE))
        tokenizer._restore(tensors)
        return tokenizer

    @abstractmethod
    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Learn from scaled vectors [n, width] of ``items``, all of them known to the input space.

        The vectors are a copy of the family's own to write to.
        """

    @abstractmethod
    def _encode(self, scaled: NDArray[np.float32], items: ItemData) -> NDArray[np.int32]:
        """Return codes int32 [n, levels] of scaled vectors [n, width] of ``items``."""

    @abstractmethod
    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return scaled vectors [n, width] of codes."""

    @abstractmethod
    def _tensors(self) -> dict[str, NDArray[Any]]:
        """Return what was learnt, by name."""

    @abstractmethod
    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take back what `_tensors` gave."""

    def _scaled(self, items: ItemData) -> NDArray[np.float32]:
        """Return the vectors of the input space, checked and scaled."""
        scaler = self._fitted()
        return scaler.apply(check_vectors(self.kind, items.space(self.params.input), len(scaler.mean)))

    def _fitted(self) -> Scaler:
        if self._scaler is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._scaler


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


def check_start(tokenizer: CodebookTokenizer, start: CodebookTokenizer, width: int) -> None:
    """Refuse to begin from a tokenizer of another shape.

    Raises
    ------
    ArtifactError
        Saying what differs.
    """
    if start.kind != tokenizer.kind or start.code_sizes != tokenizer.code_sizes:
        raise ArtifactError(
            f"{tokenizer.kind} with code sizes {tokenizer.code_sizes} cannot begin from {start.kind} with {start.code_sizes}"
        )
    if len(start._fitted().mean) != width:
        raise ArtifactError(
            f"{tokenizer.kind}: vectors have width {width}; the tokenizer to begin from has {len(start._fitted().mean)}"
        )


def write_tokenizer(folder: Path, tokenizer: Tokenizer, tensors: dict[str, NDArray[Any]]) -> None:
    """Write kind, parameters and tensors."""
    params = tokenizer.params.model_dump(mode="json")
    write_json(folder / CONFIG, {"kind": tokenizer.kind, "params": params})
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / TENSORS)


def read_tokenizer(folder: Path, params: type[TokenizerParams]) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Read what `write_tokenizer` wrote."""
    return params.model_validate(read_json(folder / CONFIG)["params"]), load_file(folder / TENSORS)


def pack(texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return texts as two arrays: their UTF-8 bytes one after the other, and where each ends."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {"bytes": np.frombuffer(b"".join(encoded), np.uint8), "ends": ends}


def unpack(packed: dict[str, NDArray[Any]]) -> list[str]:
    """Return the texts that `pack` was given."""
    content, ends = packed["bytes"].tobytes(), packed["ends"].tolist()
    return [content[first:end].decode() for first, end in zip([0, *ends], ends, strict=False)]
