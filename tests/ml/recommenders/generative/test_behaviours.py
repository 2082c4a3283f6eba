"""Event types read and told: MBGen's parts, and the mixture over conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.layers import RoutedFeedForward
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.behaviour import BehaviourFirst
from ml.recommenders.generative.objectives.mixture import summed
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import shake

N_ITEMS, BEHAVIOURS = 20, 3
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}
NETWORKS: list[dict[str, Any]] = [
    {"kind": "encoder_decoder", "feed": "by_position"},
    {"kind": "encoder_decoder", "causal": False, "feed": "by_position"},
    {"kind": "encoder_decoder"},
    {"kind": "decoder_only"},
]


def make_catalogue() -> Catalogue:
    every = np.array([(a, b, c) for a in range(4) for b in range(4) for c in range(2)], np.int32)
    codes = every[np.random.default_rng(0).permutation(len(every))[:N_ITEMS]]
    none = np.zeros((N_ITEMS, 0), np.float32)
    return Catalogue(
        [f"i{i:02d}" for i in range(N_ITEMS)], [""] * N_ITEMS, [[]] * N_ITEMS, none, codes, (4, 4, 2)
    )


def made(merge: bool, backbone: dict[str, Any], tokens: str = "behaviour", **objective: Any) -> Generative:
    torch.manual_seed(0)
    params = GenerativeParams.model_validate(
        {
            "d": 16,
            "length": 5,
            "dropout": 0.0,
            "tokens": {"kind": tokens, "merge": merge},
            "backbone": SIZES | backbone,
            "objective": {"kind": "behaviour_first", "beam": N_ITEMS} | objective,
        }
    )
    catalogue = make_catalogue()
    network = params.build(params.facts(catalogue, catalogue.code_sizes, behaviours=BEHAVIOURS))
    shake(network)
    model = Generative(params)
    model.network = network.eval()
    return model


def typed(rows: list[list[tuple[int, int]]]) -> Histories:
    """Make histories of (item, event type)."""
    types = np.array([kind for row in rows for _, kind in row], np.int8)
    return replace(Histories.of([[item for item, _ in row] for row in rows]), event_types=types)


def exact(network: Network, history: Histories) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(type), and log p(item | type) by the training pass, one item after the other."""
    objective = network.objective
    assert isinstance(objective, BehaviourFirst)
    scores = np.zeros((BEHAVIOURS, N_ITEMS))
    with torch.no_grad():
        sequences = Sequences.of(history, 5)
        memory = network.read(sequences)
        at = sequences.lengths[:, None]
        for kind in range(BEHAVIOURS):
            for item in range(N_ITEMS):
                targets, types = torch.tensor([[item]]), torch.tensor([[kind]])
                states = objective.states(network, memory, at, targets, types)[0]
                told = objective.type_scores(states[:, 0])[0]
                path = objective.chosen(network, states[:, 1:], network.trie.place[[item]])
                scores[kind, item] = float(path.sum())
    return told.numpy(), scores


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("backbone", NETWORKS, ids=str)
@pytest.mark.parametrize("row", [[], [(3, 1)], [(4, 0), (8, 2), (4, 1)]], ids=str)
def test_items_are_ranked_by_the_sum_over_event_types(
    row: list[tuple[int, int]], backbone: dict[str, Any], merge: bool
) -> None:
    model, history = made(merge, backbone), typed([row])
    told, scores = exact(model.fitted(), history)
    both = np.exp(told[:, None] + scores)
    np.testing.assert_allclose(both.sum(), 1, rtol=1e-4)
    expected = both.sum(axis=0)
    items, found = model.recommend(typed([row, [(1, 0), (2, 2)]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-expected, kind="stable"))
    np.testing.assert_allclose(np.exp(found[0]), np.sort(expected)[::-1], rtol=1e-3)
    known = {item for item, _ in row}
    items, _ = model.recommend(history, N_ITEMS)
    rest = [item for item in np.argsort(-expected, kind="stable") if item not in known]
    assert items[0].tolist() == rest + [-1] * len(known)


@pytest.mark.parametrize("asked", ["likeliest", 0, 2])
def test_one_event_type_is_asked_for(asked: str | int) -> None:
    model, history = made(True, NETWORKS[0], asked=asked), typed([[(5, 1), (6, 0)]])
    told, scores = exact(model.fitted(), history)
    kind = int(told.argmax()) if asked == "likeliest" else int(asked)
    items, found = model.recommend(history, 6, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-scores[kind], kind="stable")[:6])
    weight = told[kind] if asked == "likeliest" else 0
    np.testing.assert_allclose(found[0], np.sort(scores[kind])[::-1][:6] + weight, atol=1e-4)


def test_what_was_done_is_read_and_unknown_types_are_alike() -> None:
    model = made(True, NETWORKS[0])

    def scores(kind: int) -> np.ndarray:
        return model.recommend(typed([[(5, kind)]]), 4)[1]

    assert np.abs(scores(0) - scores(1)).max() > 1e-2
    np.testing.assert_array_equal(scores(BEHAVIOURS), scores(BEHAVIOURS + 4))
    deaf = made(True, NETWORKS[0], tokens="codes")
    np.testing.assert_array_equal(*(deaf.recommend(typed([[(5, kind)]]), 4)[1] for kind in (0, 1)))


def test_the_point_wise_net_is_routed_by_place() -> None:
    torch.manual_seed(0)
    net = RoutedFeedForward(8, 16, 3)
    x = torch.randn(2, 5, 8, 8)[:, :, :8]
    with torch.no_grad():
        expected = torch.stack(
            [net.experts[expert](x[..., place, :]) for place, expert in enumerate([0, 1, 2, 3, 1, 2, 3, 1])],
            dim=-2,
        )
        torch.testing.assert_close(net(x), expected)
        torch.testing.assert_close(net(x[..., :1, :]), expected[..., :1, :])
    assert (expected[..., 1, :] - net.experts[0](x[..., 1, :])).abs().max() > 1e-2


def test_equal_items_are_summed() -> None:
    items = torch.tensor([[4, 2, -1, 2, 4, 7], [1, -1, -1, -1, -1, -1]])
    scores = torch.tensor([[0.1, 0.3, 0.0, 0.2, 0.1, 0.2], [1e-30, 0, 0, 0, 0, 0]]).log()
    found, total = summed(items, scores, 4)
    assert found.tolist() == [[2, 4, 7, -1], [1, -1, -1, -1]]
    torch.testing.assert_close(total[0, :3].exp(), torch.tensor([0.5, 0.2, 0.2]))
    assert total[:, 3].tolist() == [-np.inf, -np.inf]
    assert total[1, 0] == scores[1, 0]
    # Far apart, nothing is lost.
    _, total = summed(torch.tensor([[3, 3, 5]]), torch.tensor([[-500.0, -500.0, -1.0]]), 2)
    np.testing.assert_allclose(total[0], [-1, -500 + np.log(2)], rtol=1e-6)


def planted(n_users: int = 60) -> Histories:
    """What comes next follows from the last event's type alone, which is drawn: only who reads it can tell the item."""
    rng = np.random.default_rng(0)
    types = rng.integers(3, size=(n_users, 8))
    items = np.array([3, 11, 17])[np.roll(types, 1, axis=1)]
    return typed([list(zip(i, t, strict=True)) for i, t in zip(items.tolist(), types.tolist(), strict=True)])


@pytest.mark.parametrize(("tokens", "learns"), [("behaviour", True), ("codes", False)])
def test_only_who_reads_event_types_learns_what_depends_on_them(tokens: str, learns: bool) -> None:
    parts = split(planted(), "leave_one_out")
    params = GenerativeParams.model_validate(
        {
            **{"d": 16, "length": 6, "dropout": 0.0, "epochs": 40, "patience": 40, "learning_rate": 2e-2},
            **{
                "batch_tokens": 64,
                "warmup": 5,
                "evaluate_every": 40,
                "tokens": {"kind": tokens, "merge": True},
            },
            "backbone": SIZES | NETWORKS[0],
            "objective": {"kind": "behaviour_first", "beam": N_ITEMS},
        }
    )
    model = Generative(params)
    model.fit(parts, make_catalogue(), seed=0)
    items, _ = model.recommend(parts.test.histories, 1, exclude_history=False)
    right = (items[:, 0] == parts.test.targets).mean()
    assert right > 0.95 if learns else right < 0.6


def test_the_number_of_event_types_is_saved(tmp_path: Path) -> None:
    parts = split(planted(30), "leave_one_out")
    params = GenerativeParams.model_validate(
        {"d": 16, "length": 6, "epochs": 1, "tokens": {"kind": "behaviour"}, "backbone": SIZES | NETWORKS[0]}
        | {"objective": {"kind": "behaviour_first"}}
    )
    model = Generative(params)
    model.fit(parts, make_catalogue(), seed=0)
    model.save(tmp_path)
    loaded = Generative.load(tmp_path, make_catalogue())
    for left, right in zip(
        model.recommend(parts.test.histories, 5), loaded.recommend(parts.test.histories, 5), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_type_that_training_lacks_is_not_asked_for() -> None:
    with pytest.raises(ValueError, match="event type 3 is asked for; training has 3"):
        made(True, NETWORKS[0], asked=3)
