from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.tokenizers import neighbours

_ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=4, max_size=9)


@given(_ROWS, st.booleans())
def test_code_similarity_equals_plain_loops(rows: list[tuple[int, int, int]], ordered: bool) -> None:
    codes = np.array(rows, np.int32)
    queries = np.arange(0, len(codes), 2)
    found = neighbours.code_similarity(codes, queries, ordered)
    for place, query in enumerate(queries):
        for other, row in enumerate(rows):
            equal = [a == b for a, b in zip(rows[query], row, strict=True)]
            wanted = len(list(itertools.takewhile(bool, equal))) if ordered else sum(equal)
            assert found[place, other] == (-np.inf if other == query else wanted)


def _by_trial(row: np.ndarray, k: int) -> np.ndarray:
    """Go through every order of the candidates, and count how often each is among the first ``k``."""
    candidates = [place for place in range(len(row)) if row[place] > -np.inf]
    counts = np.zeros(len(row))
    orders = list(itertools.permutations(candidates))
    for order in orders:
        best = sorted(order, key=lambda place: -row[place])[:k]
        counts[best] += 1
    return counts / len(orders)


@given(st.lists(st.integers(0, 2), min_size=4, max_size=6), st.integers(1, 3))
def test_inclusion_is_what_all_orders_of_ties_give(scores: list[int], k: int) -> None:
    row = np.array([-np.inf, *scores], np.float32)
    found = neighbours.inclusion(row[None], k)[0]
    np.testing.assert_allclose(found, _by_trial(row, k), atol=1e-6)
    assert found.sum() == pytest.approx(k, abs=1e-5)


def test_overlap_by_hand() -> None:
    left = np.array([[-np.inf, 3, 2, 1, 0]], np.float32)
    right = np.array([[-np.inf, 1, 0, 0, 1]], np.float32)
    # The two nearest on the left are 1 and 2; on the right 1 and 4.
    assert neighbours.overlap(left, right, 2) == pytest.approx(0.5)
    # Of the right's three nearest, 1 and 4 are sure and 2 comes in half of all orders.
    assert neighbours.overlap(left, right, 3) == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_all_equal_codes_come_to_chance() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    queries = np.arange(60)
    same = neighbours.code_similarity(np.zeros((60, 3), np.int32), queries, ordered=True)
    assert neighbours.overlap(neighbours.cosine(vectors, queries), same, 10) == pytest.approx(10 / 59)


def test_equal_vectors_tie_in_spite_of_rounding() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(7, 33)).astype(np.float32)
    vectors = np.concatenate([base * scale for scale in (1, 3, 0.1)]).astype(np.float32)
    found = neighbours.inclusion(neighbours.cosine(vectors, np.arange(21)), 1)
    for row in range(21):
        twins = [other for other in range(21) if other % 7 == row % 7 and other != row]
        np.testing.assert_allclose(found[row, twins], 0.5)


def test_broken_ties_are_a_total_order_that_keeps_the_similarity() -> None:
    codes = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(np.int32)
    plain = neighbours.code_similarity(codes, np.arange(50), ordered=False)
    broken = neighbours.break_ties(plain, seed=0)
    np.testing.assert_array_equal(neighbours.break_ties(plain, seed=0), broken)
    np.testing.assert_array_equal(np.floor(broken), plain)
    assert set(np.unique(neighbours.inclusion(broken, 10))) == {0.0, 1.0}


def test_sample_is_rising_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CANDIDATES", 40)
    rows, queries = neighbours.sample_rows(100, seed=1, queries=7)
    assert (len(rows), len(queries)) == (40, 7)
    assert (np.diff(rows) > 0).all()
    assert rows.max() < 100
    assert queries.max() < 40
    assert [part.tolist() for part in neighbours.sample_rows(5, 0)] == [[0, 1, 2, 3, 4]] * 2
