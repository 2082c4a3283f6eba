"""Distances of distributions: against SciPy, by hand, and on what they must be like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from orchestration.quality.drift import (
    grouped,
    jensen_shannon,
    jensen_shannon_by_chance,
    psi,
    psi_by_chance,
    quantile_groups,
)

histograms = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 500), min_size=n, max_size=n).filter(any)] * 2)
)


@given(histograms)
def test_jensen_shannon_is_that_of_scipy(pair: tuple[list[int], list[int]]) -> None:
    left, right = pair
    assert jensen_shannon(left, right) == pytest.approx(jensenshannon(left, right, base=2), abs=1e-7)


@given(histograms)
def test_distances_are_symmetric_and_zero_for_equal_shares(pair: tuple[list[int], list[int]]) -> None:
    left, right = pair
    for distance in (psi, jensen_shannon):
        assert distance(left, right) == pytest.approx(distance(right, left), abs=1e-9)
        assert distance(left, left) == pytest.approx(0, abs=1e-7)
        assert distance(left, right) >= 0
    assert jensen_shannon(left, right) <= 1 + 1e-9


def test_psi_by_hand() -> None:
    # 9 and 30 against 20 and 20, with half a count more in each bucket.
    p, q = (9.5 / 40, 30.5 / 40), (20.5 / 41, 20.5 / 41)
    by_hand = (p[0] - q[0]) * np.log(p[0] / q[0]) + (p[1] - q[1]) * np.log(p[1] / q[1])
    assert psi([9, 30], [20, 20]) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.3062, abs=1e-4)
    # An empty bucket is finite: 0.5 and 100.5 of 101 against a half each.
    assert psi([0, 100], [50, 50]) == pytest.approx(2.6254, abs=1e-4)


def test_disjoint_words_are_as_far_apart_as_can_be() -> None:
    assert jensen_shannon([5, 0], [0, 9]) == pytest.approx(1)


def test_chance_bounds_are_exceeded_as_rarely_as_they_say() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(10, 5.0))
    left, right = rng.multinomial(500, shares, 4000), rng.multinomial(2000, shares, 4000)
    for distance, bound in ((psi, psi_by_chance), (jensen_shannon, jensen_shannon_by_chance)):
        limit = bound(10, 500, 2000, 0.05)
        beyond = np.mean([distance(p, q) > limit for p, q in zip(left, right, strict=True)])
        assert 0.03 < beyond < 0.07
    assert psi_by_chance(1, 10, 10, 0.05) == 0


@given(st.dictionaries(st.integers(-50, 50), st.integers(1, 100), min_size=1), st.integers(1, 10))
def test_groups_are_whole_buckets_of_enough_weight(counts: dict[int, int], groups: int) -> None:
    ends = quantile_groups(counts, groups)
    found = grouped(counts, ends)
    by_hand = [
        sum(n for bucket, n in counts.items() if low < bucket <= high)
        for low, high in zip([-np.inf, *ends], [*ends, np.inf], strict=True)
    ]
    assert found.tolist() == by_hand
    assert len(found) <= groups
    assert all(weight >= sum(counts.values()) / groups for weight in found[:-1])
    assert ends == sorted(set(ends))


def test_values_beyond_the_reference_fall_into_the_outer_groups() -> None:
    assert grouped({-9: 1, 2: 2, 99: 4}, [0, 2]).tolist() == [1, 2, 4]
    assert grouped({}, [0, 2]).tolist() == [0, 0, 0]
