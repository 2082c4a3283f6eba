from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ml.tokenizers.sinkhorn import reassign, separate, sinkhorn


def test_plan_is_that_of_plain_scaling() -> None:
    cost = np.random.default_rng(0).random((6, 4))
    cost = (2 * cost - cost.max() - cost.min()) / (cost.max() - cost.min())
    plan = np.exp(-cost / 0.5)
    for _ in range(200):
        plan /= 4 * plan.sum(axis=0)
        plan /= 6 * plan.sum(axis=1, keepdims=True)
    ours = sinkhorn(torch.from_numpy(7 * cost + 3), 0.5, 200).exp().numpy()
    np.testing.assert_allclose(ours, plan, rtol=1e-9)
    np.testing.assert_allclose(ours.sum(axis=0), 1 / 4)
    np.testing.assert_allclose(ours.sum(axis=1), 1 / 6)


def test_a_small_epsilon_neither_overflows_nor_loses_the_balance() -> None:
    rest = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 3)))
    # All items are nearest to the first code.
    book = torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], dtype=torch.float64)
    cost = torch.cdist(rest, book) ** 2
    assert (cost.argmin(dim=1) == 0).all()
    plan = sinkhorn(cost, 0.003, 500)
    assert torch.isfinite(plan).all()
    assert torch.bincount(plan.argmax(dim=1), minlength=4).tolist() == pytest.approx([16] * 4, abs=3)


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(0, 3), st.integers(0, 100))
def test_separated_rows_cost_little_more_than_the_best_matching(n: int, more: int, seed: int) -> None:
    cost = np.random.default_rng(seed).random((n, n + more))
    columns = separate(torch.from_numpy(cost), 0.01)
    assert len(set(columns.tolist())) == n
    best = cost[linear_sum_assignment(cost)].sum()
    assert best - 1e-9 <= cost[np.arange(n), columns].sum() <= best + 0.25 * n


def test_more_rows_than_columns_leave_some_without() -> None:
    columns = separate(torch.zeros(5, 3), 0.1)
    assert sorted(columns.tolist()) == [-1, -1, 0, 1, 2]


def test_colliding_items_go_to_the_nearest_free_codes() -> None:
    book = np.array([[0.0], [1], [2], [10]], np.float32)
    # Items 0 and 1 collide, and code 1 of their prefix is held by item 2; items 3 and 4 have another prefix and are alone.
    codes = np.array([[7, 0], [7, 0], [7, 1], [8, 0], [8, 1]], np.int32)
    rest = np.array([[0.0], [0.4], [1], [0], [1]], np.float32)
    assert reassign(codes, rest, book, 0.003).tolist() == [[7, 0], [7, 2], [7, 1], [8, 0], [8, 1]]
    assert codes[1].tolist() == [7, 0]


def test_equal_items_part_until_their_prefix_is_full() -> None:
    book = np.arange(4, dtype=np.float32)[:, None]
    codes = np.array([[0, 1]] * 6 + [[1, 1]], np.int32)
    given_codes = reassign(codes, np.ones((7, 1), np.float32), book, 0.003)
    assert sorted(given_codes[:6, 1].tolist()) == [0, 1, 1, 1, 2, 3]
    assert (given_codes[:, 0] == codes[:, 0]).all()
    assert given_codes[6].tolist() == [1, 1]
