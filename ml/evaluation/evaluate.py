"""Ask a recommender every query over the full catalogue, and check what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.metrics import MISSED, accuracy, beyond_accuracy, expected_accuracy, target_ranks
from ml.evaluation.slices import query_slices
from ml.evaluation.splits import Queries
from ml.histories import NO_ITEM, Histories

_SHOWN = 10
_DEEPEST = 1000


class Answers(Protocol):
    """The part of a recommender that is evaluated."""

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What came of one set of queries.

    Parameters
    ----------
    users
        int32 [n], as in the queries; two evaluations with equal users can be paired.
    ranks
        int32 [n], place of the target from 1; 0 = not among the ``k``.
    slices
        Name to bool [n].
    metrics
        Name to mean over all queries.
    checks
        Counts that should be read with the metrics: ``queries``; ``tied_targets`` (a neighbour in the list has the
        target's score, so its place is owed to its index); ``target_in_history`` (can only be missed where history
        is excluded); and the faults in `INVALID`.
    k
        Length of the lists.
    expected
        Accuracy as in `metrics`, were items of equal score put in random order: its mean over all such orders. What
        a recommender owes to the order of the catalogue is the difference.
    exclude_history
        Whether items of the history were not to be recommended.
    """

    users: NDArray[np.int32]
    ranks: NDArray[np.int32]
    slices: dict[str, NDArray[np.bool_]]
    metrics: dict[str, float]
    checks: dict[str, int]
    k: int
    expected: dict[str, float] = field(default_factory=dict)
    exclude_history: bool = True

    @property
    def slice_metrics(self) -> dict[str, dict[str, float]]:
        """Queries and accuracy of every slice that has any query."""
        return {
            name: {"queries": int(mask.sum()), **accuracy(self.ranks[mask], self.k)}
            for name, mask in self.slices.items()
            if mask.any()
        }

    @property
    def invalid(self) -> int:
        """Faults of all kinds; 0 for a recommender that keeps its contract."""
        return sum(self.checks[name] for name in INVALID)


#: ``unknown_items``, ``repeated_items`` and ``history_items`` count places, the others count lists: shorter than
#: the catalogue allows, or not in order of score (NaN included).
INVALID = ("unknown_items", "repeated_items", "history_items", "short_lists", "unordered_lists")


def evaluate(
    recommender: Answers,
    queries: Queries,
    train: Histories,
    n_items: int,
    k: int = 50,
    batch: int = 1024,
    exclude_history: bool = True,
    event_types: Sequence[str] = (),
) -> Evaluation:
    """Rank the whole catalogue for every query; a hit is a hit on the item.

    Equal scores go by lower item index, as a recommender's contract says: arbitrary, but fixed. `Evaluation.expected`
    tells what chance would have given instead. Where a tie goes on beyond a list, the recommender is asked for a longer
    one, of 1000 at most; a tie that is not over there is taken to hold all other items.

    Parameters
    ----------
    recommender
        Already fitted.
    queries
        Histories and targets.
    train
        What it was fitted on, for popularity and slices.
    n_items
        Size of the catalogue.
    k
        Length of the lists.
    batch
        Queries asked at once.
    exclude_history
        Whether items of the history must not be recommended.
    event_types
        Names of the event types, for slices by the target's.

    Raises
    ------
    ValueError
        If an answer has the wrong shape.
    """
    ranks = np.zeros(len(queries), dtype=np.int32)
    ties = np.zeros((len(queries), 2), dtype=np.int64)
    shown = np.zeros(n_items, dtype=np.int64)
    checks = dict.fromkeys(("queries", "tied_targets", "target_in_history", *INVALID), 0)
    checks["queries"] = len(queries)
    for start in range(0, len(queries), batch):
        rows = slice(start, min(start + batch, len(queries)))
        asked, targets = queries.histories.rows(rows), queries.targets[rows]
        # One more than counts tells whether a tie goes on beyond the list.
        items, scores = recommender.recommend(asked, k + 1, exclude_history)
        if items.shape != (len(asked), k + 1) or scores.shape != items.shape:
            raise ValueError(f"answers of shape {items.shape} where ({len(asked)}, {k + 1}) was asked")
        ties[rows] = _tied_places(recommender, asked, targets, (items, scores), n_items, exclude_history)
        items, scores = items[:, :k], scores[:, :k]
        hits = items == targets[:, None]
        ranks[rows] = target_ranks(items, targets)
        top = items[:, :_SHOWN]
        shown += np.bincount(top[(top >= 0) & (top < n_items)], minlength=n_items)
        faults = _faults(items, scores, asked, n_items, exclude_history)
        faults["tied_targets"] = int((hits & _ties(items, scores)).any(axis=1).sum())
        faults["target_in_history"] = int(_in_history(targets[:, None], asked, n_items).sum())
        for name, count in faults.items():
            checks[name] += count
    counts = np.bincount(train.items, minlength=n_items)
    metrics = accuracy(ranks, k) | beyond_accuracy(shown, counts, queries.targets)
    return Evaluation(
        queries.users,
        ranks,
        query_slices(queries, train, n_items, event_types),
        metrics,
        checks,
        k,
        expected_accuracy(ties, k),
        exclude_history,
    )


def _tied_places(
    recommender: Answers,
    asked: Histories,
    targets: NDArray[np.int32],
    answers: tuple[NDArray[np.int32], NDArray[np.float32]],
    n_items: int,
    exclude: bool,
) -> NDArray[np.int64]:
    """Return the first and the last place that the target could have, ties being ordered at will; int64 [n, 2].

    Zeros where the target is not found.
    """
    items, scores = answers
    places = _places(items, scores, targets)
    deep = min(_DEEPEST, n_items)
    wide = items.shape[1]
    open_end = (items[:, -1] != NO_ITEM) & (scores[:, -2:-1] == scores[:, -1:]).any(axis=1)
    again = np.flatnonzero(open_end & ((places[:, 0] == MISSED) | (places[:, 1] == wide)))
    if len(again) and deep > wide:
        some = asked.rows(again)
        items, scores = recommender.recommend(some, deep, exclude)
        places[again] = _places(items, scores, targets[again])
        room = n_items - (_distinct(some, n_items) if exclude else 0)
        cut = places[again, 1] == deep
        places[again[cut], 1] = np.broadcast_to(room, len(again))[cut]
    return places


def _places(
    items: NDArray[np.int32], scores: NDArray[np.float32], targets: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return the first and last place (from 1) of those with the target's score, int64 [n, 2]; 0 where not found."""
    hits = items == targets[:, None]
    found = hits.any(axis=1)
    own = np.where(found, scores[np.arange(len(items)), hits.argmax(axis=1)], np.nan)
    same = (scores == own[:, None]) & (items != NO_ITEM)
    first = same.argmax(axis=1) + 1
    last = items.shape[1] - same[:, ::-1].argmax(axis=1)
    # A score that is no number equals none, not even its own.
    lone = hits.argmax(axis=1) + 1
    told = same.any(axis=1)
    ends = np.stack([np.where(told, first, lone), np.where(told, last, lone)], axis=1)
    return np.where(found[:, None], ends, MISSED).astype(np.int64)


def _faults(
    items: NDArray[np.int32], scores: NDArray[np.float32], asked: Histories, n_items: int, exclude: bool
) -> dict[str, int]:
    given = items != NO_ITEM
    known = given & (items >= 0) & (items < n_items)
    ordered = np.sort(items, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM)
    old = _in_history(np.where(known, items, 0), asked, n_items) & known
    possible = n_items - (_distinct(asked, n_items) if exclude else 0)
    falling = (scores[:, 1:] <= scores[:, :-1]) | ~given[:, 1:]
    return {
        "unknown_items": int((given & ~known).sum()),
        "repeated_items": int(repeated.sum()),
        "history_items": int(old.sum()) if exclude else 0,
        "short_lists": int((known.sum(axis=1) < np.minimum(items.shape[1], possible)).sum()),
        "unordered_lists": int((~falling.all(axis=1) | np.isnan(scores).any(axis=1)).sum()),
    }


def _ties(items: NDArray[np.int32], scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark the places whose neighbour has the same score."""
    same = (scores[:, 1:] == scores[:, :-1]) & (items[:, 1:] != NO_ITEM)
    tied = np.zeros(items.shape, dtype=np.bool_)
    tied[:, 1:] |= same
    tied[:, :-1] |= same
    return tied


def _in_history(items: NDArray[np.int32], asked: Histories, n_items: int) -> NDArray[np.bool_]:
    """Mark which items [n, m] (all within the catalogue) are in their row's history."""
    rows = np.arange(len(asked), dtype=np.int64)[:, None]
    return np.isin(rows * n_items + items, asked.users * n_items + asked.items)


def _distinct(asked: Histories, n_items: int) -> NDArray[np.int64]:
    keys = np.unique(asked.users * n_items + asked.items)
    return np.bincount(keys // n_items, minlength=len(asked))
