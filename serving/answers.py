"""What the engine answers with, and what it needs of others to do so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ml.histories import Histories
from serving.features import UserFeatures
from serving.items import Explanation

Source = Literal["champion", "heuristic", "popular", "latest", "similar", "search"]


class EngineError(Exception):
    """Nothing can be answered yet; the message is one line that says what is missing."""


class UnknownItemError(Exception):
    """The catalogue has no such item."""


class LookupUnavailableError(Exception):
    """The online store gave no answer; the message is a reason that a caller may read."""


class Champion(Protocol):
    """What the engine needs of a recommender."""

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return items int32 [n, k] and scores float32 [n, k], best first; -1 and -inf where there are fewer."""
        ...

    def query_vectors(self, histories: Histories) -> NDArray[np.float32] | None:
        """Return float32 [n, d] whose inner product with an item's vector is its score, or None."""
        ...


class Search(Protocol):
    """What the engine needs of an item index; `ml.index.item_search.ItemSearch` is one."""

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: Any = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return items [n, k], -1 where there are fewer, and scores [n, k], of those that a prepared filter allows."""
        ...

    def prepare(self, mask: NDArray[np.bool_]) -> Any:
        """Make a filter, bool [n_items], ready for many searches."""
        ...


class Lookup(Protocol):
    """What the engine needs of the feature look-up."""

    def user(self, user_id: str) -> UserFeatures:
        """Return what is known of a user."""
        ...


Encode = Callable[[str], NDArray[np.float32]]
"""A text to float32 [w] of length 1, in the space of the items' text vectors; raises `EngineError` while it cannot."""


@dataclass(frozen=True)
class RecommendedItem:
    """One item of an answer; popular and latest items have no score."""

    item_id: str
    title: str
    score: float | None
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Recommendations:
    """The answer to one request.

    Parameters
    ----------
    source
        Who answered.
    reason
        Why that one did, in words.
    versions
        What the answer was made with.
    history_age
        Age of the history that was looked up, if one was.
    """

    user_id: str | None
    items: list[RecommendedItem]
    source: Source
    reason: str
    versions: Mapping[str, str]
    history_age: timedelta | None = None
