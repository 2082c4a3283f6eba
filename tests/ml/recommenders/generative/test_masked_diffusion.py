from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.generative.beam import distinct_leaves
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.masked_diffusion import MaskedDiffusion, MaskedDiffusionParams
from ml.recommenders.generative.trie import build_trie
from ml.recommenders.generative.unmasking import Agreement, unmask
from tests.ml.recommenders.generative.test_generative import (
    BACKBONES,
    N_ITEMS,
    make_catalogue,
    make_histories,
    make_network,
    read,
    shape,
)


def make(backbone: dict[str, Any] = BACKBONES[0], merge: bool = True, **changes: Any) -> GenerativeParams:
    fitting = {"epochs", "evaluate_every", "learning_rate", "batch_tokens", "warmup"}
    objective = {name: value for name, value in changes.items() if name not in fitting}
    others = {name: value for name, value in changes.items() if name in fitting}
    objective = {"kind": "masked_diffusion", "beam": N_ITEMS} | objective
    return shape(backbone, merge, objective=objective, **others)


def told(network: Network, history: list[int], fixed: dict[int, int]) -> list[np.ndarray]:
    """Return the log-probabilities of every level's codes where some levels are fixed to codes."""
    objective, table = network.objective, network.table
    assert isinstance(objective, MaskedDiffusion)
    places = []
    for level in range(table.levels):
        code = table.table[int(table.offsets[level]) + fixed[level]] if level in fixed else objective.mask
        places.append(code + table.place[level])
    at = torch.tensor([[min(len(history), 5)]])
    states = network.backbone.write(
        network.read(read(history)), at, torch.stack(places)[None, None], whole=True
    )
    return [
        table.logits(states[0, 0, level], level).log_softmax(dim=0).numpy() for level in range(table.levels)
    ]


@torch.no_grad()
def walk(network: Network, history: list[int], codes: list[int], warm_up: int) -> float:
    """Score an item alone: fix its codes one by one, wherever one is surest, and read the others at once."""
    fixed: dict[int, int] = {}
    score = 0.0
    for _ in range(warm_up):
        chances = told(network, history, fixed)
        open_levels = [level for level in range(len(codes) - 1) if level not in fixed]
        level = max(open_levels, key=lambda level: chances[level].max())
        score += float(chances[level][codes[level]])
        fixed[level] = codes[level]
    chances = told(network, history, fixed)
    return score + sum(float(chances[level][code]) for level, code in enumerate(codes) if level not in fixed)


@pytest.mark.parametrize("warm_up", [0, 1, 2])
@pytest.mark.parametrize(("backbone", "merge"), [(BACKBONES[0], True), (BACKBONES[3], False)], ids=str)
@pytest.mark.parametrize("history", [[], [3], [4, 8, 2, 0, 11]], ids=str)
def test_recommendations_equal_walking_to_every_item(
    backbone: dict[str, Any], merge: bool, history: list[int], warm_up: int
) -> None:
    made, network, catalogue = make_network(params=make(backbone, merge, warm_up=warm_up))
    exact = np.array([walk(network, history, codes.tolist(), warm_up) for codes in catalogue.codes])
    items, scores = made.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-exact, kind="stable"))
    np.testing.assert_allclose(scores[0], np.sort(exact)[::-1], atol=1e-4)
    items, _ = made.recommend(Histories.of([history]), N_ITEMS)
    expected = [item for item in np.argsort(-exact, kind="stable") if item not in history]
    np.testing.assert_array_equal(items[0], expected + [-1] * len(history))


@pytest.mark.parametrize("warm_up", [0, 1, 2, 3])
def test_each_branch_takes_levels_in_an_order_of_its_own(warm_up: int) -> None:
    """Search with a made-up network of four levels, whose probabilities are a linear map of what is fixed."""
    rng = np.random.default_rng(3)
    codes = np.unique(rng.integers(0, [5, 4, 3, 2], (40, 4)), axis=0).astype(np.int32)
    worth = rng.standard_normal((2, 4, 6, 4, 5)) * 2

    def chances_of(user: int, fixed: dict[int, int]) -> np.ndarray:
        logits = sum(worth[user, level, fixed.get(level, 5)] for level in range(4))
        logits = np.where(np.arange(5) < np.array([[5], [4], [3], [2]]), logits, -np.inf)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def batched(fixed: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        found = np.zeros((*fixed.shape, 5), np.float32)
        for user, hypothesis in np.ndindex(*fixed.shape[:2]):
            known = {
                level: int(fixed[user, hypothesis, level])
                for level in range(4)
                if not masked[user, hypothesis, level]
            }
            found[user, hypothesis] = chances_of(user, known)
        return torch.from_numpy(found)

    orders, exact = set(), np.zeros((2, len(codes)))
    for user, item in np.ndindex(2, len(codes)):
        fixed: dict[int, int] = {}
        for _ in range(warm_up):
            chances = chances_of(user, fixed)
            level = max((level for level in range(3) if level not in fixed), key=lambda x: chances[x].max())
            exact[user, item] += chances[level, codes[item, level]]
            fixed[level] = int(codes[item, level])
        chances = chances_of(user, fixed)
        left = [level for level in range(4) if level not in fixed]
        exact[user, item] += chances[left, codes[item, left]].sum()
        orders.add((user, *fixed))
    trie = build_trie(codes, (5, 4, 3, 2))
    leaves = torch.from_numpy(codes.astype(np.int64))[trie.items]
    seen = torch.tensor([[3, 7, 7, -1], [0, 1, 2, 4]])
    for rows in seen, None:
        items, scores = unmask(batched, leaves, trie, 2, warm_up, len(codes), len(codes), rows)
        for user in range(2):
            excluded = [] if rows is None else [item for item in rows[user].tolist() if item >= 0]
            expected = [item for item in np.argsort(-exact[user]) if item not in excluded]
            assert items[user, : len(expected)].tolist() == expected
            np.testing.assert_allclose(scores[user, : len(expected)], exact[user, expected], atol=1e-4)
            assert (items[user, len(expected) :] == -1).all()
    assert len(orders) > 2 or warm_up < 2, "all branches took the same order"


@pytest.mark.parametrize("warm_up", [0, 1, 2])
def test_a_narrow_beam_ends_in_existing_items_and_fills_k(warm_up: int) -> None:
    catalogue = make_catalogue()
    catalogue.codes[[2, 22]] = -1
    mdgr = Generative(make(warm_up=warm_up, beam=1, epochs=1))
    mdgr.fit(split(make_histories(), "leave_one_out"), catalogue, seed=0)
    items, scores = mdgr.recommend(Histories.of([list(range(18)), [], [2], [4, 4, 9]]), 6)
    assert sorted(items[0, :5].tolist()) == [18, 19, 20, 21, 23]
    assert (items[0, 5], scores[0, 5]) == (-1, -np.inf)
    assert (items[1:] >= 0).all()
    assert all(len(set(row)) == 6 for row in items[1:].tolist())
    assert not np.isin(items, [2, 22]).any()
    assert not np.isin(items[3], [4, 9]).any()


def test_lists_of_items_by_code_by_hand() -> None:
    codes = np.array([[0, 2], [1, 0], [0, 0], [1, 2]], np.int32)
    trie = build_trie(codes, (2, 3))
    leaves = torch.from_numpy(codes.astype(np.int64))[trie.items]
    assert leaves.tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]
    dead = distinct_leaves(trie, torch.tensor([[0, 2, -1], [1, 1, -1]]))
    agreement = Agreement(leaves, 3, dead)
    # User 0 has seen both items with code 0 of level 0; user 1 has seen one with code 1.
    assert agreement.permitted(torch.tensor([[0], [0]]))[:, 0].tolist() == [
        [False, True, False],
        [True, True, False],
    ]
    assert agreement.permitted(torch.tensor([[1], [1]]))[:, 0].tolist() == [[True, False, True]] * 2
    agree = agreement.having(torch.tensor([[1, 0]]), torch.tensor([[2, 1]]))
    assert agree.tolist() == [[[1, 3], [2, 3]]]
    assert agreement.having(torch.tensor([[1, 0]]), torch.tensor([[1, 1]])).tolist() == [[[4, 4], [2, 3]]]
    both = torch.tensor([[[1, 3, 4]], [[1, 2, 4]]])
    assert agreement.alive(both).tolist() == [[[False, True, False]], [[True, False, False]]]


def draw(levels: int, steps: float, unseen: torch.Tensor | None = None, **changes: Any) -> torch.Tensor:
    params = MaskedDiffusionParams(**changes)
    objective = MaskedDiffusion(params, make().facts(make_catalogue(), (4, 4, 3)))
    # The catalogue has fewer levels.
    objective.known = params.known
    objective.steps.fill_(steps)
    torch.manual_seed(0)
    return objective.draw(torch.zeros(4000, levels, dtype=torch.bool) if unseen is None else unseen)


def test_more_is_masked_as_training_goes_on() -> None:
    def numbers(steps: float, **changes: Any) -> list[int]:
        return draw(8, steps, rise=100, **changes).sum(dim=1).unique().tolist()

    assert numbers(0) == [1]
    assert numbers(100) == numbers(1000) == [6, 7, 8]
    assert 1 < min(numbers(50)) < max(numbers(50)) < 8
    assert numbers(100, known=0) == [8]
    assert numbers(0, over_time="uniform") == list(range(1, 9))


def test_how_it_decodes_does_not_change_what_is_trained() -> None:
    parts, weights = split(make_histories(), "leave_one_out"), []
    for warm_up in (0, 2, 64):
        mdgr = Generative(make(warm_up=warm_up, rise=2, epochs=1, batch_tokens=64))
        mdgr.fit(parts, make_catalogue(), seed=0)
        weights.append(mdgr.item_vectors())
    np.testing.assert_array_equal(weights[1], weights[0])
    np.testing.assert_array_equal(weights[2], weights[0])


def test_codes_that_the_history_lacks_are_masked_rather() -> None:
    unseen = torch.arange(8) < 4
    unseen = unseen.expand(4000, 8)
    one = {"steps": 0.0, "unseen": unseen, "preference": 1.0}
    rather = draw(8, **one)[:, :4].float().sum(dim=1).mean()
    even = draw(8, **one, by_sample="uniform")[:, :4].float().sum(dim=1).mean()
    # One of eight is masked; four have odds of e to 1.
    np.testing.assert_allclose(float(rather), np.e / (np.e + 1), atol=0.03)
    np.testing.assert_allclose(float(even), 0.5, atol=0.03)


def test_what_a_history_lacks_by_hand() -> None:
    _, network, catalogue = make_network(params=make())
    row = [7, 3, 9, 1]
    rows = network.table.rows(torch.tensor([row[1:]]))
    unseen = MaskedDiffusion._unseen(network, read(row[:3]), torch.tensor([[1, 2, 3]]), rows)
    for place in range(3):
        before = catalogue.codes[row[: place + 1]]
        expected = ~(before == catalogue.codes[row[place + 1]]).any(axis=0)
        assert unseen[0, place].tolist() == expected.tolist()


def test_the_loss_is_the_mean_over_masked_codes() -> None:
    _, network, catalogue = make_network(params=make(over_time="uniform", by_sample="uniform"))
    objective = network.objective
    assert isinstance(objective, MaskedDiffusion)
    row = [7, 3, 9, 1]
    network.trie.place[9] = -1
    masked = torch.tensor([[[True, False, True], [True, True, True], [False, True, False]]])
    objective.draw = lambda unseen: masked  # type: ignore[method-assign]
    with torch.no_grad():
        loss, count = objective.loss(network, read(row[:3]), torch.tensor([row[1:]]))
        costs = []
        for place in (0, 2):
            codes = catalogue.codes[row[place + 1]].tolist()
            hidden = masked[0, place].tolist()
            fixed = {level: code for level, code in enumerate(codes) if not hidden[level]}
            chances = told(network, row[: place + 1], fixed)
            costs.append(
                -np.mean([chances[level][code] for level, code in enumerate(codes) if hidden[level]])
            )
        nothing, none = objective.loss(network, read(row[:3]), torch.full((1, 3), -1))
    assert int(count) == 2
    np.testing.assert_allclose(float(loss), np.mean(costs), rtol=1e-4)
    assert (float(nothing), int(none)) == (0, 0)


def test_steps_are_counted_in_training_and_saved() -> None:
    mdgr = Generative(make(epochs=2, batch_tokens=64))
    mdgr.fit(split(make_histories(), "leave_one_out"), make_catalogue(), seed=0)
    objective = mdgr.fitted().objective
    assert isinstance(objective, MaskedDiffusion)
    counted = float(objective.steps)
    assert counted > 2
    mdgr.fitted().eval()
    with torch.no_grad():
        objective.loss(mdgr.fitted(), read([1, 2]), torch.tensor([[2, 3]]))
    assert float(objective.steps) == counted
    assert float(mdgr.fitted().state_dict()["objective.steps"]) == counted


@pytest.mark.parametrize(
    "switches",
    [{"rise": 50, "warm_up": 2}, {"over_time": "uniform", "by_sample": "uniform", "warm_up": 0}],
    ids=str,
)
def test_it_learns_a_circle(switches: dict[str, Any]) -> None:
    parts = split(make_histories(), "leave_one_out")
    sizes = {"epochs": 60, "evaluate_every": 20, "learning_rate": 1e-2, "batch_tokens": 64, "warmup": 5}
    mdgr = Generative(make(**switches, **sizes))
    mdgr.fit(parts, make_catalogue(), seed=0)
    items, _ = mdgr.recommend(parts.test.histories, 1, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.95
