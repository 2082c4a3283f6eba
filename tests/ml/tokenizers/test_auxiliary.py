from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ml.artifacts import ArtifactError
from ml.tokenizers.auxiliary import Alignment, CoOccurrence, Diversity, Step, auxiliaries, info_nce
from ml.tokenizers.items import ItemData
from ml.tokenizers.networks import Autoencoder
from ml.tokenizers.quantizers import Quantised
from ml.tokenizers.rqvae import RQVAEParams


def _step(rows: list[int], codes: torch.Tensor, passed: torch.Tensor) -> Step:
    return Step(torch.tensor(rows), Quantised(codes, torch.zeros(0), torch.zeros(0)), passed)


def test_info_nce_by_hand() -> None:
    left, right = torch.eye(2) * 5, torch.tensor([[2.0, 0], [3, 3]])
    half = 0.5**0.5
    first = -np.log(np.exp(2) / (np.exp(2) + np.exp(2 * half)))
    second = -np.log(np.exp(2 * half) / (np.exp(2 * half) + np.exp(0)))
    assert float(info_nce(left, right, 0.5)) == pytest.approx((first + second) / 2)
    # What is no counter-example does not count: the second row has none left.
    same = torch.tensor([[True, False], [True, True]])
    assert float(info_nce(left, right, 0.5, same)) == pytest.approx(first / 2)


def test_alignment_asks_only_items_with_behaviour() -> None:
    behaviour = torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]])
    alignment = Alignment(behaviour, 3, 1.0, 0.1)
    passed = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = alignment.loss(_step([0, 1, 2, 3], torch.zeros(4, 1), passed))
    loss.backward()
    assert loss > 0
    assert passed.grad is not None
    assert (passed.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False, True]
    assert float(alignment.loss(_step([2, 3], torch.zeros(2, 1), passed[:2]))) == 0


def test_diversity_pulls_to_the_cluster_and_pushes_from_the_others() -> None:
    # Two clusters of two directions each.
    book = torch.tensor([[[1.0, 0.1], [1, -0.1], [-1, 0.1], [-1, -0.1]]])
    books = torch.nn.Parameter(book)
    diversity = Diversity(books, 2, 1.0)
    diversity.begin_epoch(np.random.default_rng(0))
    codes = torch.tensor([[0], [3]])
    before = float(diversity.loss(_step([0, 1], codes, torch.zeros(2, 2))).detach())
    # Inner products with the fellow, and with the two of the other cluster.
    own, others = np.exp(0.99), np.exp(-1.01) + np.exp(-0.99)
    assert before == pytest.approx(-np.log(own / (own + others)), rel=1e-5)
    diversity.loss(_step([0, 1], codes, torch.zeros(2, 2))).backward()
    assert books.grad is not None
    # A step against the gradient turns code 0 towards code 1, its only fellow.
    assert books.grad[0, 0, 1] > 0


def test_a_code_alone_in_its_cluster_has_no_say() -> None:
    books = torch.nn.Parameter(torch.tensor([[[1.0, 0], [1, 0.1], [1, -0.1], [-50, 0]]]))
    diversity = Diversity(books, 2, 1.0)
    diversity.begin_epoch(np.random.default_rng(0))
    loss = [
        float(diversity.loss(_step([0], torch.tensor([[code]]), torch.zeros(1, 2))).detach())
        for code in (0, 3)
    ]
    assert loss[0] > 0
    assert loss[1] == 0


def _co_occurrence(weights: dict[str, float]) -> tuple[CoOccurrence, torch.Tensor]:
    pairs = csr_array((np.array([3.0, 1, 5]), ([0, 2, 1], [1, 0, 1])), shape=(4, 4))
    data = torch.arange(8.0).reshape(4, 2)
    network = Autoencoder(2, (), None, 1, 2, None)
    items = ItemData(list("abcd"), pairs=pairs)
    return CoOccurrence(items, data, network, lambda rows: data[rows], **weights, temperature=0.1), data


def test_partners_are_drawn_by_weight_either_way() -> None:
    co_occurrence, _ = _co_occurrence({"alignment": 1.0, "reconstruction": 0.0})
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        co_occurrence.begin_epoch(rng)
        drawn.append(co_occurrence._partners.tolist())
    first, second, third, fourth = zip(*drawn, strict=True)
    assert set(first) == {1, 2}
    assert first.count(1) == pytest.approx(300, abs=30)
    assert set(second) == {0}
    assert set(third) == {0}
    assert set(fourth) == {-1}


def test_reconstruction_is_of_the_partner() -> None:
    co_occurrence, data = _co_occurrence({"alignment": 0.0, "reconstruction": 0.5})
    co_occurrence.begin_epoch(np.random.default_rng(0))
    # Items 1 and 2 have item 0 as only partner, item 3 has none.
    loss = co_occurrence.loss(_step([1, 2, 3], torch.zeros(3, 1), data[1:]))
    assert float(loss) == pytest.approx(0.5 * (4 + 16) / 2)


def test_equal_partners_are_no_counter_examples() -> None:
    co_occurrence, data = _co_occurrence({"alignment": 1.0, "reconstruction": 0.0})
    co_occurrence.begin_epoch(np.random.default_rng(0))
    assert float(co_occurrence.loss(_step([1, 2], torch.zeros(2, 1), data[1:3]))) == 0


@pytest.mark.parametrize(
    ("switch", "missing"),
    [({"alignment": 1.0}, "no 'behaviour' vectors"), ({"cooccurrence": 1.0}, "no pairs")],
)
def test_what_a_loss_needs_is_named(switch: dict[str, Any], missing: str) -> None:
    network = Autoencoder(2, (), None, 1, 2, None)
    items, data = ItemData(["a"]), torch.zeros(1, 2)
    assert auxiliaries(RQVAEParams(), items, data, network, lambda rows: data) == []
    with pytest.raises(ArtifactError, match=f"there are {missing}"):
        auxiliaries(RQVAEParams(**switch), items, data, network, lambda rows: data)
