"""What users did, oldest first, as flat arrays (compressed sparse rows).

Inside a history the order is the one that the warehouse stated; nothing here sorts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml.artifacts import ArtifactError

EventType = Literal[
    "impression",
    "view",
    "click",
    "cart",
    "purchase",
    "rating",
    "like",
    "bookmark",
    "follow",
    "comment",
    "share",
    "search",
]
"""The canonical event types; only a search may name no item."""

NO_ITEM = -1
_COLUMNS = ["user_id", "position", "item_id", "event_type", "event_ts"]


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate ``arange(start, start + length)`` of every pair.

    Parameters
    ----------
    starts, lengths
        int64 [n]; lengths are not negative.

    Returns
    -------
    int64 [sum of lengths].

    Examples
    --------
    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)


@dataclass(frozen=True)
class Histories:
    """Histories of many users: user ``u`` did ``items[offsets[u]:offsets[u + 1]]``, oldest first.

    Parameters
    ----------
    offsets
        int64 [n_users + 1], from 0 to n_events, never falling.
    items
        int32 [n_events], item index.
    event_types
        int8 [n_events], index into the names that the snapshot holds.
    times
        int64 [n_events], microseconds since the epoch, never falling within a user.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    event_types: NDArray[np.int8]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events of each user, int64 [n_users]."""
        return np.diff(self.offsets)

    @property
    def users(self) -> NDArray[np.int64]:
        """User (row) of each event, int64 [n_events]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @classmethod
    def of(cls, rows: list[list[int]]) -> Histories:
        """Make histories from lists of item indices; the time of an event is its place in its row."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        n = int(lengths.sum())
        return cls(
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=np.array([item for row in rows for item in row], dtype=np.int32),
            event_types=np.zeros(n, dtype=np.int8),
            times=ranges(np.zeros(len(rows), dtype=np.int64), lengths),
        )

    def head(self, lengths: NDArray[np.int64]) -> Histories:
        """Return the first ``lengths[u]`` events of every user; int64 [n_users], each at most what there is."""
        lengths = np.asarray(lengths, dtype=np.int64)
        return self._take(self.offsets[:-1], lengths)

    def tail(self, n: int) -> Histories:
        """Return the last ``n`` events of every user, fewer where there are fewer."""
        lengths = np.minimum(self.lengths, n)
        return self._take(self.offsets[1:] - lengths, lengths)

    def keep(self, mask: NDArray[np.bool_]) -> Histories:
        """Return the events that ``mask`` [n_events] marks, as if the others had never happened; no row is lost."""
        before = np.concatenate([[0], np.cumsum(mask)])
        offsets = before[self.offsets].astype(np.int64)
        return Histories(offsets, self.items[mask], self.event_types[mask], self.times[mask])

    def rows(self, users: NDArray[np.int32] | NDArray[np.int64] | slice) -> Histories:
        """Return the histories of the given users (indices, or a slice of rows), in that order."""
        return self._take(self.offsets[:-1][users], self.lengths[users])

    def last(self, n: int) -> NDArray[np.int32]:
        """Return the last ``n`` items, right-aligned.

        Returns
        -------
        int32 [n_users, n], padded with -1 on the left.
        """
        recent = self.tail(n)
        out = np.full((len(self), n), NO_ITEM, dtype=np.int32)
        columns = ranges(n - recent.lengths, recent.lengths)
        out[recent.users, columns] = recent.items
        return out

    def _take(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Histories:
        index = ranges(starts, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Histories(offsets, self.items[index], self.event_types[index], self.times[index])


def read_histories(
    user_histories_parquet: Path, item_ids: list[str], skip_unknown: bool = False
) -> tuple[list[str], Histories, list[str]]:
    """Read the mart ``user_histories``.

    Parameters
    ----------
    user_histories_parquet
        Rows sorted by user and position.
    item_ids
        The catalogue; the place of an ID is its item index.
    skip_unknown
        Leave out events of items outside the catalogue, as a model must that was trained before they came.

    Returns
    -------
    User IDs in file order, their histories, and the names of the event types (sorted; at most 127).

    Raises
    ------
    ArtifactError
        If the file is missing, lacks a column, is not sorted, or names an item outside the catalogue.
    """
    path = user_histories_parquet
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist")
    try:
        table = pq.read_table(path, columns=_COLUMNS)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := set(_COLUMNS) - set(table.column_names):
        raise ArtifactError(f"{path} lacks the column {sorted(missing)[0]}")
    items = pc.index_in(table["item_id"], value_set=pa.array(item_ids, pa.string()))
    if skip_unknown and items.null_count:
        table, items = table.filter(items.is_valid()), items.drop_null()
    if items.null_count:
        unknown = table["item_id"].filter(pc.is_null(items))[0].as_py()
        raise ArtifactError(f"{path} names item {unknown!r}, which is not in the catalogue")
    user_ids, offsets = _group(path, table["user_id"], _numbers(table["position"]))
    names = sorted(pc.unique(table["event_type"]).to_pylist())
    types = pc.index_in(table["event_type"], value_set=pa.array(names, pa.string()))
    times = _numbers(table["event_ts"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()))
    histories = Histories(offsets, _numbers(items).astype(np.int32), _numbers(types).astype(np.int8), times)
    if np.any((np.diff(times) < 0) & (np.diff(histories.users) == 0)):
        raise ArtifactError(f"{path} is not in order of event_ts within a user")
    return user_ids, histories, names


def _group(
    path: Path, column: pa.ChunkedArray, positions: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64]]:
    """Find where each user's rows begin."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    # Codes are given in order of first sight: rows that are grouped by user never fall back to an earlier one.
    step = np.diff(codes)
    if np.any(step < 0) or np.any((step == 0) & (np.diff(positions) <= 0)):
        raise ArtifactError(f"{path} is not sorted by user_id and position")
    counts = np.bincount(codes, minlength=len(encoded.dictionary))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return encoded.dictionary.to_pylist(), offsets


def _numbers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return values
