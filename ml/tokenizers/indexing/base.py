"""What the kinds without vectors share: saving, a table of item IDs, what they cannot do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError
from ml.tokenizers.base import TokenizerParams, read_tokenizer, unpack, write_tokenizer
from ml.tokenizers.items import ItemData
from ml.vectors.store import places

_SIZES = "code_sizes"


class IndexTokenizer(ABC):
    """Tokenizer whose codes stand for no vector; a family adds `_fit` and `_encode`, its state being named arrays."""

    kind: ClassVar[str]
    Params: ClassVar[type[TokenizerParams]]
    ordered: ClassVar[bool] = True
    decodes: ClassVar[bool] = False

    def __init__(self, params: Any) -> None:
        self.params = params
        self._learned: dict[str, NDArray[Any]] | None = None

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Exclusive upper bound of each code; what was fitted decides."""
        return tuple(map(int, self._state[_SIZES]))

    def fit(self, items: ItemData, seed: int, start: Self | None = None) -> dict[str, Any]:
        """Learn which item has which codes; see `Tokenizer.fit`."""
        sizes, state = self._fit(items, seed, start)
        self._learned = {_SIZES: np.array(sizes, np.int64), **state}
        return {"rows": len(items)}

    def encode(self, items: ItemData) -> NDArray[np.int32]:
        """Return codes; see `Tokenizer.encode`."""
        return self._encode(items, self._state).astype(np.int32)

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Raise: these codes stand for no vector."""
        raise ArtifactError(f"{self.kind}: codes stand for no vector")

    def save(self, folder: Path) -> None:
        """Write kind, parameters and state into an existing folder."""
        write_tokenizer(folder, self, self._state)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        params, tensors = read_tokenizer(folder, cls.Params)
        tokenizer = cls(params)
        tokenizer._learned = tensors
        return tokenizer

    @abstractmethod
    def _fit(
        self, items: ItemData, seed: int, start: Self | None
    ) -> tuple[Iterable[int], dict[str, NDArray[Any]]]:
        """Return code sizes and what else was learned."""

    @abstractmethod
    def _encode(self, items: ItemData, state: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the codes [n, levels] of items, known or not."""

    @property
    def _state(self) -> dict[str, NDArray[Any]]:
        if self._learned is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._learned


def rows_of(packed: dict[str, NDArray[Any]], items: ItemData) -> NDArray[np.int64]:
    """Return the place of each item among packed IDs, int64 [n]; -1 where it is not one of them."""
    return places(items.item_ids, unpack(packed))
