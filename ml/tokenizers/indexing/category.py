"""Category item IDs: the path of an item's categories, coarse to fine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ml.artifacts import ArtifactError
from ml.tokenizers.base import TokenizerParams, pack, unpack
from ml.tokenizers.indexing.base import IndexTokenizer
from ml.tokenizers.items import ItemData


class CategoryIndexParams(TokenizerParams):
    """Parameters of `CategoryIndex`.

    Parameters
    ----------
    levels
        Most categories of a path; fewer where no item has so many.
    """

    levels: Annotated[int, Field(ge=1, le=64)] = 4


class CategoryIndex(IndexTokenizer):
    """Codes are the numbers of the categories among those of the same parent, from 1, in the order of their names.

    Code 0 stands for a category that was not there in fitting, for all below it, and for an item without one.
    """

    kind: ClassVar[str] = "category_index"
    Params: ClassVar[type[TokenizerParams]] = CategoryIndexParams

    def _fit(
        self, items: ItemData, seed: int, start: Self | None
    ) -> tuple[list[int], dict[str, NDArray[Any]]]:
        if not any(items.categories or ()):
            raise ArtifactError("there are no categories of the items")
        numbers = _numbers(start._state) if start is not None else {}
        children: dict[tuple[str, ...], int] = {}
        for path, number in numbers.items():
            children[path[:-1]] = max(children.get(path[:-1], 0), number)
        for path in sorted({path for names in items.categories or () for path in self._prefixes(names)}):
            if path not in numbers:
                children[path[:-1]] = numbers[path] = children.get(path[:-1], 0) + 1
        sizes = [2] * max(map(len, numbers))
        for path, number in numbers.items():
            sizes[len(path) - 1] = max(sizes[len(path) - 1], number + 1)
        state = pack(map(json.dumps, numbers)) | {"numbers": np.array(list(numbers.values()), np.int64)}
        return sizes, state

    def _encode(self, items: ItemData, state: dict[str, NDArray[Any]]) -> NDArray[Any]:
        numbers = _numbers(state)
        codes = np.zeros((len(items), len(self.code_sizes)), np.int32)
        for row, names in enumerate(items.categories or ()):
            for level, path in enumerate(self._prefixes(names)):
                if path not in numbers:
                    break
                codes[row, level] = numbers[path]
        return codes

    def _prefixes(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(names[: depth + 1]) for depth in range(min(len(names), self.params.levels))]


def _numbers(state: dict[str, NDArray[Any]]) -> dict[tuple[str, ...], int]:
    """Return the number of each path among its siblings."""
    paths = [tuple(json.loads(text)) for text in unpack(state)]
    return dict(zip(paths, state["numbers"].tolist(), strict=True))
