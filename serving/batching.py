"""Requests that arrive while a recommender is busy, answered together by its next turn."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.histories import Histories
from serving.answers import Champion

_DECODERS = ("generative", "language_model")
Answer = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass
class _Ask:
    histories: Histories
    k: int
    exclude_history: bool
    answer: Answer | None = None
    error: Exception | None = None
    #: Set when there is an answer, or when it is this one's turn to answer for all that wait.
    woken: threading.Event = field(default_factory=threading.Event)


class Batched:
    """Lets one thread at a time ask a recommender, on behalf of all that wait with the same wish.

    Nobody waits for others to come: a request that finds the recommender idle is answered at once, alone. Those that
    come meanwhile are the next batch. For a network that decodes step by step, several histories cost little more
    than one.

    Parameters
    ----------
    recommender
        What answers.
    most
        Histories of a batch.
    """

    def __init__(self, recommender: Champion, most: int) -> None:
        self._recommender = recommender
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Ask] = deque()
        self._busy = False

    def recommend(self, histories: Histories, k: int, exclude_history: bool = True) -> Answer:
        """Return what the recommender does; see `serving.answers.Champion.recommend`."""
        mine = _Ask(histories, k, exclude_history)
        with self._lock:
            self._waiting.append(mine)
            idle, self._busy = not self._busy, True
        if not idle:
            mine.woken.wait()
        if mine.answer is None and mine.error is None:
            self._turn(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

    def query_vectors(self, histories: Histories) -> NDArray[np.float32] | None:
        """Return what the recommender does."""
        return self._recommender.query_vectors(histories)

    def _turn(self, first: _Ask) -> None:
        """Answer for all that wait with the wish of the first, then wake them, and one more to go on."""
        with self._lock:
            batch = self._gather(first)
        try:
            self._answer(batch)
        finally:
            with self._lock:
                after = self._waiting[0] if self._waiting else None
                self._busy = after is not None
            for ask in batch:
                ask.woken.set()
            if after is not None:
                after.woken.set()

    def _gather(self, first: _Ask) -> list[_Ask]:
        """Take out of the queue what is to be answered together."""
        batch, room, left = [first], self._most - len(first.histories), deque[_Ask]()
        for ask in self._waiting:
            if ask is first:
                continue
            alike = (ask.k, ask.exclude_history) == (first.k, first.exclude_history)
            if alike and len(ask.histories) <= room:
                batch.append(ask)
                room -= len(ask.histories)
            else:
                left.append(ask)
        self._waiting = left
        return batch

    def _answer(self, batch: list[_Ask]) -> None:
        try:
            items, scores = self._recommender.recommend(
                _joined([ask.histories for ask in batch]),
                batch[0].k,
                exclude_history=batch[0].exclude_history,
            )
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            # One that cannot be answered must not take the others with it.
            for ask in batch:
                self._answer([ask])
            return
        ends = np.cumsum([len(ask.histories) for ask in batch])[:-1]
        parts = zip(np.split(items, ends), np.split(scores, ends), strict=True)
        for ask, answer in zip(batch, parts, strict=True):
            ask.answer = answer


def in_batches(champion: Champion | None, most: int) -> Champion | None:
    """Return a champion that answers requests together where that helps it: where it decodes."""
    return Batched(champion, most) if champion is not None and decodes(champion) and most > 1 else champion


def decodes(champion: Champion) -> bool:
    """Tell whether a champion makes its lists step by step, so that longer ones cost more; others score every item."""
    return isinstance(champion, Batched) or getattr(champion, "kind", None) in _DECODERS


def _joined(parts: list[Histories]) -> Histories:
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([part.lengths for part in parts])
    return Histories(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate([part.items for part in parts]),
        event_types=np.concatenate([part.event_types for part in parts]),
        times=np.concatenate([part.times for part in parts]),
    )
