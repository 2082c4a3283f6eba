from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.histories import Histories
from ml.recommenders.collaborative.propagation import edges, normalised_adjacency, propagate

N_ITEMS = 5
rows_of_items = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=6), min_size=1, max_size=5)


def dense(rows: list[list[int]]) -> torch.Tensor:
    """Make the normalised adjacency by loops."""
    n = len(rows) + N_ITEMS
    graph = torch.zeros(n, n, dtype=torch.float64)
    for user, row in enumerate(rows):
        for item in row:
            graph[user, len(rows) + item] = graph[len(rows) + item, user] = 1
    degree = graph.sum(dim=1).clamp(min=1)
    return graph / (degree[:, None] * degree[None, :]).sqrt()


def test_edges_count_a_pair_once() -> None:
    users, items = edges(Histories.of([[3, 1, 3], [], [1]]), N_ITEMS)
    assert users.tolist() == [0, 0, 2]
    assert items.tolist() == [1, 3, 1]


@given(rows_of_items)
def test_sparse_equals_dense_forth_and_back(rows: list[list[int]]) -> None:
    users, items = edges(Histories.of(rows), N_ITEMS)
    adjacency = normalised_adjacency(users, items, len(rows), N_ITEMS)
    expected = dense(rows)
    torch.testing.assert_close(adjacency.to_dense().double(), expected)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((len(expected), 3)).astype(np.float32))
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    twice = propagate(adjacency, propagate(adjacency, ours))
    twin = expected @ (expected @ theirs)
    torch.testing.assert_close(twice.double(), twin, rtol=1e-5, atol=1e-5)
    (twice**2).sum().backward()
    (twin**2).sum().backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_one_step_by_hand() -> None:
    """User 0 met items 0 and 1, user 1 met item 1 alone."""
    adjacency = normalised_adjacency(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, 2)
    moved = propagate(adjacency, torch.tensor([[1.0], [2.0], [3.0], [5.0]]))
    half = 0.5**0.5
    expected = [3 * half + 5 / 2, 5 * half, half, 1 / 2 + 2 * half]
    torch.testing.assert_close(moved[:, 0], torch.tensor(expected))
