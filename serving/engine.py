"""From a user, a session, an item or a text to items: the champion first, then whoever can still answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.histories import NO_ITEM, Histories
from serving.answers import (
    Champion,
    Encode,
    EngineError,
    Lookup,
    LookupUnavailableError,
    Recommendations,
    RecommendedItem,
    Search,
    Source,
    UnknownItemError,
)
from serving.batching import decodes
from serving.diversity import mmr
from serving.features import Clock, History, wall_clock
from serving.items import ItemFacts, Wanted
from serving.rows import history_rows

__all__ = ["Engine", "EngineError", "Recommendations", "Search", "Source", "history_rows"]

_log = logging.getLogger(__name__)
ANYTHING = Wanted()
_POOL = 5
"""Candidates for each item of a diverse answer."""
_DEEPEST = 1024
"""Candidates that one that decodes is asked for at most when filters refuse what it gives."""
_UNMADE = object()
_FILTERS = 32
"""Filters kept ready for the index, each of a few bits to a few bytes an item."""
_Found = list[tuple[int, float]]


@dataclass
class Engine:
    """Answers requests; threads may share it, as it keeps nothing but filters that it has used.

    Parameters
    ----------
    champion
        The promoted recommender; None where it cannot be loaded.
    lookup
        Where users' histories come from.
    item_ids, titles
        The catalogue that the champion was trained on, by item index, and newcomers behind it.
    event_types
        Names of event types, by the index that the champion knows them under.
    popular
        Item IDs for those whom no recommender can answer, best first.
    search
        Search over the champion's item vectors; None lets the champion score the whole catalogue.
    versions
        Told with every answer.
    heuristic
        What answers where the champion cannot.
    facts
        What is known of the items.
    encode
        Makes a query of a text; None where the catalogue has no text vectors.
    clock
        What counts as now.
    missing
        Parts of the publication that could not be loaded.
    trained
        How many items the champion was trained on; None for all.
    withdrawn
        Tells the IDs of items that must not come, by any way; asked by every request.
    """

    champion: Champion | None
    lookup: Lookup
    item_ids: Sequence[str]
    titles: Sequence[str]
    event_types: Sequence[str]
    popular: Sequence[str]
    search: Search | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    heuristic: Champion | None = None
    facts: ItemFacts = field(default_factory=ItemFacts)
    encode: Encode | None = None
    clock: Clock = wall_clock
    missing: Sequence[str] = ()
    trained: int | None = None
    withdrawn: Callable[[], frozenset[str]] = frozenset
    _index: dict[str, int] = field(init=False, repr=False)
    _trained_index: dict[str, int] = field(init=False, repr=False)
    _types: dict[str, int] = field(init=False, repr=False)
    _filters: dict[tuple[frozenset[str], bool, frozenset[str]], Any] = field(init=False, repr=False)
    _gone: tuple[frozenset[str], NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._index = {item_id: place for place, item_id in enumerate(self.item_ids)}
        self._trained_index = self._index
        if self.trained is not None and self.trained < len(self.item_ids):
            self._trained_index = {item: self._index[item] for item in self.item_ids[: self.trained]}
        self._types = {name: place for place, name in enumerate(self.event_types)}
        self._filters = {}
        self._gone = frozenset(), np.zeros(0, np.int64)

    def knows(self, item_id: str) -> bool:
        """Tell whether the catalogue has an item."""
        return item_id in self._index

    def recommend(self, user_id: str, k: int, wanted: Wanted = ANYTHING) -> Recommendations:
        """Return the ``k`` best items for a user.

        Parameters
        ----------
        user_id
            Anyone: users without a usable history get what is popular.
        k
            Most items to return; at least 1.
        wanted
            What the answer may hold.

        Returns
        -------
        Recommendations
            Fewer than ``k`` items where the catalogue has no more.
        """
        try:
            features = self.lookup.user(user_id)
        except LookupUnavailableError as error:
            # Its cause was logged where it was noticed.
            return replace(self._popular(k, wanted, (), str(error)), user_id=user_id)
        except Exception:
            _log.exception("the online store does not answer")
            answer = self._popular(k, wanted, (), "the online store does not answer")
            return replace(answer, user_id=user_id)
        history = features.history
        if history is None:
            why = features.absent.get("user_history", "unknown")
            answer = self._popular(k, wanted, (), "unknown user" if why == "unknown" else f"history is {why}")
        else:
            answer = self.after(history, k, wanted)
        return replace(answer, user_id=user_id, history_age=features.history_age)

    def after(self, history: History, k: int, wanted: Wanted = ANYTHING) -> Recommendations:
        """Return the ``k`` best items to follow a history, such as a session; see :meth:`recommend`."""
        if not history.items:
            return self._popular(k, wanted, (), "no interaction yet")
        known = history_rows(history, self._trained_index, self._types)
        if known is None:
            reason = "no item of the history is known to the champion"
            return self._popular(k, wanted, history.items, reason)
        seen = {self._index[item_id] for item_id in history.items if item_id in self._index}
        banned = self._banned(wanted, seen if wanted.exclude_seen else ())
        missed = [] if self.champion is not None else ["the champion cannot be loaded"]
        askers: list[tuple[Source, Champion | None, Search | None]] = [
            ("champion", self.champion, self.search),
            ("heuristic", self.heuristic, None),
        ]
        for source, recommender, search in askers:
            if recommender is None:
                continue
            try:
                found = self._candidates(recommender, search, known, self._pool(k, wanted), wanted, banned)
            except Exception:
                _log.exception("the %s failed", source)
                missed.append(f"the {source} failed")
                continue
            if found:
                reason = "; ".join([*missed, f"history of {len(known.items)} items"])
                return self._answer(found, k, wanted, source, reason, known.items.tolist())
            missed.append(f"the {source} knows no further item")
        return self._popular(k, wanted, history.items, "; ".join(missed))

    def similar(self, item_id: str, k: int, wanted: Wanted = ANYTHING) -> Recommendations:
        """Return the items whose vectors are most like that of an item, by cosine.

        Raises
        ------
        UnknownItemError
            If the catalogue has no such item.
        """
        if item_id not in self._index or item_id in self.withdrawn():
            raise UnknownItemError(f"the catalogue has no item {item_id!r}")
        item = self._index[item_id]
        vector = self.facts.vectors_of([item])[0]
        if not vector.any():
            return self._popular(k, wanted, (item_id,), "the item has no vector")
        found = self._nearest(
            self.facts.vectors, vector, self._pool(k, wanted), self._allowed(wanted, {item})
        )
        return self._answer(found, k, wanted, "similar", "cosine of item vectors", [item])

    def search_text(self, text: str, k: int, wanted: Wanted = ANYTHING) -> Recommendations:
        """Return the items whose text vectors are most like that of a text, by cosine.

        Raises
        ------
        EngineError
            If there are no text vectors, or if what encodes texts cannot be used (yet).
        """
        if self.encode is None or not len(self.facts.text):
            raise EngineError("text search is off: nothing published here encodes texts")
        query = self.encode(text)
        if query.shape != self.facts.text.shape[1:]:
            raise EngineError("text search is off: the encoder does not fit the published text vectors")
        found = self._nearest(self.facts.text, query, self._pool(k, wanted), self._allowed(wanted, ()))
        return self._answer(found, k, wanted, "search", "cosine of text vectors")

    def most_popular(self, k: int, wanted: Wanted = ANYTHING) -> Recommendations:
        """Return what most users met."""
        return self._popular(k, wanted, (), "users who met an item")

    def newest(self, k: int, wanted: Wanted = ANYTHING) -> Recommendations:
        """Return the items that the catalogue heard of last."""
        allowed = self._allowed(wanted, ())
        latest = (item for item in self.facts.latest if allowed[item])
        found = [(item, np.nan) for item in islice(latest, self._pool(k, wanted))]
        return self._answer(found, k, wanted, "latest", "first appearance in catalogue or logs")

    def _pool(self, k: int, wanted: Wanted) -> int:
        return k * _POOL if wanted.diversity else k

    def _banned(self, wanted: Wanted, without: Iterable[int]) -> set[int]:
        """Return items that must not come, whatever their category and stock: few."""
        return {*without, *(self._index[item] for item in wanted.exclude if item in self._index)}

    def _allowed(self, wanted: Wanted, without: Iterable[int]) -> NDArray[np.bool_]:
        """Return which items may come, bool [n_items]."""
        allowed = self._passing(wanted, self.withdrawn())
        allowed[list(self._banned(wanted, without))] = False
        return allowed

    def _passing(self, wanted: Wanted, withdrawn: frozenset[str]) -> NDArray[np.bool_]:
        """Return which items have category and stock as wanted and are not withdrawn, bool [n_items]."""
        known, gone = self._gone
        if withdrawn is not known:
            gone = np.array([self._index[item] for item in withdrawn if item in self._index], np.int64)
            self._gone = withdrawn, gone
        passing = self.facts.passing(wanted, len(self.item_ids))
        passing[gone] = False
        return passing

    def _candidates(
        self,
        recommender: Champion,
        search: Search | None,
        known: Histories,
        need: int,
        wanted: Wanted,
        banned: set[int],
    ) -> _Found:
        """Return up to ``need`` allowed items of one history, best first."""
        query = recommender.query_vectors(known) if search is not None else None
        if search is None or query is None:
            allowed = self._allowed(wanted, banned)[: self.trained]
            return self._asked(recommender, known, need, wanted, allowed)
        # The banned ones are asked for on top: they differ with every request, and a filter is worth preparing only once.
        depth = min(need + len(banned), len(self._trained_index))
        items, scores = search.search(query, depth, self._filter(search, wanted))
        found = zip(items[0].tolist(), scores[0].tolist(), strict=True)
        return [(item, score) for item, score in found if item != NO_ITEM and item not in banned][:need]

    def _filter(self, search: Search, wanted: Wanted) -> Any:
        """Return what an index takes as a filter of category, stock and withdrawn items; None where all items pass."""
        withdrawn = self.withdrawn()
        key = (wanted.categories, wanted.in_stock, withdrawn)
        made = self._filters.get(key, _UNMADE)
        if made is _UNMADE:
            passing = self._passing(wanted, withdrawn)[: self.trained]
            made = None if passing.all() else search.prepare(passing)
            if len(self._filters) >= _FILTERS:
                self._filters.clear()
            self._filters[key] = made
        return made

    def _asked(
        self,
        recommender: Champion,
        known: Histories,
        need: int,
        wanted: Wanted,
        allowed: NDArray[np.bool_],
    ) -> _Found:
        """Return what a recommender without an index gives, asked for more while too few are allowed."""
        shown = known.items if wanted.exclude_seen else known.items[:0]
        # It drops what it is shown itself; a wider answer than needed costs a generative one a wider beam.
        refused = int((~allowed).sum() - (~allowed[np.unique(shown)]).sum())
        by_steps = decodes(recommender)
        deepest = min(max(_DEEPEST, need) if by_steps else need + refused, len(allowed))
        # Few refused items (those seen) are allowed for at once; a filter refuses most, and they lie anywhere.
        depth = min(need + (refused if refused <= need + len(known.items) else need), deepest)
        while True:
            items, scores = (
                rows[0] for rows in recommender.recommend(known, depth, exclude_history=wanted.exclude_seen)
            )
            found = [
                (item, score)
                for item, score in zip(items.tolist(), scores.tolist(), strict=True)
                if item != NO_ITEM and allowed[item]
            ]
            if len(found) >= need or depth == deepest or NO_ITEM in items:
                return found[:need]
            depth = min(4 * depth, deepest) if by_steps else deepest

    def _nearest(
        self, vectors: NDArray[np.float32], query: NDArray[np.float32], need: int, allowed: NDArray[np.bool_]
    ) -> _Found:
        cosines = np.where(allowed, vectors @ query, -np.inf)
        best = np.argpartition(-cosines, need - 1)[:need] if need < len(cosines) else np.arange(len(cosines))
        best = best[np.lexsort((best, -cosines[best]))]
        return [(item, float(cosines[item])) for item in best.tolist() if allowed[item]]

    def _popular(self, k: int, wanted: Wanted, seen: Sequence[str], reason: str) -> Recommendations:
        withdrawn = self.withdrawn()
        passed = {*(seen if wanted.exclude_seen else ()), *wanted.exclude}
        passing = self._passing(wanted, withdrawn)
        plain = not wanted.categories and not wanted.in_stock
        history = [self._index[item] for item in seen if item in self._index]
        found: _Found = []
        strangers: dict[int, str] = {}
        for item_id in self.popular:
            # A mart may know of items that the champion's catalogue does not have yet.
            item = self._index.get(item_id, -1 - len(strangers))
            if item_id in passed or item_id in withdrawn or not (passing[item] if item >= 0 else plain):
                continue
            if item < 0:
                strangers[item] = item_id
            found.append((item, np.nan))
            if len(found) == self._pool(k, wanted):
                break
        return self._answer(found, k, wanted, "popular", reason, history, strangers)

    def _answer(
        self,
        found: _Found,
        k: int,
        wanted: Wanted,
        source: Source,
        reason: str,
        history: Sequence[int] = (),
        strangers: Mapping[int, str] | None = None,
    ) -> Recommendations:
        """Put an answer together from candidates, best first; a score that is not a number is none."""
        if wanted.diversity:
            found = [found[place] for place in self._diverse(found, k, wanted.diversity)]
        items = []
        withdrawn = self.withdrawn()
        told_of = [item for item in dict.fromkeys(history) if self.item_ids[item] not in withdrawn]
        for item, score in found[:k]:
            told = None if np.isnan(score) else score
            if item < 0:
                items.append(RecommendedItem((strangers or {})[item], "", told))
                continue
            explanation = (
                self.facts.explain(item, told_of, self.item_ids, self.titles) if wanted.explain else None
            )
            items.append(RecommendedItem(self.item_ids[item], self.titles[item], told, explanation))
        return Recommendations(None, items, source, reason, self.versions)

    def _diverse(self, found: _Found, k: int, diversity: float) -> list[int]:
        """Return places among the candidates, by relevance and difference; without scores, rank is relevance."""
        if not found:
            return []
        scores = np.array([score for _, score in found], np.float32)
        relevance = -np.arange(len(found), dtype=np.float32) if np.isnan(scores).any() else scores
        vectors = self.facts.vectors_of([max(item, 0) for item, _ in found]).copy()
        vectors[[item < 0 for item, _ in found]] = 0
        return mmr(relevance, vectors, k, diversity).tolist()
