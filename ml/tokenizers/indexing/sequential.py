"""Sequential item IDs: numbers in the order in which users' histories first name the items."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError
from ml.tokenizers.base import TokenizerParams, pack, unpack
from ml.tokenizers.indexing.base import IndexTokenizer, rows_of
from ml.tokenizers.items import ItemData


class SequentialIndexParams(TokenizerParams):
    """Parameters of `SequentialIndex`.

    Parameters
    ----------
    code_size
        Base of the numbers, whose digits are the codes; as many as the catalogue needs. With more than there are
        items, the number is one code.
    """

    code_size: Annotated[int, Field(ge=2, le=1 << 24)] = 256


class SequentialIndex(IndexTokenizer):
    """Codes are the digits of an item's number, so that items that one history named in a row share the first ones.

    Items without any event are numbered last, in the catalogue's order. All items that were not there in fitting have
    the next free number; the de-duplicating code tells them apart.
    """

    kind: ClassVar[str] = "sequential_index"
    Params: ClassVar[type[TokenizerParams]] = SequentialIndexParams

    def _fit(
        self, items: ItemData, seed: int, start: Self | None
    ) -> tuple[list[int], dict[str, NDArray[Any]]]:
        if items.first_seen is None:
            raise ArtifactError("there are no first events of the items")
        never = items.first_seen < 0
        order = [items.item_ids[row] for row in np.lexsort((items.first_seen, never))]
        before = unpack(start._state) if start is not None else []
        known = set(before)
        order = before + [item for item in order if item not in known]
        base = self.params.code_size
        sizes = [len(order) + 1]
        while sizes[0] > base:
            sizes = [(sizes[0] - 1) // base + 1, base, *sizes[1:]]
        return sizes, pack(order)

    def _encode(self, items: ItemData, state: dict[str, NDArray[Any]]) -> NDArray[Any]:
        numbers = rows_of(state, items)
        numbers[numbers < 0] = len(state["ends"])
        powers = self.params.code_size ** np.arange(len(self.code_sizes))[::-1]
        return numbers[:, None] // powers % self.params.code_size
