from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.edges import unit_rows
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Decoding, Network
from ml.recommenders.generative.objectives.autoregressive import path_scores
from ml.recommenders.generative.objectives.cold_start import ColdStart
from ml.recommenders.generative.trie import build_trie
from ml.recommenders.heuristics.text_similarity import whitened
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import shake

N_ITEMS, NO_ID, NO_TEXT = 24, 7, 5
UNTRAINED = [2, 9, 15, 21]
COLD = {"kind": "cold_start", "beam": N_ITEMS, "psi": 2.0, "prefix": 0.5, "offset": -1.0}


def params(**objective: Any) -> GenerativeParams:
    return GenerativeParams.model_validate(
        {
            "d": 16,
            "length": 5,
            "dropout": 0.0,
            "tokens": {"kind": "codes", "merge": True},
            "backbone": {"kind": "encoder_decoder", "heads": 2, "head_width": 8, "feed_forward": 32},
            "objective": COLD | objective,
            "epochs": 12,
            "evaluate_every": 4,
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
    text = rng.standard_normal((n, 8)).astype(np.float32)
    text[NO_TEXT] = 0
    nothing = np.zeros((n, 0), np.float32)
    return Catalogue(
        [f"i{i:02d}" for i in range(n)], [""] * n, [[]] * n, nothing, codes, (4, 4, 3), text=text
    )


def trained_on(items: list[int]) -> Histories:
    return Histories.of([items])


def make(**objective: Any) -> tuple[Generative, Network, ColdStart]:
    torch.manual_seed(0)
    made, catalogue = Generative(params(**objective)), make_catalogue()
    train = trained_on([item for item in range(N_ITEMS) if item not in UNTRAINED])
    network = made.params.build(made.params.facts(catalogue, catalogue.code_sizes, train))
    shake(network)
    made.network = network.eval()
    assert isinstance(network.objective, ColdStart)
    return made, network, network.objective


@torch.no_grad()
def brute(network: Network, history: list[int], psi: float, prefix: float, offset: float) -> np.ndarray:
    """Score items one by one; an item without an ID has none."""
    catalogue = make_catalogue()
    text = whitened(unit_rows(catalogue.text), 0.5).astype(np.float64)
    votes = [0.6**age * text[item] for age, item in enumerate(reversed(history[-5:]))]
    mean = np.sum(votes, axis=0) if votes else np.zeros(8)
    mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    seen = catalogue.codes.copy()
    seen[UNTRAINED] = -1
    network._trie = build_trie(seen, (4, 4, 3))
    sequences = Sequences.of(Histories.of([history]), 5)
    first = Decoding(network, sequences).start()[0, 0].double().log_softmax(dim=0).numpy()
    scores = np.full(N_ITEMS, -np.inf)
    for item in range(N_ITEMS):
        if item == NO_ID:
            continue
        if item in UNTRAINED:
            scores[item] = prefix * first[catalogue.codes[item, 0]] + offset
        else:
            at = torch.tensor([[min(len(history), 5)]])
            states = network.states(network.read(sequences), at, torch.tensor([[item]]))
            leaf = network.trie.place[[item]]
            scores[item] = float(path_scores(network, states[0], leaf, "trie").sum())
        scores[item] += psi * text[item] @ mean
    return scores


@pytest.mark.parametrize("history", [[], [3], [5, 1, 2], [4, 8, 21, 0, 11, 6]], ids=str)
@pytest.mark.parametrize(("psi", "prefix", "offset"), [(2.0, 0.5, -1.0), (0.0, 1.0, 0.0), (5.0, 0.0, -9.0)])
def test_recommendations_equal_plain_loops(
    history: list[int], psi: float, prefix: float, offset: float
) -> None:
    made, _, _ = make(psi=psi, prefix=prefix, offset=offset)
    exact = brute(make()[1], history, psi, prefix, offset)
    items, scores = made.recommend(Histories.of([history, [1, 2]]), N_ITEMS, exclude_history=False)
    expected = [item for item in np.argsort(-exact, kind="stable") if item != NO_ID]
    assert items[0].tolist() == [*expected, -1]
    np.testing.assert_allclose(scores[0, :-1], exact[expected], atol=1e-4)
    items, _ = made.recommend(Histories.of([history]), 9)
    assert items[0].tolist() == [item for item in expected if item not in history][:9]


def test_a_narrow_beam_fills_k_with_permitted_items() -> None:
    made, _, _ = make(beam=1)
    history = [0, 1, 2, 3, 4, 5, 6, 9, 10, 11]
    items, scores = made.recommend(Histories.of([history]), 20)
    found = items[0][items[0] >= 0].tolist()
    assert sorted(found) == [item for item in range(N_ITEMS) if item not in {*history, NO_ID}]
    np.testing.assert_array_equal(items == -1, np.isneginf(scores))


def test_without_an_offset_untrained_items_stay_out() -> None:
    made, _, _ = make(offset=None)
    items, _ = made.recommend(Histories.of([[3], []]), N_ITEMS)
    assert not np.isin(items, UNTRAINED).any()
    assert (items[0] >= 0).sum() == N_ITEMS - 2 - len(UNTRAINED)
    readily, _ = make(offset=50.0)[0].recommend(Histories.of([[3], []]), 4)
    assert set(readily.flatten().tolist()) == set(UNTRAINED)


def test_what_is_trained_is_known_by_its_id_in_a_catalogue_that_grew(tmp_path: Path) -> None:
    histories = Histories.of([[(user + step) % 20 for step in range(6)] for user in range(20)])
    made = Generative(params(offset=0.0))
    made.fit(split(histories, "leave_one_out"), make_catalogue(), seed=0)
    made.save(tmp_path)
    items, scores = made.recommend(histories, 10)
    # Two items stand before all others now, and no index is what it was.
    old, more = make_catalogue(), make_catalogue(N_ITEMS + 2)
    order = [N_ITEMS, N_ITEMS + 1, *range(N_ITEMS)]
    new = replace(
        old,
        item_ids=["a", "b", *old.item_ids],
        titles=[""] * (N_ITEMS + 2),
        categories=[[]] * (N_ITEMS + 2),
        vectors=np.zeros((N_ITEMS + 2, 0), np.float32),
        codes=more.codes[order],
        text=np.concatenate([np.zeros((2, 8), np.float32), old.text]),
    )
    loaded = Generative.load(tmp_path, new)
    moved = replace(histories, items=histories.items + 2)
    both, their = loaded.recommend(moved, N_ITEMS + 2)
    for row in range(len(histories)):
        kept = both[row] >= 2
        assert {0, 1} <= set(both[row].tolist())
        np.testing.assert_array_equal(both[row][kept][:10] - 2, items[row])
        np.testing.assert_allclose(their[row][kept][:10], scores[row], atol=1e-5)


def test_untrained_items_of_the_same_words_are_found() -> None:
    """Four groups of items, each with words of its own; users stay in one, and two items of each are never met."""
    groups = np.repeat(np.arange(4), 6)
    rng = np.random.default_rng(3)
    text = (3 * np.eye(4, 8)[groups] + 0.3 * rng.standard_normal((24, 8))).astype(np.float32)
    codes = np.stack([groups, np.arange(24) % 6, np.zeros(24)], axis=1).astype(np.int32)
    catalogue = replace(make_catalogue(), text=text, codes=codes, code_sizes=(4, 6, 1))
    new = np.arange(24) % 6 >= 4
    rows = [[6 * (user % 4) + int(rng.integers(4)) for _ in range(6)] for user in range(80)]
    parts: Split = split(Histories.of(rows), "leave_one_out")
    found = {}
    for name, objective in (
        ("cold", COLD | {"offset": 0.0, "prefix": 1.0}),
        ("plain", {"kind": "autoregressive", "beam": N_ITEMS}),
    ):
        given = params().model_dump() | {"objective": objective}
        made = Generative(GenerativeParams.model_validate(given))
        made.fit(parts, catalogue, seed=0)
        items, _ = made.recommend(parts.test.histories, 6, exclude_history=False)
        right = groups[items] == groups[parts.test.histories.last(1)]
        found[name] = ((right & new[items]).sum(axis=1).mean(), right.mean())
    assert found["cold"][0] > 1.9
    assert found["cold"][1] > 0.95
    assert found["plain"][1] > 0.6
