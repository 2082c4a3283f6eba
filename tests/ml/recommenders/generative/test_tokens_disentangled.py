from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ml.histories import Histories
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Decoding, Network
from ml.recommenders.generative.tokens.disentangled import DisentangledTokens, DisentangledTokensParams
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import read, shake

N_ITEMS = 24
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}
SWITCHES = [
    {},
    {"positions": False},
    {"branch": False},
    {"gate": False},
    {"positions": False, "branch": False},
]


def make(backbone: str = "encoder_decoder", **switches: Any) -> tuple[Generative, Network]:
    torch.manual_seed(0)
    every = np.array(list(itertools.product(range(4), range(4), range(3))), np.int32)
    codes = every[np.random.default_rng(0).permutation(len(every))[:N_ITEMS]]
    nothing = np.zeros((N_ITEMS, 0), np.float32)
    ids = [f"i{i}" for i in range(N_ITEMS)]
    catalogue = Catalogue(ids, [""] * N_ITEMS, [[]] * N_ITEMS, nothing, codes, (4, 4, 3))
    params = GenerativeParams.model_validate(
        {
            **{"d": 16, "length": 5, "dropout": 0.0},
            "tokens": {"kind": "disentangled", **SIZES, **switches},
            "backbone": {"kind": backbone, **SIZES},
            "objective": {"kind": "autoregressive", "beam": N_ITEMS},
        }
    )
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    shake(network)
    made = Generative(params)
    made.network = network.eval()
    return made, made.network


def scores_one_by_one(network: Network, history: list[int]) -> np.ndarray:
    with torch.no_grad():
        memory = network.read(read(history))
        at, found = torch.tensor([[len(history)]]), []
        for item in range(N_ITEMS):
            states = network.states(memory, at, torch.tensor([[item]]))
            found.append(
                float(network.objective.chosen(network, states[0], network.trie.place[[item]]).sum())
            )
    return np.array(found)


@pytest.mark.parametrize("backbone", ["encoder_decoder", "decoder_only"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_recommendations_equal_exact_scores(backbone: str, switches: dict[str, Any]) -> None:
    """Written code by code from what is kept, or all at once: the same; and no history item."""
    made, network = make(backbone, **switches)
    for history in ([], [3], [5, 1, 9, 2]):
        exact = scores_one_by_one(network, history)
        np.testing.assert_allclose(np.exp(exact).sum(), 1, rtol=1e-4)
        items, scores = made.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
        np.testing.assert_array_equal(items[0], np.argsort(-exact, kind="stable"))
        np.testing.assert_allclose(scores[0], np.sort(exact)[::-1], atol=1e-4)
        items, _ = made.recommend(Histories.of([history]), 10)
        expected = [item for item in np.argsort(-exact, kind="stable") if item not in history]
        np.testing.assert_array_equal(items[0], expected[:10])


def test_codes_of_other_items_are_not_seen() -> None:
    _, network = make()
    tokens = network.tokens
    x = torch.randn(2, 5, 3, 16, requires_grad=True)
    assert isinstance(tokens, DisentangledTokens)
    (gradient,) = torch.autograd.grad(tokens.reading(x)[1, 2].sum(), x)
    seen = gradient.abs().sum(dim=-1) > 0
    assert seen[1, 2].all()
    assert seen.sum() == 3


def test_what_is_written_sees_codes_before_it_alone() -> None:
    _, network = make()
    x = torch.randn(2, 4, 3, 16, requires_grad=True)
    assert isinstance(network.tokens, DisentangledTokens)
    (gradient,) = torch.autograd.grad(network.tokens.written(x)[0, 1, 1].sum(), x)
    seen = gradient.abs().sum(dim=-1) > 0
    assert seen[0, 1].tolist() == [True, True, False]
    assert seen.sum() == 2


def test_the_gate_weighs_the_branches() -> None:
    _, network = make()
    assert isinstance(network.tokens, DisentangledTokens)
    fuse = network.tokens.reading
    x = torch.rand(1, 2, 3, 16) + 0.5
    assert fuse.gate is not None
    with torch.no_grad():
        fuse.gate.zero_()
        even = fuse(x)
        fuse.gate[0] = 50.0
        torch.testing.assert_close(fuse(x), x)
        fuse.gate[0] = 0
        fuse.gate[1] = 0
        fuse.gate = None
        torch.testing.assert_close(fuse(x), even)
        collaborative = 2 * even - x
        placed = (x + fuse.place).flatten(0, 1)
        torch.testing.assert_close(
            collaborative.flatten(0, 1), fuse.layer(placed, torch.zeros(1, 1, 3, 3))[0], atol=1e-5, rtol=1e-5
        )


def test_place_within_the_item_counts_where_it_is_asked_for() -> None:
    for positions in (True, False):
        _, network = make(positions=positions)
        assert isinstance(network.tokens, DisentangledTokens)
        x = torch.randn(1, 1, 3, 16)
        with torch.no_grad():
            turned = network.tokens.reading(x.flip(2)).flip(2)
            same = torch.allclose(turned, network.tokens.reading(x), atol=1e-5)
        assert same != positions


def test_order_matters_and_padding_does_not() -> None:
    _, network = make()
    with torch.no_grad():
        one = Decoding(network, read([4, 6])).start()
        wider = Decoding(network, read([4, 6], [1, 2, 3, 4, 5])).start()[:1]
        turned = Decoding(network, read([6, 4])).start()
    torch.testing.assert_close(one, wider, atol=1e-5, rtol=1e-5)
    assert (one - turned).abs().max() > 1e-2


def test_unknown_switches_are_refused() -> None:
    with pytest.raises(ValueError, match="extra"):
        DisentangledTokensParams.model_validate({"gates": True})
