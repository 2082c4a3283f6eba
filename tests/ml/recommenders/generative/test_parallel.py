from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.parallel import Parallel, ResidualHeads
from ml.recommenders.generative.one_pass import code_sums, rank_all
from ml.recommenders.generative.trie import build_trie
from tests.ml.recommenders.generative.test_generative import (
    BACKBONES,
    N_ITEMS,
    make_catalogue,
    make_histories,
    make_network,
    read,
    shape,
)

HEADS = [{"kind": "parallel", "heads": heads, "temperature": 0.3} for heads in ("residual", "none")]


def make(backbone: dict[str, Any], objective: dict[str, Any], **changes: Any) -> GenerativeParams:
    return shape(backbone, True, objective=objective, **changes)


def score_one_by_one(network: Network, history: list[int]) -> np.ndarray:
    """Score items with loops: a head, a cosine with every code of the level, a softmax, and a sum over levels."""
    objective, table = network.objective, network.table
    assert isinstance(objective, Parallel)
    with torch.no_grad():
        state = network.read(read(history)).after(torch.tensor([[min(len(history), 5)]]))[0, 0].double()
        scores = np.zeros(N_ITEMS)
        for level, size in enumerate(table.code_sizes):
            told = state
            if objective.heads is not None:
                moved = (
                    state @ objective.heads.weight[level].double() + objective.heads.bias[level, 0].double()
                )
                told = state + moved * torch.sigmoid(moved)
            begin = int(table.offsets[level])
            logits = torch.stack(
                [
                    torch.cosine_similarity(told, table.table[begin + code].double(), dim=0)
                    for code in range(size)
                ]
            )
            chances = (logits / objective.temperature).exp()
            chances = (chances / chances.sum()).log()
            for item in range(N_ITEMS):
                scores[item] += float(chances[int(table.item_rows[item, level]) - begin])
    return scores


@pytest.mark.parametrize("objective", HEADS, ids=str)
@pytest.mark.parametrize("backbone", BACKBONES, ids=str)
@pytest.mark.parametrize("history", [[], [3], [4, 8, 2, 0, 11]], ids=str)
def test_recommendations_equal_a_score_for_every_item(
    backbone: dict[str, Any], objective: dict[str, Any], history: list[int]
) -> None:
    made, network, _ = make_network(params=make(backbone, objective))
    exact = score_one_by_one(network, history)
    items, scores = made.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-exact, kind="stable"))
    np.testing.assert_allclose(scores[0], np.sort(exact)[::-1], atol=1e-4)
    items, _ = made.recommend(Histories.of([history]), 10)
    expected = [item for item in np.argsort(-exact, kind="stable") if item not in history]
    np.testing.assert_array_equal(items[0], expected[:10])


@pytest.mark.parametrize("backbone", BACKBONES[:2], ids=str)
def test_the_loss_is_the_mean_over_targets_and_levels(backbone: dict[str, Any]) -> None:
    _, network, catalogue = make_network(params=make(backbone, HEADS[0]))
    row = [7, 3, 9, 1]
    targets = torch.tensor([row[1:]])
    places = range(3) if network.backbone.causal else [2]
    network.trie.place[9] = -1
    each = [score_one_by_one(network, row[: place + 1])[row[place + 1]] for place in places]
    with torch.no_grad():
        loss, count = network.objective.loss(network, read(row[:3]), targets)
        nothing, none = network.objective.loss(network, read(row[:3]), torch.full((1, 3), -1))
    kept = [score for score, place in zip(each, places, strict=True) if row[place + 1] != 9]
    assert int(count) == len(kept)
    np.testing.assert_allclose(float(loss), -np.mean(kept) / len(catalogue.code_sizes), rtol=1e-4)
    assert (float(nothing), int(none)) == (0, 0)


@pytest.mark.parametrize("backbone", BACKBONES[:2], ids=str)
def test_over_items_the_loss_is_a_softmax_over_all_that_have_an_id(backbone: dict[str, Any]) -> None:
    objective = {"kind": "parallel", "heads": "none", "temperature": 0.3, "over": "items"}
    _, network, catalogue = make_network(params=make(backbone, objective))
    row = [7, 3, 9, 1]
    network.trie.place[9] = -1
    levels, there = len(catalogue.code_sizes), np.arange(N_ITEMS) != 9
    each = []
    for place in range(3) if network.backbone.causal else [2]:
        target = row[place + 1]
        if target != 9:
            # Sums of log-probabilities over levels differ from sums of logits by what is the same for every item.
            scores = score_one_by_one(network, row[: place + 1]) / levels
            each.append(scores[target] - np.log(np.exp(scores[there]).sum()))
    with torch.no_grad():
        loss, count = network.objective.loss(network, read(row[:3]), torch.tensor([row[1:]]))
        nothing, none = network.objective.loss(network, read(row[:3]), torch.full((1, 3), -1))
    assert int(count) == len(each)
    np.testing.assert_allclose(float(loss), -np.mean(each), rtol=1e-4)
    assert (float(nothing), int(none)) == (0, 0)


def test_over_items_needs_one_vector_an_item() -> None:
    with pytest.raises(ValueError, match="over: items goes with heads: none"):
        make(BACKBONES[0], {"kind": "parallel", "heads": "residual", "over": "items"})


def test_heads_begin_as_the_identity_and_no_head_is_the_same() -> None:
    states = torch.randn(4, 8)
    torch.testing.assert_close(ResidualHeads(3, 8)(states), states.expand(3, 4, 8))


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        (BACKBONES[0], {"heads": "residual"}),
        (BACKBONES[2], {"heads": "none"}),
        (BACKBONES[2], {"heads": "none", "over": "items", "temperature": 0.1}),
    ],
    ids=str,
)
def test_it_learns_a_circle(backbone: dict[str, Any], changes: dict[str, Any]) -> None:
    parts = split(make_histories(), "leave_one_out")
    objective = {"kind": "parallel", "temperature": 0.2, **changes}
    sizes = {"epochs": 80, "evaluate_every": 20, "learning_rate": 3e-3, "batch_tokens": 64, "warmup": 5}
    rpg = Generative(make(backbone, objective, **sizes))
    report = rpg.fit(parts, make_catalogue(), seed=0)
    items, _ = rpg.recommend(parts.test.histories, 1, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.95
    assert report["losses"][-1] < 0.1 * report["losses"][0]


def test_only_items_with_an_id_are_recommended(tmp_path: Any) -> None:
    catalogue = make_catalogue()
    catalogue.codes[[2, 22]] = -1
    rpg = Generative(make(BACKBONES[0], HEADS[0], epochs=1))
    rpg.fit(split(make_histories(), "leave_one_out"), catalogue, seed=0)
    items, scores = rpg.recommend(Histories.of([list(range(18)), [], [2]]), 6)
    assert sorted(items[0, :5].tolist()) == [18, 19, 20, 21, 23]
    assert (items[0, 5], scores[0, 5]) == (-1, -np.inf)
    assert (items[1:] >= 0).all()
    assert not np.isin(items, [2, 22]).any()
    # Tomorrow's items are scored without training, if the model knows their codes.
    rpg.save(tmp_path)
    grown = Generative.load(tmp_path, make_catalogue(N_ITEMS + 5)).recommend(Histories.of([[1]]), N_ITEMS + 4)
    assert set(grown[0][0].tolist()) == set(range(N_ITEMS + 5)) - {1}


def test_items_whose_codes_are_worth_the_same_are_ranked_by_index() -> None:
    trie = build_trie(np.array([[1, 0], [0, 0], [0, 1], [1, 1]], np.int32), (2, 2))
    values = torch.tensor([[0.0, 1.0, 0.5, 0.5], [2.0, 0.0, 0.0, 0.0]])
    rows = torch.tensor([[1, 2], [0, 2], [0, 3], [1, 3]])
    scores = code_sums(values, rows)
    assert scores.tolist() == [[1.5, 0.5, 0.5, 1.5], [0.0, 2.0, 2.0, 0.0]]
    items, best = rank_all(lambda users: scores[users].clone(), trie, 2, 3, None)
    assert items.tolist() == [[0, 3, 1], [1, 2, 0]]
    assert best.tolist() == [[1.5, 1.5, 0.5], [2.0, 2.0, 0.0]]
    items, _ = rank_all(lambda users: scores[users].clone(), trie, 2, 5, torch.tensor([[3, -1], [2, 1]]))
    assert items.tolist() == [[0, 1, 2, -1, -1], [0, 3, -1, -1, -1]]


def test_users_are_ranked_in_portions_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = make_network(params=make(BACKBONES[2], HEADS[0]))
    histories = Histories.of([[1, 2], [3], [], [5, 6, 7], [9]])
    together = made.recommend(histories, 4)
    monkeypatch.setattr("ml.recommenders.generative.one_pass._SCORES", 2 * N_ITEMS + 1)
    for one, other in zip(made.recommend(histories, 4), together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_code_that_is_not_known_is_worth_nothing() -> None:
    assert code_sums(torch.tensor([[1.0, 2.0]]), torch.tensor([[0, 2], [1, 2]])).tolist() == [[1.0, 2.0]]
