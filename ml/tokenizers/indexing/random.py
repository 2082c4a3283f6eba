"""Random item IDs: what an ID is worth that says nothing."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.tokenizers.base import TokenizerParams
from ml.tokenizers.indexing.base import IndexTokenizer
from ml.tokenizers.items import ItemData


class RandomIndexParams(TokenizerParams):
    """Parameters of `RandomIndex`.

    Parameters
    ----------
    levels
        Codes of an item, the de-duplicating one not counted.
    code_size
        Codes of a level.
    """

    levels: Annotated[int, Field(ge=1, le=16)] = 3
    code_size: Annotated[int, Field(ge=2, le=65536)] = 256


class RandomIndex(IndexTokenizer):
    """Codes are a hash of the item's ID under a key drawn from the seed, so that any item has its own at any time."""

    kind: ClassVar[str] = "random_index"
    Params: ClassVar[type[TokenizerParams]] = RandomIndexParams
    ordered: ClassVar[bool] = False

    def _fit(
        self, items: ItemData, seed: int, start: Self | None
    ) -> tuple[list[int], dict[str, NDArray[Any]]]:
        key = np.frombuffer(np.random.default_rng(seed).bytes(32), np.uint8)
        if start is not None:
            key = start._state["key"]
        return [self.params.code_size] * self.params.levels, {"key": key}

    def _encode(self, items: ItemData, state: dict[str, NDArray[Any]]) -> NDArray[Any]:
        key, bytes_each = state["key"].tobytes(), 4 * self.params.levels
        digests = [
            hashlib.blake2b(item.encode(), key=key, digest_size=bytes_each).digest()
            for item in items.item_ids
        ]
        numbers = np.frombuffer(b"".join(digests), "<u4").reshape(len(items), self.params.levels)
        return numbers % self.params.code_size
