from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.losses import Likelihood, PrefixAware, PrefixAwareParams
from ml.recommenders.generative.model import GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.autoregressive import Autoregressive
from ml.snapshot import Catalogue

#: Two targets, whose codes have probabilities of one half, one quarter, ...
CHOSEN = torch.tensor([[0.5, 0.25], [0.25, 1.0]]).log()
LN2 = math.log(2)


def loss(**params: Any) -> PrefixAware:
    return PrefixAware(PrefixAwareParams(**params))


def test_pointwise_by_hand() -> None:
    # Prefixes of one code: 1/2 and 1/4; of two: 1/8 and 1/4, shared among two codes.
    first, second = 1.5 * LN2, 2.5 * LN2 / 2
    torch.testing.assert_close(loss().prefix_losses(CHOSEN), torch.tensor([first, second]))
    whole = 2.5 * LN2
    assert float(Likelihood()(CHOSEN)) == pytest.approx(whole)
    even = loss(weight=0.5, adaptive=False)
    assert float(even(CHOSEN)) == pytest.approx(whole + 0.5 * 2 * (first + second) / 2)
    weights = np.array([first * math.exp(2 * first), second * math.exp(2 * second)])
    share = weights / weights.sum()
    worst = loss(weight=0.5, focus=2.0)
    assert float(worst(CHOSEN)) == pytest.approx(whole + share @ [first, second])
    assert float(loss(weight=0.0)(CHOSEN)) == pytest.approx(whole)
    assert loss().rivals == 0


def test_shares_are_no_way_to_a_lower_loss() -> None:
    """The gradient is that of weights that stand still."""
    chosen = CHOSEN.clone().requires_grad_()
    made = loss(weight=1.0, focus=3.0)
    made(chosen).backward()
    share = made.shares(made.prefix_losses(CHOSEN))
    # Code 0 is in both prefixes, code 1 in that of two codes alone; two targets; times two levels.
    expected = -0.5 - torch.tensor([share[0] + share[1] / 2, share[1] / 2])
    torch.testing.assert_close(chosen.grad, expected.expand(2, 2))


def test_the_worst_length_counts_most() -> None:
    made = loss(focus=5.0)
    shares = made.shares(torch.tensor([0.1, 2.0, 0.5]))
    assert shares.argmax() == 1
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[1]) > 0.99
    torch.testing.assert_close(
        loss(adaptive=False).shares(torch.tensor([0.1, 2.0])), torch.tensor([0.5, 0.5])
    )


def test_pairwise_by_hand() -> None:
    chosen = torch.tensor([[0.5, 0.5]]).log()
    theirs = torch.tensor([[[0.25, 0.5], [0.5, 0.25]]]).log()
    # The second rival has the target's first code.
    apart = torch.tensor([[[True, True], [False, True]]])
    made = loss(form="pairwise", rivals=2)
    first = -math.log(0.5 / (0.5 + 0.25))
    second = -math.log(0.25 / (0.25 + 0.125 + 0.125)) / 2
    torch.testing.assert_close(made.prefix_losses(chosen, (theirs, apart)), torch.tensor([first, second]))
    cold = loss(form="pairwise", rivals=2, temperature=0.5)
    first = -math.log(0.25 / (0.25 + 0.0625))
    assert float(cold.prefix_losses(chosen, (theirs, apart))[0]) == pytest.approx(first)
    assert made.rivals == 2


@pytest.fixture
def paired() -> Network:
    torch.manual_seed(0)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [-1, -1]], np.int32)
    bare = np.zeros((6, 0), np.float32)
    catalogue = Catalogue([str(i) for i in range(6)], [""] * 6, [[]] * 6, bare, codes, (3, 2))
    params = GenerativeParams.model_validate(
        {
            "d": 8,
            "length": 4,
            "dropout": 0.0,
            "backbone": {"kind": "encoder_decoder", "heads": 1, "head_width": 8, "feed_forward": 8},
            "objective": {
                "kind": "autoregressive",
                "loss": {"kind": "prefix_aware", "form": "pairwise", "rivals": 40},
            },
        }
    )
    return params.build(params.facts(catalogue, catalogue.code_sizes))


class Spy(torch.nn.Module):
    rivals = 40

    def forward(self, chosen: torch.Tensor, rivals: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        self.chosen, (self.theirs, self.apart) = chosen, rivals
        return chosen.sum()


def test_rivals_are_other_paths_each_once(paired: Network) -> None:
    """With every path among the rivals, telling a prefix from all others is its probability."""
    sequences = Sequences.of(Histories.of([[0, 1, 2], [3]]), 4)
    targets = torch.tensor([[1, 2, 4], [5, -1, -1]])
    objective = paired.objective
    assert isinstance(objective, Autoregressive)
    spy = Spy()
    objective.path_loss = spy
    _, count = objective.loss(paired, sequences, targets)
    # The item without an ID is no target.
    assert int(count) == 3
    assert spy.theirs.shape == spy.apart.shape == (3, 40, 2)
    # 2 other first codes, 4 other items, of 40 draws that hold them all.
    assert spy.apart.sum(dim=1).tolist() == [[2, 4]] * 3
    made = loss(form="pairwise", rivals=40)
    pair = made.prefix_losses(spy.chosen, (spy.theirs, spy.apart))
    torch.testing.assert_close(pair, loss().prefix_losses(spy.chosen), atol=1e-5, rtol=1e-5)
