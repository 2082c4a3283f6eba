from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ml.tokenizers.collisions import assign_new, deduplicate, group_ids

_TUPLES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30)


def _matrix(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 2)


@given(_TUPLES)
def test_deduplicate_numbers_in_order(rows: list[tuple[int, int]]) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    expected = []
    for row in rows:
        expected.append([*row, seen[row]])
        seen[row] += 1
    codes = deduplicate(_matrix(rows))
    assert codes.dtype == np.int32
    assert codes.tolist() == expected


@given(_TUPLES, _TUPLES)
def test_appending_equals_doing_it_at_once(old: list[tuple[int, int]], new: list[tuple[int, int]]) -> None:
    first = deduplicate(_matrix(old))
    second = assign_new(first, _matrix(new))
    np.testing.assert_array_equal(np.concatenate([first, second]), deduplicate(_matrix(old + new)))


def test_code_of_an_item_that_left_in_the_middle_is_not_given_again() -> None:
    old = np.array([[1, 1, 0], [1, 1, 2]], np.int32)
    assert assign_new(old, _matrix([(1, 1), (2, 2), (1, 1)])).tolist() == [[1, 1, 3], [2, 2, 0], [1, 1, 4]]


@given(_TUPLES)
def test_groups_are_those_of_equal_rows(rows: list[tuple[int, int]]) -> None:
    groups = group_ids(_matrix(rows))
    expected = {row: place for place, row in enumerate(sorted(set(rows)))}
    assert groups.tolist() == [expected[row] for row in rows]
