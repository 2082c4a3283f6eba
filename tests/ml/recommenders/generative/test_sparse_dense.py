from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.sparse_dense import SparseDense, fused, in_turn
from ml.recommenders.generative.tokens.pairs import PairTokens
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import shake

N_ITEMS = 24
NO_ID, NO_VECTOR = 7, (3, 11)


def params(depth: int = 1, whiten: int | None = None, **objective: Any) -> GenerativeParams:
    return GenerativeParams.model_validate(
        {
            "d": 16,
            "length": 5,
            "dropout": 0.0,
            "tokens": {"kind": "pairs", "depth": depth, "whiten": whiten},
            "backbone": {"kind": "decoder_only", "heads": 2, "head_width": 8, "feed_forward": 32},
            "objective": {"kind": "sparse_dense", "beam": N_ITEMS, **objective},
            "epochs": 30,
            "evaluate_every": 6,
            "learning_rate": 1e-2,
            "batch_tokens": 64,
            "warmup": 5,
        }
    )


def make_catalogue(n: int = N_ITEMS) -> Catalogue:
    rng = np.random.default_rng(0)
    every = np.array(list(itertools.product(range(4), range(4), range(3))), np.int32)
    codes = every[rng.permutation(len(every))[:n]]
    codes[NO_ID] = -1
    text = rng.standard_normal((n, 12)).astype(np.float32)
    text[list(NO_VECTOR)] = 0
    nothing = np.zeros((n, 0), np.float32)
    return Catalogue([f"i{i}" for i in range(n)], [""] * n, [[]] * n, nothing, codes, (4, 4, 3), text=text)


def make(depth: int = 1, **objective: Any) -> tuple[Generative, Network]:
    torch.manual_seed(0)
    made = Generative(params(depth, **objective))
    catalogue = make_catalogue()
    network = made.params.build(made.params.facts(catalogue, catalogue.code_sizes))
    shake(network)
    made.network = network.eval()
    return made, network


def parts_of(network: Network) -> tuple[PairTokens, SparseDense]:
    assert isinstance(network.tokens, PairTokens)
    assert isinstance(network.objective, SparseDense)
    return network.tokens, network.objective


@torch.no_grad()
def told(network: Network, history: list[int], item: int) -> tuple[list[float], np.ndarray]:
    """Return the log-probabilities of the item's first codes, and the vector written after them."""
    tokens, objective = parts_of(network)
    codes = make_catalogue().codes
    memory = network.read(Sequences.of(Histories.of([history]), 5))
    rows = network.table.rows(torch.tensor([[item]]))[..., : tokens.depth]
    at = torch.tensor([[min(len(history), 5)]])
    states = network.backbone.write(memory, at, network.table.inputs(rows))[0, 0]
    found = []
    for level in range(tokens.depth):
        logits = network.table.logits(states[level], level).double().numpy()
        siblings = {int(c[level]) for c in codes if c[0] >= 0 and (c[:level] == codes[item, :level]).all()}
        over = logits[sorted(siblings)]
        if objective.params.normalise == "table":
            every = [network.table.logits(states[level], other) for other in range(3)]
            over = torch.cat([states[level] @ network.table.start[:, None], *every]).double().numpy()
        found.append(logits[codes[item, level]] - np.log(np.exp(over).sum()))
    return found, objective.written(states[-1]).double().numpy()


@torch.no_grad()
def vector(network: Network, item: int) -> np.ndarray:
    tokens, _ = parts_of(network)
    if item in NO_VECTOR:
        return np.zeros(16)
    made: np.ndarray = normalize(tokens.dense(torch.tensor([item]))[0], dim=-1).double().numpy()
    return made


def brute(network: Network, history: list[int], tau: float, psi: float) -> np.ndarray:
    """Score every item in plain loops: softmax of the prefix among prefixes, times softmax of the cosine below it."""
    tokens, _ = parts_of(network)
    codes = make_catalogue().codes
    prefixes: dict[tuple[int, ...], list[int]] = {}
    for item in range(N_ITEMS):
        if item != NO_ID:
            prefixes.setdefault(tuple(codes[item, : tokens.depth].tolist()), []).append(item)
    scores = np.full(N_ITEMS, -np.inf)
    beams = {key: sum(told(network, history, below[0])[0]) for key, below in prefixes.items()}
    whole = np.log(sum(np.exp(tau * beam) for beam in beams.values()))
    for key, below in prefixes.items():
        written = told(network, history, below[0])[1]
        near = np.array([psi * written @ vector(network, item) for item in below])
        scores[below] = tau * beams[key] - whole + near - np.log(np.exp(near).sum())
    return scores


@pytest.mark.parametrize(("depth", "normalise"), [(0, "trie"), (1, "trie"), (2, "trie"), (2, "table")])
@pytest.mark.parametrize("history", [[], [3], [5, 1, 7, 9], [4, 8, 2, 0, 11, 6]], ids=str)
def test_recommendations_equal_plain_loops(depth: int, normalise: str, history: list[int]) -> None:
    made, network = make(depth, normalise=normalise, tau=0.7, psi=4.0)
    exact = brute(network, history, 0.7, 4.0)
    np.testing.assert_allclose(np.exp(exact).sum(), 1)
    items, scores = made.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
    expected = [item for item in np.argsort(-exact, kind="stable") if item != NO_ID]
    assert items[0].tolist() == [*expected, -1]
    np.testing.assert_allclose(scores[0, :-1], exact[expected], atol=1e-4)
    items, _ = made.recommend(Histories.of([history]), 9)
    assert items[0].tolist() == [item for item in expected if item not in history][:9]


def test_without_fusion_the_likelier_prefix_comes_first() -> None:
    made, network = make(1, fusion=False)
    codes = make_catalogue().codes
    items, scores = made.recommend(Histories.of([[2, 5]]), N_ITEMS - 3)
    known = [item for item in range(N_ITEMS) if item not in (2, 5, NO_ID)]
    keys = {}
    for item in known:
        chosen, written = told(network, [2, 5], item)
        keys[item] = (-chosen[0], -written @ vector(network, item))
    assert items[0].tolist() == sorted(known, key=lambda item: keys[item])
    turns = [list(group) for _, group in itertools.groupby(codes[items[0], 0].tolist())]
    assert len(turns) == len(set(codes[known, 0].tolist()))
    assert (np.diff(scores[0]) <= 0).all()


def test_beam_fusion_by_hand() -> None:
    beams = torch.tensor([[0.5, 0.25, 0.0]]).log()
    cosines = torch.tensor([[[1.0, 0.0, -torch.inf], [0.5, 0.5, 0.5], [0.3, -torch.inf, -torch.inf]]])
    # tau 2 squares the beams, 1/4 and 1/16, so 4/5 and 1/5; psi ln 3 makes the first list 3 to 1, the second even.
    found = fused(beams, cosines, 2.0, float(np.log(3))).exp()
    expected = torch.tensor([[[0.8 * 0.75, 0.8 * 0.25, 0], [0.2 / 3, 0.2 / 3, 0.2 / 3], [0, 0, 0]]])
    torch.testing.assert_close(found, expected)
    flat = fused(beams, cosines, 0.0, 0.0).exp()
    even = torch.tensor([[[0.25, 0.25, 0], [0.5 / 3, 0.5 / 3, 0.5 / 3], [0, 0, 0]]])
    torch.testing.assert_close(flat, even)
    assert torch.isneginf(fused(torch.full((1, 3), -torch.inf), cosines, 1.0, 1.0)).all()
    in_order = in_turn(beams, cosines)
    torch.testing.assert_close(in_order[0, :2, 0], torch.tensor([1.0, -2.5]))
    assert torch.isneginf(in_order[0, 2]).all()


@pytest.mark.parametrize(("beam", "k", "depth"), [(1, 3, 1), (1, 12, 2), (2, 23, 2), (1, 30, 0)])
def test_any_width_fills_k_with_permitted_items(beam: int, k: int, depth: int) -> None:
    made, _ = make(depth, beam=beam)
    history = list(range(12, 24))
    items, scores = made.recommend(Histories.of([history, [], [NO_ID]]), k)
    for row, hidden in zip(range(3), (set(history), set(), set()), strict=True):
        found = items[row][items[row] >= 0].tolist()
        assert len(set(found)) == len(found) == min(k, N_ITEMS - 1 - len(hidden))
        assert not set(found) & (hidden | {NO_ID})
    np.testing.assert_array_equal(items == -1, np.isneginf(scores))


@pytest.mark.parametrize("negatives", ["batch", "trained"])
def test_the_loss_equals_plain_loops(negatives: str) -> None:
    _, network = make(2, negatives=negatives, temperature=0.3, dense_weight=0.5)
    _, objective = parts_of(network)
    trained = [0, 1, 2, 3, 4, 5, 6, 9, 20]
    objective.trained = torch.tensor([item in trained for item in range(N_ITEMS)])
    rows = [[4, 6, 1, 2], [9, 3, 5]]
    targets = torch.tensor([[6, 1, 2], [3, 5, -1]])
    with torch.no_grad():
        sequences = Sequences.of(Histories.of([row[:-1] for row in rows]), 5)
        loss, count = objective.loss(network, sequences, targets)
    asked = [(row[:place], row[place]) for row in rows for place in range(1, len(row))]
    assert int(count) == len(asked) == 5
    among = [6, 1, 2, 5] if negatives == "batch" else [item for item in trained if item not in NO_VECTOR]
    codes, contrasts = [], []
    for history, item in asked:
        chosen, written = told(network, history, item)
        codes.append(-sum(chosen))
        if item not in NO_VECTOR:
            near = {other: written @ vector(network, other) / 0.3 for other in among}
            contrasts.append(np.log(sum(np.exp(value) for value in near.values())) - near[item])
    assert len(contrasts) == 4
    np.testing.assert_allclose(float(loss), np.mean(codes) + 0.5 * np.mean(contrasts), rtol=1e-4)


def test_targets_without_an_id_count_for_nothing() -> None:
    _, network = make(1)
    _, objective = parts_of(network)
    sequences = Sequences.of(Histories.of([[1, 2]]), 5)
    with torch.no_grad():
        loss, count = objective.loss(network, sequences, torch.tensor([[NO_ID, -1]]))
        assert (float(loss), int(count)) == (0, 0)
        loss, count = objective.loss(network, sequences, torch.tensor([[NO_VECTOR[0], -1]]))
    assert int(count) == 1
    np.testing.assert_allclose(float(loss), -told(network, [1], NO_VECTOR[0])[0][0], rtol=1e-4)


def test_items_without_a_vector_are_read_alike_but_for_their_codes() -> None:
    _, network = make(1)
    tokens, _ = parts_of(network)
    with torch.no_grad():
        dense = tokens.dense(torch.tensor([*NO_VECTOR, 0]))
    assert torch.equal(dense[0], dense[1])
    assert torch.equal(dense[0], tokens.unknown)
    assert not torch.equal(dense[0], dense[2])


@pytest.mark.parametrize("depth", [0, 1])
def test_it_learns_a_circle_that_the_first_codes_do_not_tell(depth: int, tmp_path: Path) -> None:
    """Items share their first codes by four: which of them comes next stands in the vector alone."""
    circle = [item for item in range(16) if item not in (NO_ID, *NO_VECTOR)]
    histories = Histories.of(
        [[circle[(user * 5 + step) % len(circle)] for step in range(5 + user % 6)] for user in range(72)]
    )
    parts, catalogue = split(histories, "leave_one_out"), make_catalogue(16)
    cobra = Generative(params(depth, whiten=12))
    cobra.fit(parts, catalogue, seed=0)
    items, scores = cobra.recommend(parts.test.histories, 3, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.95
    cobra.save(tmp_path)
    loaded = Generative.load(tmp_path, catalogue)
    for left, right in zip(loaded.recommend(parts.test.histories, 3, False), (items, scores), strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(ValidationError, match="tokens of kind pairs"):
        GenerativeParams.model_validate({"objective": {"kind": "sparse_dense"}})
    for depth, catalogue, message in (
        (3, make_catalogue(), "IDs of more than 3"),
        (1, Catalogue.unknown(N_ITEMS), "the catalogue has none"),
    ):
        given = Catalogue(
            catalogue.item_ids,
            catalogue.titles,
            catalogue.categories,
            catalogue.vectors,
            make_catalogue().codes,
            (4, 4, 3),
            text=catalogue.text,
        )
        asked = params(depth)
        with pytest.raises(ValueError, match=message):
            asked.build(asked.facts(given, (4, 4, 3)))
