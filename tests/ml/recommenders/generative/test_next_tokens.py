from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.next_tokens import NextTokens, last_item
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import read, shake

N_ITEMS = 24
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}


def make_catalogue(n: int = N_ITEMS, seed: int = 0) -> Catalogue:
    every = np.array(list(itertools.product(range(4), range(4), range(3))), np.int32)
    rng = np.random.default_rng(seed)
    codes = every[rng.permutation(len(every))[:n]]
    text = rng.standard_normal((n, 7)).astype(np.float32)
    ids = [f"i{i}" for i in range(n)]
    return Catalogue(ids, [""] * n, [[]] * n, text[:, :0], codes, (4, 4, 3), text=text)


def make_params(
    beam: int | None = None, within: str = "both", text: bool = True, **changes: Any
) -> GenerativeParams:
    return GenerativeParams.model_validate(
        {
            **{"d": 16, "length": 5, "dropout": 0.0},
            "tokens": {"kind": "text", "text": text},
            "backbone": {"kind": "decoder_only", "within": within, **SIZES},
            **({"objective": {"kind": "next_tokens", "beam": beam}} | changes),
        }
    )


def make(seed: int = 0, catalogue: Catalogue | None = None, **changes: Any) -> tuple[Generative, Network]:
    torch.manual_seed(seed)
    params, catalogue = make_params(**changes), catalogue or make_catalogue()
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    shake(network)
    made = Generative(params)
    made.network = network.eval()
    return made, made.network


def by_hand(network: Network, history: list[int]) -> np.ndarray:
    """Score every item from the states of the last item's places, one code after the other."""
    with torch.no_grad():
        states = network.read(read(history)).states[0]
        places = states[-3:] if history else states[:1].expand(3, -1)
        logs = [network.table.logits(places[i], i).log_softmax(-1) for i in range(3)]
        codes = make_catalogue().codes
        return np.array([sum(float(logs[i][code]) for i, code in enumerate(row)) for row in codes])


@pytest.mark.parametrize("within", ["both", "causal"])
@pytest.mark.parametrize("history", [[], [3], [5, 1, 9], [4, 8, 2, 0, 11]], ids=str)
def test_exact_scores_a_full_beam_and_scores_by_hand_agree(within: str, history: list[int]) -> None:
    made, network = make(within=within)
    searched, _ = make(within=within, beam=N_ITEMS)
    expected = by_hand(network, history)
    order = np.argsort(-expected, kind="stable")
    for one in (made, searched):
        items, scores = one.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
        np.testing.assert_array_equal(items[0], order)
        np.testing.assert_allclose(scores[0], expected[order], atol=1e-4)
        items, _ = one.recommend(Histories.of([history]), 10)
        np.testing.assert_array_equal(items[0], [item for item in order if item not in history][:10])


def test_more_than_there_are_is_padded_and_items_without_an_id_are_not_shown() -> None:
    catalogue = make_catalogue()
    catalogue.codes[[2, 22]] = -1
    made, _ = make(catalogue=catalogue)
    items, scores = made.recommend(Histories.of([[2, 3], []]), N_ITEMS + 1)
    assert sorted(items[0]) == [-1] * 4 + [i for i in range(N_ITEMS) if i not in (2, 3, 22)]
    np.testing.assert_array_equal(items == -1, scores == -np.inf)


def test_the_loss_is_the_mean_over_targets_with_an_id() -> None:
    _, network = make()
    sequences, targets = read([5, 1, 9], [4, 8]), torch.tensor([[1, 9, 2], [8, 0, -1]])
    with torch.no_grad():
        loss, count = network.objective.loss(network, sequences, targets)
    prefixes = [([5], 1), ([5, 1], 9), ([5, 1, 9], 2), ([4], 8), ([4, 8], 0)]
    expected = -np.mean([by_hand(network, history)[target] for history, target in prefixes])
    assert count == 5
    np.testing.assert_allclose(float(loss), expected, rtol=1e-4)


def test_probabilities_over_the_catalogue_leave_out_codes_that_no_item_has() -> None:
    catalogue = make_catalogue()
    catalogue.codes[catalogue.codes[:, 0] == 2] = -1
    network = make(catalogue=catalogue, objective={"kind": "next_tokens", "normalise": "catalogue"})[1]
    whole = make(catalogue=catalogue)[1]
    sequences = read([5, 1, 9], [4])
    assert isinstance(network.objective, NextTokens)
    assert isinstance(whole.objective, NextTokens)
    with torch.no_grad():
        scores, plain = network.objective.scores(network, sequences), whole.objective.scores(whole, sequences)
        assert (scores[0][:, 2] == -torch.inf).all()
        expected = plain[0].clone()
        expected[:, 2] = -torch.inf
        torch.testing.assert_close(scores[0], expected - expected.logsumexp(1, keepdim=True))
        torch.testing.assert_close(scores[1:], plain[1:])
        target = int(np.flatnonzero(catalogue.codes[:, 0] >= 0)[0])
        loss, _ = network.objective.loss(network, read([5]), torch.tensor([[target]]))
        told = network.objective.scores(network, read([5]))
    expected_loss = -sum(float(told[i][0, code]) for i, code in enumerate(catalogue.codes[target]))
    np.testing.assert_allclose(float(loss), expected_loss, rtol=1e-4)


def test_states_are_those_of_the_last_items_places() -> None:
    _, network = make()
    memory = network.read(read([5, 1], [7]))
    found = last_item(memory, torch.tensor([[0, 1, 2], [0, 1, 1]]))
    assert found.shape == (2, 3, 3, 16)
    assert torch.equal(found[0, 0], memory.states[0, :1].expand(3, -1))
    assert torch.equal(found[0, 1], memory.states[0, 1:4])
    assert torch.equal(found[0, 2], memory.states[0, 4:7])
    assert torch.equal(found[1, 2], memory.states[1, 1:4])


def test_codes_of_an_item_see_each_other_and_no_later_item() -> None:
    for within, seen in (("both", 1 + 6), ("causal", 1 + 4)):
        _, network = make(within=within)
        x = torch.randn(1, 3, 3, 16, requires_grad=True)
        start = torch.randn(16, requires_grad=True)
        states = network.backbone.read(x, start, torch.tensor([3])).states
        # The first code of the second item.
        of_items, of_start = torch.autograd.grad(states[0, 4].sum(), [x, start])
        assert int((of_items.abs().sum(-1) > 0).sum() + (of_start.abs().sum() > 0)) == seen


def test_text_is_read_where_it_is_asked_for_and_missing_text_is_no_text() -> None:
    catalogue = make_catalogue()
    other = replace(catalogue, text=np.roll(catalogue.text, 1, axis=0))
    bare = replace(catalogue, text=np.zeros_like(catalogue.text))
    for text in (True, False):
        states = []
        for some in (catalogue, other, bare):
            _, network = make(catalogue=some, text=text)
            with torch.no_grad():
                states.append(network.tokens(network.table, read([5, 1])))
        assert torch.allclose(states[0], states[1]) != text
        assert torch.allclose(states[2], states[1]) != text
    _, silent = make(text=False)
    torch.testing.assert_close(
        states[2], silent.tokens(silent.table, read([5, 1])), msg="codes alone are the same either way"
    )


def test_a_network_answers_for_a_catalogue_that_it_never_saw(tmp_path: Path) -> None:
    """Codes and text mean the same in both, so what was learned here is right there: items i to i + 1 on the circle."""
    every = np.array(list(itertools.product(range(4), range(4))), np.int32)
    codes = np.concatenate([every, np.zeros((16, 1), np.int32)], axis=1)
    text = np.eye(16, 8, dtype=np.float32)
    nothing, sizes = np.zeros((16, 0), np.float32), (4, 4, 1)
    first = Catalogue(
        [f"a{i:02d}" for i in range(16)], [""] * 16, [[]] * 16, nothing, codes, sizes, "t", text
    )
    turned = np.random.default_rng(0).permutation(16)
    second = replace(first, item_ids=[f"b{i:02d}" for i in range(16)], codes=codes[turned], text=text[turned])
    walks = Histories.of([[(user * 5 + step) % 16 for step in range(4 + user % 5)] for user in range(48)])
    parts = split(walks, "leave_one_out")
    made = Generative(
        make_params(epochs=40, patience=40, learning_rate=1e-2, batch_tokens=64, warmup=5, dropout=0.0)
    )
    made.fit(parts, first, seed=0)
    made.save(tmp_path)
    there = Generative.load(tmp_path, second)
    where = np.argsort(turned)
    items, _ = there.recommend(Histories.of([[int(where[3]), int(where[4])], [int(where[9])]]), 1)
    assert items[:, 0].tolist() == [where[5], where[10]]


def test_what_does_not_fit_is_said() -> None:
    for tokens in (
        {"kind": "codes", "merge": True},
        {"kind": "pairs", "depth": 1},
        {"kind": "set", "semantic": 1},
        {"kind": "set", "semantic": 2},
    ):
        with pytest.raises(ValueError, match="one place for each code"):
            make_params(tokens=tokens)
    with pytest.raises(ValueError, match="causal backbone"):
        make_params(backbone={"kind": "encoder_decoder", "causal": False, **SIZES})
    params = make_params()
    bare = replace(make_catalogue(), text=np.zeros((N_ITEMS, 0), np.float32))
    with pytest.raises(ValueError, match="no vectors of the view 'text'"):
        params.build(params.facts(bare, bare.code_sizes))
    assert isinstance(make()[1].objective, NextTokens)
