from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.artifacts import ArtifactError
from ml.histories import Histories, ranges, read_histories

rows_of_items = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6)


def as_lists(histories: Histories) -> list[list[int]]:
    ends = histories.offsets
    return [histories.items[a:b].tolist() for a, b in itertools.pairwise(ends)]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5))))
def test_ranges_equal_a_loop(pairs: list[tuple[int, int]]) -> None:
    starts = np.array([a for a, _ in pairs], dtype=np.int64)
    lengths = np.array([n for _, n in pairs], dtype=np.int64)
    assert ranges(starts, lengths).tolist() == [a + i for a, n in pairs for i in range(n)]


@given(rows_of_items, st.integers(1, 7))
def test_tail_and_last_equal_slices(rows: list[list[int]], n: int) -> None:
    histories = Histories.of(rows)
    assert as_lists(histories) == rows
    assert as_lists(histories.tail(n)) == [row[-n:] for row in rows]
    padded = [[-1] * (n - len(row[-n:])) + row[-n:] for row in rows]
    assert histories.last(n).tolist() == padded


@given(rows_of_items, st.data())
def test_head_and_rows_equal_slices(rows: list[list[int]], data: st.DataObject) -> None:
    histories = Histories.of(rows)
    lengths = [data.draw(st.integers(0, len(row))) for row in rows]
    head = histories.head(np.array(lengths, dtype=np.int64))
    assert as_lists(head) == [row[:n] for row, n in zip(rows, lengths, strict=True)]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    assert as_lists(histories.rows(np.array(chosen, dtype=np.int64))) == [rows[u] for u in chosen]
    assert as_lists(histories.rows(slice(1, 3))) == rows[1:3]


def write(path: Path, rows: list[tuple[str, int, str, str, int]], **replace: pa.Array) -> Path:
    start = datetime(2025, 3, 1, tzinfo=UTC)
    users, positions, items, types, days = zip(*rows, strict=True)
    columns = {
        "user_id": pa.array(users),
        "position": pa.array(positions, pa.int32()),
        "item_id": pa.array(items),
        "event_type": pa.array(types),
        "event_ts": pa.array([start + timedelta(days=d) for d in days], pa.timestamp("us", tz="UTC")),
        "value": pa.nulls(len(rows), pa.float64()),
    } | replace
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return path


GOOD = [
    ("a", 1, "y", "view", 0),
    ("a", 2, "x", "purchase", 2),
    ("b", 1, "x", "view", 1),
]


def test_read_histories(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", GOOD)
    users, histories, names = read_histories(path, ["w", "x", "y"])
    assert users == ["a", "b"]
    assert names == ["purchase", "view"]
    assert as_lists(histories) == [[2, 1], [1]]
    assert histories.event_types.tolist() == [1, 0, 1]
    assert histories.times[0] == 1740787200000000
    assert (histories.times[1:] - histories.times[0]).tolist() == [2 * 86400 * 10**6, 86400 * 10**6]
    assert [a.dtype.name for a in (histories.offsets, histories.items, histories.event_types)] == [
        "int64",
        "int32",
        "int8",
    ]


def test_read_histories_of_nobody(tmp_path: Path) -> None:
    path = write(tmp_path / "h.parquet", GOOD)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    users, histories, names = read_histories(path, ["x"])
    assert (users, len(histories), names) == ([], 0, [])


def test_read_histories_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    with pytest.raises(ArtifactError, match="does not exist"):
        read_histories(path, ["x"])
    path.write_text("no parquet")
    with pytest.raises(ArtifactError, match=r"h\.parquet cannot be read"):
        read_histories(path, ["x"])
    with pytest.raises(ArtifactError, match="'y', which is not in the catalogue"):
        read_histories(write(path, GOOD), ["x"])
    with pytest.raises(ArtifactError, match="not sorted"):
        read_histories(write(path, GOOD[::-1]), ["x", "y"])
    with pytest.raises(ArtifactError, match="not sorted"):
        read_histories(write(path, [GOOD[0], GOOD[2], GOOD[1]]), ["x", "y"])
    with pytest.raises(ArtifactError, match="not in order of event_ts"):
        read_histories(write(path, [("a", 1, "x", "view", 3), ("a", 2, "y", "view", 2)]), ["x", "y"])
    table = pq.read_table(write(path, GOOD)).drop_columns(["event_type"])
    pq.write_table(table, path)
    with pytest.raises(ArtifactError, match="event_type") as caught:
        read_histories(path, ["x", "y"])
    assert "\n" not in str(caught.value)


def test_keep_passes_over_events_and_loses_no_row() -> None:
    histories = Histories.of([[5, 6, 7], [], [8], [5, 9]])
    kept = histories.keep(np.array([True, False, True, False, False, True]))
    assert kept.offsets.tolist() == [0, 2, 2, 2, 3]
    assert kept.items.tolist() == [5, 7, 9]
    assert kept.times.tolist() == [0, 2, 1]
