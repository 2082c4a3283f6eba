"""Several tokenizers side by side: an item's codes are those of each part, one after the other.

MSCGRec (Vandenhirtz et al., arXiv:2602.03713) quantises modalities apart, what a sequential recommender learned of an
item being one of them; "How to Index Item IDs" (Hua et al., arXiv:2305.06569) joins a path of categories or clusters
with a number. Both are this, with other parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ml.artifacts import ArtifactError
from ml.tokenizers import build, tokenizer_class
from ml.tokenizers.base import Tokenizer, TokenizerParams, read_tokenizer, write_tokenizer
from ml.tokenizers.items import ItemData


class Part(TokenizerParams):
    """A tokenizer by kind and parameters; those that are left out are filled in."""

    kind: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "kind" not in value:
            return value
        try:
            params = build(value["kind"], value.get("params", {})).params
        except ArtifactError as error:
            raise ValueError(str(error)) from None
        return {**value, "params": params.model_dump(mode="json")}


class CompositeParams(TokenizerParams):
    """Parameters of `Composite`.

    Parameters
    ----------
    parts
        Tokenizers, each with its ``input``.
    """

    parts: Annotated[tuple[Part, ...], Field(min_length=1)]


class Composite:
    """Tokenizer of several tokenizers' codes.

    An item that a part's space knows nothing of (a row of zeros) gets that part's extra code at each of its levels:
    one more than the part itself has, so that "unknown" is never taken for a place in the space. Kinds that read no
    space say themselves what they give to an item they do not know.

    Attributes
    ----------
    decodes
        Whether every part does; vectors are then those of the parts, side by side, zeros where unknown.
    """

    kind: ClassVar[str] = "composite"
    Params: ClassVar[type[TokenizerParams]] = CompositeParams
    ordered: ClassVar[bool] = False

    def __init__(self, params: CompositeParams) -> None:
        self.params = params
        self.parts: list[Tokenizer] = [build(part.kind, part.params) for part in params.parts]
        self.decodes = all(part.decodes for part in self.parts)
        self._fitted = False

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Exclusive upper bound of each code, the extra codes counted."""
        return tuple(size + (_space(part) is not None) for part in self.parts for size in part.code_sizes)

    def fit(self, items: ItemData, seed: int, start: Self | None = None) -> dict[str, Any]:
        """Fit every part; see `Tokenizer.fit`."""
        if start is not None and [part.kind for part in start.parts] != [part.kind for part in self.parts]:
            raise ArtifactError(f"{self.kind}: the tokenizer to begin from has other parts")
        # Parts must not share their randomness.
        seeds = np.random.SeedSequence(seed).generate_state(len(self.parts))
        reports = [
            part.fit(items, int(seeds[place]), None if start is None else start.parts[place])
            for place, part in enumerate(self.parts)
        ]
        self._fitted = True
        return {"parts": reports}

    def encode(self, items: ItemData) -> NDArray[np.int32]:
        """Return the codes of all parts; see `Tokenizer.encode`."""
        self._check()
        return np.concatenate([_encode(part, items) for part in self.parts], axis=1)

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors of all parts side by side; see `Tokenizer.decode`."""
        if not self.decodes:
            raise ArtifactError(f"{self.kind}: codes of a part stand for no vector")
        self._check()
        bounds = np.cumsum([len(part.code_sizes) for part in self.parts])[:-1]
        own = np.split(codes, bounds, axis=1)
        return np.concatenate(
            [_decode(part, code) for part, code in zip(self.parts, own, strict=True)], axis=1
        )

    def save(self, folder: Path) -> None:
        """Write each part into a folder of its own, ``part_0`` and so on."""
        self._check()
        write_tokenizer(folder, self, {})
        for place, part in enumerate(self.parts):
            (folder / f"part_{place}").mkdir()
            part.save(folder / f"part_{place}")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        params, _ = read_tokenizer(folder, cls.Params)
        tokenizer = cls(params)
        tokenizer.parts = [
            tokenizer_class(part.kind).load(folder / f"part_{place}")
            for place, part in enumerate(params.parts)
        ]
        tokenizer._fitted = True
        return tokenizer

    def _check(self) -> None:
        if not self._fitted:
            raise ArtifactError(f"{self.kind}: not fitted yet")


def _space(part: Tokenizer) -> str | None:
    """Return the space that a part reads, if it reads one."""
    return getattr(part.params, "input", None)


def _encode(part: Tokenizer, items: ItemData) -> NDArray[np.int32]:
    codes = part.encode(items)
    if (space := _space(part)) is not None:
        codes[~items.known(space)] = part.code_sizes
    return codes


def _decode(part: Tokenizer, codes: NDArray[np.int32]) -> NDArray[np.float32]:
    unknown = codes[:, 0] == part.code_sizes[0]
    vectors = part.decode(np.where(unknown[:, None], 0, codes))
    vectors[unknown] = 0
    return vectors
