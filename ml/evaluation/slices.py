"""Groups of queries that an average hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.splits import Queries
from ml.histories import Histories

_LENGTHS = ((1, 4), (5, 9), (10, 19), (20, None))


def query_slices(
    queries: Queries, train: Histories, n_items: int, event_types: Sequence[str] = ()
) -> dict[str, NDArray[np.bool_]]:
    """Mark the queries of each slice.

    Returns
    -------
    Name to bool [n]. ``item=head|mid|tail|cold`` by the target's training events (see `popularity_groups`);
    ``history=1-4|5-9|10-19|20+`` by the events known when asked; ``type=NAME`` by the type of the target's event, where
    there are several ``event_types``.
    """
    counts = np.bincount(train.items, minlength=n_items)
    group = popularity_groups(counts)[queries.targets]
    out = {f"item={name}": group == i for i, name in enumerate(("head", "mid", "tail", "cold"))}
    lengths = queries.histories.lengths
    for low, high in _LENGTHS:
        name = f"history={low}-{high}" if high else f"history={low}+"
        out[name] = (lengths >= low) & (lengths <= (high or np.iinfo(np.int64).max))
    if len(event_types) > 1:
        out |= {f"type={name}": queries.types == i for i, name in enumerate(event_types)}
    return out


def popularity_groups(counts: NDArray[np.int64]) -> NDArray[np.int8]:
    """Group items by training events, int64 [n_items].

    Returns
    -------
    int8 [n_items]. 0 head: the most popular items that together hold a third of all training events; 1 mid: those
    that hold the next third; 2 tail: the others with any; 3 cold: none. The item in which a third ends belongs
    to it; equal counts go by lower index.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    groups = np.empty(len(counts), dtype=np.int8)
    groups[order] = np.searchsorted([1 / 3, 2 / 3], before / max(int(counts.sum()), 1), side="right")
    groups[counts == 0] = 3
    return groups
