"""From what the online store tells of a user to what a recommender reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ml.histories import Histories
from serving.features import History


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
