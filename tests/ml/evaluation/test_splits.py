from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.splits import cold_items, cutoffs, split, training_histories, training_mask
from ml.histories import Histories

timed_rows = st.lists(st.lists(st.integers(0, 12), max_size=7).map(sorted), max_size=6)


def timed(rows: list[list[int]]) -> Histories:
    """Give every event its own item, so that an item says which event it was."""
    lengths = [len(row) for row in rows]
    n = sum(lengths)
    return Histories(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(n, dtype=np.int32),
        np.zeros(n, dtype=np.int8),
        np.array([t for row in rows for t in row], dtype=np.int64),
    )


def events(rows: list[list[int]]) -> list[list[tuple[int, int]]]:
    numbers = iter(range(sum(map(len, rows))))
    return [[(next(numbers), t) for t in row] for row in rows]


def row_items(histories: Histories) -> list[list[int]]:
    ends = histories.offsets
    return [histories.items[a:b].tolist() for a, b in itertools.pairwise(ends)]


@given(timed_rows)
def test_leave_one_out_equals_a_loop(rows: list[list[int]]) -> None:
    parts = split(timed(rows), "leave_one_out")
    items = [[i for i, _ in row] for row in events(rows)]
    asked = [u for u, row in enumerate(items) if len(row) >= 3]
    assert row_items(parts.train) == [row[:-2] if len(row) >= 3 else row for row in items]
    assert parts.valid.users.tolist() == parts.test.users.tolist() == asked
    assert row_items(parts.valid.histories) == [items[u][:-2] for u in asked]
    assert row_items(parts.test.histories) == [items[u][:-1] for u in asked]
    assert parts.valid.targets.tolist() == [items[u][-2] for u in asked]
    assert parts.test.targets.tolist() == [items[u][-1] for u in asked]


@given(timed_rows)
def test_temporal_equals_a_loop(rows: list[list[int]]) -> None:
    parts = split(timed(rows), "temporal")
    every = sorted(t for row in rows for t in row)
    first, second = (every[int(share * len(every))] for share in (0.8, 0.9)) if every else (0, 0)
    assert row_items(parts.train) == [[i for i, t in row if t < first] for row in events(rows)]
    for queries, low, high in ((parts.valid, first, second), (parts.test, second, np.inf)):
        expected = []
        for user, row in enumerate(events(rows)):
            known = [i for i, t in row if t < low]
            later = [i for i, t in row if low <= t < high]
            if known and later:
                expected.append((user, known, later[0]))
        got = zip(queries.users.tolist(), row_items(queries.histories), queries.targets.tolist(), strict=True)
        assert list(got) == expected


@given(timed_rows)
def test_training_mask_is_what_both_protocols_train_on(rows: list[list[int]]) -> None:
    histories = timed(rows)
    seen = [set(split(histories, p).train.items.tolist()) for p in ("leave_one_out", "temporal")]
    assert set(histories.items[training_mask(histories)].tolist()) == seen[0] & seen[1]
    train = training_histories(histories)
    assert len(train) == len(histories)
    assert train.items.tolist() == histories.items[training_mask(histories)].tolist()
    assert train.users.tolist() == histories.users[training_mask(histories)].tolist()


untimed_rows = st.lists(st.lists(st.integers(0, 45), max_size=9), min_size=1, max_size=30)


@given(untimed_rows)
def test_cold_items_equals_a_loop(rows: list[list[int]]) -> None:
    histories = Histories.of(rows)
    cold = set(cold_items(histories).tolist())
    met = {item for row in rows for item in row}
    assert len(cold) == round(0.05 * len(met))
    assert cold <= met
    parts = split(histories, "cold_items")

    def warm(items: list[int]) -> list[int]:
        return [item for item in items if item not in cold]

    assert row_items(parts.train) == [warm(row[:-2] if len(row) >= 3 else row) for row in rows]
    for queries, place, about_cold in ((parts.valid, -2, False), (parts.test, -1, True)):
        expected = [
            (user, warm(row[:place]), row[place])
            for user, row in enumerate(rows)
            if len(row) >= 3 and (row[place] in cold) == about_cold and warm(row[:place])
        ]
        got = zip(queries.users.tolist(), row_items(queries.histories), queries.targets.tolist(), strict=True)
        assert list(got) == expected


def test_the_same_items_are_cold_every_time() -> None:
    histories = Histories.of([list(range(100)), [3, 4, 5]])
    assert cold_items(histories).tolist() == cold_items(histories.rows(np.array([1, 0]))).tolist()
    assert len(cold_items(histories)) == 5
    assert len(split(Histories.of([]), "cold_items").test) == 0


def test_equal_times_stay_in_the_order_of_the_log() -> None:
    rows = [[5, 5, 5, 5], [1, 1, 2, 2], [7, 7, 7]]
    parts = split(timed(rows), "leave_one_out")
    assert parts.test.targets.tolist() == [3, 7, 10]
    assert parts.valid.targets.tolist() == [2, 6, 9]
    # The temporal cuts fall on 7: of a user's events at that time the first in the log is asked for.
    late = split(timed([*rows, [1, 7, 7]]), "temporal")
    assert late.test.targets.tolist() == [12]


def test_event_at_a_cutoff_is_later() -> None:
    histories = timed([[0, 8], [1, 9], [2, 3, 4, 5, 6, 7]])
    assert cutoffs(histories) == (8, 9)
    parts = split(histories, "temporal")
    assert 1 not in parts.train.items
    assert parts.valid.targets.tolist() == [1]
    assert parts.test.targets.tolist() == [3]


def test_full_keeps_everything_and_asks_nothing() -> None:
    histories = timed([[1, 2, 3], [4]])
    parts = split(histories, "full")
    assert parts.train is histories
    assert (len(parts.valid), len(parts.test)) == (0, 0)
    with pytest.raises(
        ValueError, match="unknown protocol 'both'; known: leave_one_out, temporal, cold_items, full"
    ):
        split(histories, "both")  # type: ignore[arg-type]


def test_take_keeps_queries_together() -> None:
    parts = split(timed([[1, 2, 3], [4, 5, 6, 7]]), "leave_one_out")
    swapped = parts.test.take(np.array([1, 0]))
    assert swapped.users.tolist() == [1, 0]
    assert swapped.targets.tolist() == [6, 2]
    assert row_items(swapped.histories) == [[3, 4, 5], [0, 1]]
    assert dataclasses.is_dataclass(swapped)
