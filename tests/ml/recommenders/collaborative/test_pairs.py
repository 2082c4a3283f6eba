from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ml.recommenders.collaborative.pairs import Pairs, bpr

USERS, ITEMS = np.array([0, 0, 1, 2, 2, 2]), np.array([1, 3, 0, 0, 1, 3])


def test_an_epoch_holds_every_pair_once() -> None:
    pairs = Pairs(USERS, ITEMS, 4, batch_size=4, negatives=2)
    assert len(pairs) == 2
    batches = list(pairs.batches(np.random.default_rng(0)))
    assert [len(users) for users, _, _ in batches] == [4, 2]
    met = sorted((int(u), int(i)) for users, items, _ in batches for u, i in zip(users, items, strict=True))
    assert met == sorted(zip(USERS.tolist(), ITEMS.tolist(), strict=True))


def test_negatives_are_the_items_that_were_not_met_all_alike() -> None:
    pairs = Pairs(USERS, ITEMS, 4, batch_size=4, negatives=3000)
    drawn = pairs.draw(np.array([0, 1, 2]), np.random.default_rng(0))
    for row, free in zip(drawn, ([0, 2], [1, 2, 3], [2]), strict=True):
        found, counts = np.unique(row, return_counts=True)
        assert found.tolist() == free
        np.testing.assert_allclose(counts / 3000, 1 / len(free), atol=0.04)


def test_who_met_everything_gets_something() -> None:
    pairs = Pairs(np.zeros(3, np.int64), np.arange(3), 3, batch_size=3, negatives=2)
    drawn = pairs.draw(np.array([0, 0]), np.random.default_rng(0))
    assert drawn.shape == (2, 2)
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_softmax_needs_no_negatives() -> None:
    batch = next(Pairs(USERS, ITEMS, 4, batch_size=6, negatives=0).batches(np.random.default_rng(0)))
    assert batch[2].shape == (6, 0)


def test_bpr_by_hand() -> None:
    """User (1, 0), item (2, 0), negative (0, 1): scores 2 and 0."""
    states = torch.tensor([[1.0, 0.0]], requires_grad=True)
    table = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = bpr(states, table, torch.tensor([0]), torch.tensor([[1]]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    loss.backward()
    pull = 1 / (1 + math.exp(2))
    # Each moves by the sigmoid of the wrong order: the item towards the user, the negative away, the user to both.
    torch.testing.assert_close(table.grad, torch.tensor([[-pull, 0.0], [pull, 0.0]]))
    torch.testing.assert_close(states.grad, torch.tensor([[-2 * pull, pull]]))


def test_bpr_is_a_mean_over_pairs_and_negatives() -> None:
    rng = torch.Generator().manual_seed(0)
    states, table = torch.randn(3, 4, generator=rng), torch.randn(5, 4, generator=rng)
    items, negatives = torch.tensor([0, 2, 4]), torch.tensor([[1, 3], [0, 0], [2, 1]])
    one_by_one = [
        bpr(states[[row]], table, items[[row]], negatives[[row]][:, [column]])
        for row in range(3)
        for column in range(2)
    ]
    torch.testing.assert_close(bpr(states, table, items, negatives), torch.stack(one_by_one).mean())
