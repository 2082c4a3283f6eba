"""From a user to recommendations: the champion where it can answer, what is popular where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ml.histories import NO_ITEM, Histories
from serving.features import History, UserFeatures

Source = Literal["champion", "popular"]


class EngineError(Exception):
    """Nothing can be recommended yet; the message is one line that says what is missing."""


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


class Lookup(Protocol):
    """What the engine needs of the feature look-up."""

    def user(self, user_id: str) -> UserFeatures:
        """Return what is known of a user."""
        ...


Search = Callable[[NDArray[np.float32], int], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Queries float32 [n, d] and k to items [n, k] (-1 where there are fewer) and scores [n, k]."""


@dataclass(frozen=True)
class RecommendedItem:
    """One item of an answer; popular items have no score."""

    item_id: str
    title: str
    score: float | None


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
    """

    user_id: str
    items: list[RecommendedItem]
    source: Source
    reason: str
    versions: Mapping[str, str]


@dataclass
class Engine:
    """Answers requests; holds no state of its own, so that threads may share it.

    Parameters
    ----------
    champion
        The promoted recommender.
    lookup
        Where users' histories come from.
    item_ids, titles
        The catalogue that the champion was trained on, by item index.
    event_types
        Names of event types, by the index that the champion knows them under.
    popular
        Item IDs for those the champion cannot answer, best first.
    search
        Search over the champion's item vectors; None lets the champion score the whole catalogue.
    versions
        Told with every answer.
    """

    champion: Champion
    lookup: Lookup
    item_ids: Sequence[str]
    titles: Sequence[str]
    event_types: Sequence[str]
    popular: Sequence[str]
    search: Search | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    _index: dict[str, int] = field(init=False, repr=False)
    _types: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._index = {item_id: place for place, item_id in enumerate(self.item_ids)}
        self._types = {name: place for place, name in enumerate(self.event_types)}

    def recommend(self, user_id: str, k: int) -> Recommendations:
        """Return the ``k`` best items that the user's known history does not hold.

        Parameters
        ----------
        user_id
            Anyone: users without a usable history get what is popular.
        k
            Most items to return; at least 1.

        Returns
        -------
        Recommendations
            Fewer than ``k`` items where the catalogue has no more.
        """
        features = self.lookup.user(user_id)
        history = features.history
        if history is None:
            why = features.absent.get("user_history", "unknown")
            return self._popular(user_id, k, (), "unknown user" if why == "unknown" else f"history is {why}")
        if not history.items:
            return self._popular(user_id, k, (), "no interaction yet")
        known = history_rows(history, self._index, self._types)
        if known is None:
            return self._popular(user_id, k, history.items, "no item of the history is known to the champion")
        seen = {self._index[item_id] for item_id in history.items if item_id in self._index}
        items, scores = self._ask(known, k, seen)
        best = [
            (item, score)
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
            if item != NO_ITEM and item not in seen
        ]
        if not best:
            return self._popular(user_id, k, history.items, "the champion knows no further item")
        answer = [RecommendedItem(self.item_ids[i], self.titles[i], score) for i, score in best[:k]]
        reason = f"history of {len(known.items)} items"
        return Recommendations(user_id, answer, "champion", reason, self.versions)

    def _ask(self, known: Histories, k: int, seen: set[int]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return candidates of one history, best first: enough that ``k`` remain once the seen ones are dropped."""
        if self.search is not None and (query := self.champion.query_vectors(known)) is not None:
            found, found_scores = self.search(query, min(k + len(seen), len(self.item_ids)))
            return found[0], found_scores[0]
        # The champion drops what it is shown itself; a wider answer than needed costs a generative one a wider beam.
        unshown = seen.difference(known.items.tolist())
        items, scores = self.champion.recommend(
            known, min(k + len(unshown), len(self.item_ids)), exclude_history=True
        )
        return items[0], scores[0]

    def _popular(self, user_id: str, k: int, seen: Sequence[str], reason: str) -> Recommendations:
        passed = set(seen)
        chosen = [item_id for item_id in self.popular if item_id not in passed][:k]
        items = [
            RecommendedItem(
                item_id, self.titles[self._index[item_id]] if item_id in self._index else "", None
            )
            for item_id in chosen
        ]
        return Recommendations(user_id, items, "popular", reason, self.versions)


def history_rows(history: History, index: Mapping[str, int], types: Mapping[str, int]) -> Histories | None:
    """Return a history as the one row that a recommender reads, or None if it knows nothing of it.

    Events on items or of types that the catalogue did not have yet are left out.

    Parameters
    ----------
    history
        Item IDs, type names and times, oldest first.
    index
        Item ID to item index.
    types
        Type name to type index.
    """
    events = [
        (index[item_id], types[kind], time)
        for item_id, kind, time in zip(history.items, history.types, history.times, strict=True)
        if item_id in index and kind in types
    ]
    if not events:
        return None
    items, kinds, times = zip(*events, strict=True)
    return Histories(
        offsets=np.array([0, len(events)], dtype=np.int64),
        items=np.array(items, dtype=np.int32),
        event_types=np.array(kinds, dtype=np.int8),
        times=np.array(times, dtype=np.int64),
    )
