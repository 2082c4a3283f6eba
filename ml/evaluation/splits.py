"""The only definition of what is training, validation and test.

``leave_one_out`` is the protocol of the papers, ``temporal`` that of production, ``cold_items`` asks for items that nobody
has met yet, ``full`` trains what is served. Events of equal time stand in the order of the log, here as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ml.histories import Histories

Protocol = Literal["leave_one_out", "temporal", "cold_items", "full"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
_CUTS = (0.8, 0.9)
_SHORTEST = 3
COLD_SHARE = 0.05
_COLD_SEED = 0


@dataclass(frozen=True)
class Queries:
    """Questions with a known answer.

    Parameters
    ----------
    users
        int32 [n], row of the user in the histories that were split.
    histories
        n rows: what is known when the question is asked.
    targets
        int32 [n], item index of the answer.
    types
        int8 [n], event type of the answer, as in the histories; all 0 if not given.
    """

    users: NDArray[np.int32]
    histories: Histories
    targets: NDArray[np.int32]
    types: NDArray[np.int8] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.types is None:
            object.__setattr__(self, "types", np.zeros(len(self.users), np.int8))

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.int64]) -> Queries:
        """Return the given questions, in that order."""
        return Queries(self.users[rows], self.histories.rows(rows), self.targets[rows], self.types[rows])

    def draw(self, most: int | None, seed: int) -> Queries:
        """Return at most that many questions, drawn by the seed, in their order; None returns all."""
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:most]))


@dataclass(frozen=True)
class Split:
    """Training histories (a row for every user, some empty) and the questions asked afterwards.

    Parameters
    ----------
    exclude_history
        Whether the answer to a question is never an item of its history.
    """

    protocol: Protocol
    train: Histories
    valid: Queries
    test: Queries
    exclude_history: bool = True


def split(histories: Histories, protocol: Protocol) -> Split:
    """Cut histories into training, validation and test.

    Parameters
    ----------
    histories
        Every event of every user.
    protocol
        ``leave_one_out``: of users with three events or more, the last is the test target, the one before it the
        validation target and the rest is training; shorter users are training only. ``temporal``: time is cut
        where 80 % and 90 % of all events are before; the targets are a user's first event in each later window
        and the history is everything before that window. ``cold_items``: as leave-one-out, had nobody met any of the
        items of `cold_items` before the test: their events are taken out of training and of every history, and they
        are no validation target. The test asks for the users whose target is one of them. Users of whom no history
        is left are not asked. ``full``: everything is training.

    Raises
    ------
    ValueError
        If the protocol is unknown.
    """
    if protocol == "leave_one_out":
        return _leave_one_out(histories)
    if protocol == "temporal":
        return _temporal(histories)
    if protocol == "cold_items":
        return _cold_items(histories)
    if protocol == "full":
        none = _queries(histories, np.zeros(0, np.int64), histories.lengths)
        return Split("full", histories, none, none)
    raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")


def cutoffs(histories: Histories) -> tuple[int, int]:
    """Return the two cuts of the temporal split, microseconds since the epoch.

    A cut is an event's own time; an event at a cut falls into the later window.
    """
    n = len(histories.times)
    if n == 0:
        return 0, 0
    places = [min(int(share * n), n - 1) for share in _CUTS]
    ordered = np.partition(histories.times, places)
    return int(ordered[places[0]]), int(ordered[places[1]])


def cold_items(histories: Histories) -> NDArray[np.int32]:
    """Draw the items that the protocol ``cold_items`` holds out: 5 % of all that anyone met, the same every time.

    Returns
    -------
    int32 [n], rising.
    """
    met = np.unique(histories.items)
    drawn = np.random.default_rng(_COLD_SEED).permutation(len(met))[: round(COLD_SHARE * len(met))]
    return np.sort(met[drawn])


def training_mask(histories: Histories) -> NDArray[np.bool_]:
    """Mark the events that are training under leave-one-out and temporal alike: what item vectors may see.

    Returns
    -------
    bool [n_events].
    """
    known = _training_lengths(histories)
    place = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], histories.lengths)
    mask: NDArray[np.bool_] = place < known[histories.users]
    return mask


def training_histories(histories: Histories) -> Histories:
    """Return the events that :func:`training_mask` marks, a row for every user, some empty."""
    return histories.head(_training_lengths(histories))


def _training_lengths(histories: Histories) -> NDArray[np.int64]:
    first, _ = cutoffs(histories)
    return np.minimum(_leave_one_out_lengths(histories), _lengths_before(histories, first))


def _leave_one_out_lengths(histories: Histories) -> NDArray[np.int64]:
    lengths = histories.lengths
    return np.where(lengths >= _SHORTEST, lengths - 2, lengths)


def _lengths_before(histories: Histories, cut: int) -> NDArray[np.int64]:
    before = np.concatenate([[0], np.cumsum(histories.times < cut)])
    counts: NDArray[np.int64] = before[histories.offsets[1:]] - before[histories.offsets[:-1]]
    return counts


def _leave_one_out(histories: Histories) -> Split:
    users = np.flatnonzero(histories.lengths >= _SHORTEST)
    return Split(
        "leave_one_out",
        histories.head(_leave_one_out_lengths(histories)),
        _queries(histories, users, histories.lengths - 2),
        _queries(histories, users, histories.lengths - 1),
    )


def _temporal(histories: Histories) -> Split:
    first, second = cutoffs(histories)
    before_first = _lengths_before(histories, first)
    before_second = _lengths_before(histories, second)
    valid = np.flatnonzero((before_first > 0) & (before_second > before_first))
    test = np.flatnonzero((before_second > 0) & (histories.lengths > before_second))
    return Split(
        "temporal",
        histories.head(before_first),
        _queries(histories, valid, before_first),
        _queries(histories, test, before_second),
    )


def _cold_items(histories: Histories) -> Split:
    cold = np.zeros(int(histories.items.max(initial=-1)) + 1, np.bool_)
    cold[cold_items(histories)] = True
    whole = _leave_one_out(histories)

    def asked(queries: Queries, about_cold: bool) -> Queries:
        known = queries.histories.keep(~cold[queries.histories.items])
        rows = np.flatnonzero((cold[queries.targets] == about_cold) & (known.lengths > 0))
        return replace(queries, histories=known).take(rows)

    train = whole.train.keep(~cold[whole.train.items])
    return Split("cold_items", train, asked(whole.valid, False), asked(whole.test, True))


def _queries(histories: Histories, users: NDArray[np.int64], known: NDArray[np.int64]) -> Queries:
    """Ask for the event that follows the first ``known[u]`` of each of ``users``."""
    asked = histories.offsets[users] + known[users]
    before = histories.rows(users).head(known[users])
    return Queries(users.astype(np.int32), before, histories.items[asked], histories.event_types[asked])
