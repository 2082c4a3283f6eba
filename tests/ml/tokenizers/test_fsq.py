from __future__ import annotations

import numpy as np
import pytest
import torch

from ml.tokenizers import build
from ml.tokenizers.fsq import FSQ, FSQParams, _Network
from tests.ml.tokenizers.samples import sample_items


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 255, 256])
def test_rounding_reaches_every_level_and_no_other(levels: int) -> None:
    network = _Network(3, FSQParams(codes=1, levels=(levels,)))
    wide = torch.linspace(-12, 12, 20001)[:, None]
    assert torch.unique(network.digits(wide)).tolist() == list(range(levels))
    assert float(network.bound(torch.zeros(1, 1))) == pytest.approx(0, abs=1e-6)


def test_the_gradient_passes_through_rounding() -> None:
    network = _Network(3, FSQParams(codes=1, levels=(5,)))
    latent = torch.tensor([[0.3]], requires_grad=True)
    network.round(latent).sum().backward()
    reach = 2 * 1.001
    assert float(latent.grad) == pytest.approx(reach * (1 - np.tanh(0.3) ** 2) / 2, rel=1e-4)


def test_a_group_of_numbers_makes_one_code() -> None:
    tokenizer = build("fsq", {"codes": 2, "levels": [4, 3], "hidden": [8], "epochs": 2})
    assert tokenizer.code_sizes == (12, 12)
    items = sample_items()
    tokenizer.fit(items, 0)
    assert isinstance(tokenizer, FSQ)
    scaled = torch.from_numpy(tokenizer._fitted().apply(items.space("fused")))
    network = tokenizer._trained()
    digits = network.digits(network.encoder(scaled)).numpy()
    expected = np.stack([digits[:, 0] + 4 * digits[:, 1], digits[:, 2] + 4 * digits[:, 3]], axis=1)
    codes = tokenizer.encode(items)
    np.testing.assert_array_equal(codes, expected)
    # What is decoded from codes is what the decoder made of the rounded numbers.
    with torch.no_grad():
        rounded = network.decoder(network.round(network.encoder(scaled))).numpy()
    np.testing.assert_allclose(tokenizer._decode(codes), rounded, atol=1e-4)


def test_there_may_be_more_codes_than_items() -> None:
    tokenizer = build("fsq", {"codes": 1, "levels": [8, 8, 8], "hidden": [8], "epochs": 2})
    tokenizer.fit(sample_items(20), 0)
    assert tokenizer.encode(sample_items(20)).max() < 512


def test_a_warm_start_changes_fewer_codes() -> None:
    params = {"codes": 2, "levels": [4, 3], "hidden": [16], "epochs": 60, "batch": 32, "lr": 0.01}
    items = sample_items()
    old = build("fsq", params)
    old.fit(items, 0)
    changed = []
    for start in (old, None):
        new = build("fsq", {**params, "epochs": 10, "lr": 0.001} if start else params)
        new.fit(items, 1, start)
        changed.append((new.encode(items) != old.encode(items)).any(axis=1).mean())
    assert changed[0] < 0.5 < changed[1]
