from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.token_set import TokenSet
from ml.recommenders.generative.tokens.sets import SetTokens
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.test_generative import (
    N_ITEMS,
    SIZES,
    SMALL,
    make_catalogue,
    make_histories,
    read,
)
from tests.ml.recommenders.generative.tiny import shake

SETS = {"kind": "set", "semantic": 2, "hidden": 8}
CODES = {"kind": "codes", "merge": False}
SPARSE = {"kind": "encoder_decoder", "within": "none"}


def described(n: int = N_ITEMS) -> Catalogue:
    rng = np.random.default_rng(5)
    vectors, text = rng.standard_normal((2, 60, 6)).astype(np.float32)
    return replace(make_catalogue(n), vectors=vectors[:n], text=text[:n, :4])


def params(
    tokens: dict[str, Any] = SETS, backbone: dict[str, Any] = SPARSE, **changes: Any
) -> GenerativeParams:
    objective = {"kind": "token_set"} | changes.pop("objective", {})
    given = SMALL | {"tokens": tokens, "backbone": SIZES | backbone, "objective": objective}
    return GenerativeParams.model_validate(given | changes)


def make(shape: GenerativeParams, catalogue: Catalogue | None = None) -> tuple[Generative, Network]:
    torch.manual_seed(0)
    catalogue = catalogue or described()
    network = shape.build(shape.facts(catalogue, catalogue.code_sizes))
    shake(network)
    made = Generative(shape)
    made.network = network.eval()
    return made, made.network


def asked_one_by_one(network: Network, history: list[int]) -> torch.Tensor:
    """Ask every query alone, so that none can see another."""
    assert isinstance(network.objective, TokenSet)
    memory = network.read(read(history))
    at = torch.tensor([[min(len(history), 5)]])
    alone = [
        network.backbone.write(memory, at, query[None, None, None])[0, 0, 0]
        for query in network.objective.queries
    ]
    return torch.stack(alone)


@pytest.mark.parametrize("tokens", [SETS, CODES], ids=str)
@pytest.mark.parametrize("backbone", [SPARSE, {"kind": "decoder_only", "within": "both"}], ids=str)
@pytest.mark.parametrize("history", [[], [4, 8, 2, 0, 11]], ids=str)
def test_recommendations_equal_a_score_for_every_item(
    tokens: dict[str, Any], backbone: dict[str, Any], history: list[int]
) -> None:
    made, network = make(params(tokens, backbone, objective={"first": 0.7}))
    with torch.no_grad():
        asked = asked_one_by_one(network, history)
        read_items = network.tokens(network.table, read(list(range(N_ITEMS)), length=N_ITEMS))[0]
    exact = np.zeros(N_ITEMS)
    for item in range(N_ITEMS):
        worth = [float(asked[token] @ read_items[item, token]) for token in range(len(asked))]
        exact[item] = 0.7 * worth[0] + 0.3 * np.mean(worth[1:])
    items, scores = made.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-exact, kind="stable"))
    np.testing.assert_allclose(scores[0], np.sort(exact)[::-1], atol=1e-4)
    items, _ = made.recommend(Histories.of([history]), 10)
    np.testing.assert_array_equal(
        items[0], [item for item in np.argsort(-exact, kind="stable") if item not in history][:10]
    )


@pytest.mark.parametrize("causal", [True, False])
def test_the_loss_finds_each_token_among_those_of_all_items(causal: bool) -> None:
    shape = params(backbone=SPARSE | {"causal": causal})
    catalogue = described()
    catalogue.codes[9] = -1
    _, network = make(shape, catalogue)
    row = [7, 3, 9, 1]
    with torch.no_grad():
        loss, count = network.objective.loss(network, read(row[:3]), torch.tensor([row[1:]]))
        assert isinstance(network.tokens, SetTokens)
        vectors, _ = network.tokens.of(network.table, torch.arange(N_ITEMS))
        costs = []
        for place in (0, 2) if causal else (2,):
            asked = asked_one_by_one(network, row[: place + 1])
            for token in range(3):
                logits = [float(asked[token] @ vectors[item, token]) for item in range(N_ITEMS) if item != 9]
                own = float(asked[token] @ vectors[row[place + 1], token])
                costs.append(np.log(np.exp(logits).sum()) - own)
        # Text is to be found again in the tokens of every item that was scored: targets, and all that have an ID.
        scored = [*([3, 1] if causal else [1]), *network.trie.items.tolist()]
        text = network.tokens.text[scored]
        assert network.tokens.encoder is not None
        making = 0.7 * float((network.tokens.decoder(network.tokens.encoder(text)) - text).square().mean())
    assert int(count) == len(costs) / 3
    np.testing.assert_allclose(float(loss), np.mean(costs) + making, rtol=1e-4)


def test_negatives_are_drawn_among_items_with_an_id_and_are_never_the_target() -> None:
    catalogue = described()
    catalogue.codes[:20] = -1
    _, network = make(params(SETS | {"reconstruction": 0.0}, objective={"negatives": 5}), catalogue)
    with torch.no_grad():
        torch.manual_seed(4)
        loss, _ = network.objective.loss(network, read([3]), torch.tensor([[21]]))
        torch.manual_seed(4)
        drawn = network.trie.items[torch.randint(4, (5,))].tolist()
        vectors = network.tokens(network.table, read([20, 21, 22, 23]))[0]
        logits = torch.einsum("td,itd->ti", asked_one_by_one(network, [3]), vectors)
    assert 21 in drawn
    wrong = [item for item in drawn if item != 21]
    costs = [
        torch.stack([row[1], *[row[item - 20] for item in wrong]]).logsumexp(dim=0) - row[1] for row in logits
    ]
    np.testing.assert_allclose(float(loss), float(torch.stack(costs).mean()), rtol=1e-4)


def test_queries_apart_do_not_see_each_other_and_together_they_do() -> None:
    def first(queries: str, other: float) -> torch.Tensor:
        _, network = make(params(objective={"queries": queries}))
        assert isinstance(network.objective, TokenSet)
        with torch.no_grad():
            network.objective.queries[1] += other
            memory = network.read(read([4, 6]))
            return network.objective.asked_for(network, memory, torch.tensor([[2]]))[0, 0, 0]

    torch.testing.assert_close(first("apart", 0), first("apart", 5))
    assert (first("together", 0) - first("together", 5)).abs().max() > 1e-2


@pytest.mark.parametrize("causal", [True, False])
def test_a_set_has_no_order_and_its_tokens_do_not_see_each_other(causal: bool) -> None:
    """Turn the tokens of every item round: what is read of each stays the same, unless the mask is taken away."""

    def read_of(within: str, turned: bool, changed: bool = False) -> torch.Tensor:
        _, network = make(params(backbone=SPARSE | {"within": within, "causal": causal}))
        embedded = torch.randn(1, 4, 3, 16, generator=torch.Generator().manual_seed(1))
        if changed:
            embedded[0, 3, 1] += 3
        with torch.no_grad():
            states = network.backbone.read(
                embedded.flip(2) if turned else embedded, network.table.start, torch.tensor([4])
            ).states[0, 1:]
        states = states.view(4, 3, 16)
        return states.flip(1) if turned else states

    torch.testing.assert_close(read_of("none", False), read_of("none", True), atol=1e-5, rtol=1e-5)
    assert (read_of("both", False) - read_of("both", True)).abs().max() > 1e-2
    moved = (read_of("none", False) - read_of("none", False, changed=True)).abs().amax(dim=-1)
    assert moved[3, 1] > 1e-2
    assert (moved[3, [0, 2]] < 1e-5).all()
    assert (moved[:3] < 1e-5).all() == causal


@pytest.mark.parametrize(("tokens", "falls_to"), [(SETS, 0.4), (CODES, 0.7)], ids=str)
def test_it_learns_a_circle(tokens: dict[str, Any], falls_to: float) -> None:
    """Where tokens are codes, items that share one cannot be told apart by it, and the loss stays above zero."""
    parts = split(make_histories(), "leave_one_out")
    sizes = {"epochs": 60, "evaluate_every": 20, "learning_rate": 1e-2, "batch_tokens": 64, "warmup": 5}
    setrec = Generative(params(tokens, objective={"first": 1 / 3}, **sizes))
    report = setrec.fit(parts, described(), seed=0)
    items, _ = setrec.recommend(parts.test.histories, 1, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.95
    assert report["losses"][-1] < falls_to * report["losses"][0]


def test_items_that_came_later_are_scored_by_their_vectors(tmp_path: Any) -> None:
    setrec = Generative(params(epochs=1))
    setrec.fit(split(make_histories(), "leave_one_out"), described(), seed=0)
    setrec.save(tmp_path)
    grown = Generative.load(tmp_path, described(N_ITEMS + 5)).recommend(Histories.of([[1]]), N_ITEMS + 4)
    assert set(grown[0][0].tolist()) == set(range(N_ITEMS + 5)) - {1}


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(ValidationError, match="a set needs a token"):
        params({"kind": "set", "semantic": 0, "behaviour": False})
    shape = params()
    bare = make_catalogue()
    with pytest.raises(ValueError, match="need fused vectors, and the catalogue has none"):
        shape.build(shape.facts(bare, bare.code_sizes))
    one = params({"kind": "set", "semantic": 0})
    _, network = make(one)
    assert isinstance(network.objective, TokenSet)
    assert network.objective.weights.tolist() == [1.0]
