from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.tokenizers.quantizers import ResidualQuantizer, rotation, straight_through


def _quantizer(decay: float | None = None, seed: int = 0) -> ResidualQuantizer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        quantizer = ResidualQuantizer(3, 5, 4, decay)
        with torch.no_grad():
            quantizer.books.normal_()
    return quantizer


def _latent(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 50))
def test_codes_are_those_of_plain_loops(n: int, seed: int) -> None:
    quantizer, latent = _quantizer(), _latent(n, seed)
    quantised = quantizer(latent)
    books = quantizer.books.detach().numpy()
    for row, vector in enumerate(latent.numpy()):
        rest = vector.copy()
        for level in range(3):
            np.testing.assert_allclose(quantised.residuals[level, row].detach(), rest, atol=1e-5)
            best = ((books[level] - rest) ** 2).sum(axis=1).argmin()
            assert quantised.codes[row, level] == best
            rest -= books[level, best]
    total = quantised.chosen.sum(dim=0)
    torch.testing.assert_close(quantizer.vectors(quantised.codes), total)


def test_a_balanced_last_level_uses_all_codes_alike() -> None:
    quantizer, latent = _quantizer(), _latent(100)
    with torch.no_grad():
        quantizer.books[-1] += torch.arange(5.0)[:, None]
    plain, balanced = quantizer(latent).codes, quantizer(latent, 0.01).codes
    assert torch.equal(plain[:, :2], balanced[:, :2])
    counts = [torch.bincount(codes[:, 2], minlength=5) for codes in (plain, balanced)]
    assert counts[0].max() > 45
    assert counts[1].max() < 25
    assert counts[1].min() > 15


def test_straight_through_passes_the_gradient_unchanged() -> None:
    latent = _latent(3).requires_grad_()
    passed = straight_through(latent, _latent(3, 1))
    torch.testing.assert_close(passed, _latent(3, 1))
    passed.backward(_latent(3, 2))
    torch.testing.assert_close(latent.grad, _latent(3, 2))


def test_rotation_turns_the_gradient_as_the_code_is_turned() -> None:
    latent = torch.tensor([[2.0, 0, 0]], requires_grad=True)
    passed = rotation(latent, torch.tensor([[0.0, 3, 0]]))
    assert passed.tolist() == [[0, 3, 0]]
    # A gradient along the code is one along the latent vector, half as long again.
    passed.backward(torch.tensor([[0.0, 1, 0]]))
    torch.testing.assert_close(latent.grad, torch.tensor([[1.5, 0, 0]]))


@settings(deadline=None)
@given(st.integers(0, 50))
def test_rotation_keeps_angle_and_scales_length_of_the_gradient(seed: int) -> None:
    latent, total, gradient = _latent(5, seed), _latent(5, seed + 100), _latent(5, seed + 200)
    latent.requires_grad_()
    rotation(latent, total).backward(gradient)
    assert latent.grad is not None
    scale = total.norm(dim=1) / latent.detach().norm(dim=1)
    torch.testing.assert_close(latent.grad.norm(dim=1), scale * gradient.norm(dim=1), rtol=1e-3, atol=1e-4)
    angle = torch.cosine_similarity(gradient, total)
    torch.testing.assert_close(
        torch.cosine_similarity(latent.grad, latent.detach()), angle, rtol=1e-3, atol=1e-3
    )


def test_moving_averages_are_those_by_hand() -> None:
    quantizer = ResidualQuantizer(1, 2, 1, decay=0.5)
    quantizer.books.copy_(torch.tensor([[[0.0], [10]]]))
    quantizer.counts.copy_(torch.tensor([[2.0, 2]]))
    quantizer.sums.copy_(torch.tensor([[[0.0], [20]]]))
    quantizer.update(quantizer(torch.tensor([[1.0], [2], [3], [14]])))
    # Code 0: count (2 + 3) / 2, sum (0 + 6) / 2; code 1: count (2 + 1) / 2, sum (20 + 14) / 2.
    torch.testing.assert_close(quantizer.books.detach(), torch.tensor([[[3 / 2.5], [17 / 1.5]]]))


def test_averages_begin_where_the_books_stand() -> None:
    quantizer, latent = _quantizer(0.99), _latent(400)
    quantizer.start(latent, np.random.default_rng(0))
    before = quantizer.books.clone()
    quantizer.start_averages(latent, 40)
    # K-means has put code vectors into the mean of their items, so that all items move them little.
    quantizer.update(quantizer(latent))
    assert (quantizer.books - before).abs().max() < 0.05


def test_dead_codes_come_to_where_items_are() -> None:
    quantizer, latent = _quantizer(0.9), _latent(50)
    quantizer.books.data[1, 2] = 100.0
    dead = torch.zeros(3, 5, dtype=torch.bool)
    dead[1, 2] = True
    before = quantizer.books.clone()
    residuals = quantizer(latent).residuals
    quantizer.reset(dead, latent[:1])
    assert torch.equal(quantizer.books[1, 2], residuals[1, 0])
    assert torch.equal(quantizer.books[~dead], before[~dead])
    assert 2 in quantizer(latent).codes[:, 1]
