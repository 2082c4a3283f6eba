"""Heads by what people know of a choice: labels, adapters, and their composition."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.prior_heads import Adapters, PriorHeads, taxonomy
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import shake

N_ITEMS, BEHAVIOURS = 16, 2
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}
NETWORKS: list[dict[str, Any]] = [
    {"kind": "encoder_decoder"},
    {"kind": "encoder_decoder", "causal": False},
    {"kind": "decoder_only"},
]
SMALL = {"beam": N_ITEMS, "groups": 3, "width": 4, "heads": 18, "recent": 2}


def make_catalogue() -> Catalogue:
    every = np.array([(a, b) for a in range(4) for b in range(4)], np.int32)
    categories = [["big"]] * 8 + [["mid", "x"]] * 5 + [["s"], [], ["t"]]
    none = np.zeros((N_ITEMS, 0), np.float32)
    return Catalogue([f"i{i:02d}" for i in range(N_ITEMS)], [""] * N_ITEMS, categories, none, every, (4, 4))


def make_network(backbone: int = 0, **objective: Any) -> tuple[Generative, Network]:
    torch.manual_seed(0)
    params = GenerativeParams.model_validate(
        {
            **{"d": 16, "length": 6, "dropout": 0.0, "tokens": {"kind": "codes", "merge": True}},
            "backbone": SIZES | NETWORKS[backbone],
            "objective": {"kind": "prior_heads"} | SMALL | objective,
        }
    )
    model, catalogue = Generative(params), make_catalogue()
    network = params.build(params.facts(catalogue, catalogue.code_sizes, behaviours=BEHAVIOURS))
    shake(network)
    model.network = network.eval()
    return model, network


def test_small_categories_share_a_group() -> None:
    assert taxonomy(make_catalogue(), 3).tolist() == [0] * 8 + [1] * 5 + [2] * 3
    assert taxonomy(make_catalogue(), 1).tolist() == [0] * N_ITEMS


def test_labels_of_targets() -> None:
    _, network = make_network()
    objective = network.objective
    assert isinstance(objective, PriorHeads)
    # First codes of the items: 0, 1, 0, 2; of the targets: 1, 0, 2, 0.
    read = Sequences.of(Histories.of([[0, 5, 3, 9]]), 6)
    read = read._replace(target_types=torch.tensor([[1, 0, 1, 1]]))
    labels = objective.labels(network, read, torch.tensor([[5, 3, 9, 1]]))
    assert labels["behaviour"].tolist() == [[1, 0, 1, 1]]
    # The second target's code is that of the first of two items, the last one's that of the last item but one.
    assert labels["term"].tolist() == [[0, 2, 0, 2]]
    assert labels["taxonomy"].tolist() == [[0, 0, 1, 0]]
    later = Sequences.of(Histories.of([[0, 5, 9, 13]]), 6)._replace(target_types=torch.zeros(1, 4).long())
    assert objective.labels(network, later, torch.tensor([[5, 9, 1, 2]]))["term"].tolist() == [[0, 0, 1, 1]]


def test_an_adapter_is_that_of_the_label() -> None:
    torch.manual_seed(0)
    net = Adapters(6, 3, 4)
    x, label = torch.randn(5, 2, 6), torch.tensor([[0], [3], [1], [1], [2]])
    torch.testing.assert_close(net(x, label), x)
    torch.nn.init.normal_(net.up.weight)
    with torch.no_grad():
        found = net(x, label)
        for row, of in enumerate(label[:, 0].tolist()):
            down, up = net.down.weight[3 * of : 3 * of + 3], net.up.weight[:, 3 * of : 3 * of + 3]
            torch.testing.assert_close(found[row], x[row] + (x[row] @ down.T).relu() @ up.T)


def exact(network: Network, history: list[int], fixed: dict[str, int]) -> np.ndarray:
    """Return p(item) by the training pass: every combination of labels, one item after the other."""
    objective = network.objective
    assert isinstance(objective, PriorHeads)
    total = np.zeros(N_ITEMS)
    with torch.no_grad():
        sequences = Sequences.of(Histories.of([history]), 6)
        memory, at = network.read(sequences), sequences.lengths[:, None]
        state = memory.after(at)[0, 0]
        gates = {name: gate(state).softmax(-1) for name, gate in objective.gates.items()}
        for combination in itertools.product(*(range(size) for size in objective.sizes.values())):
            labels = dict(zip(objective.sizes, combination, strict=True))
            if any(labels[name] != label for name, label in fixed.items()):
                continue
            weight = np.prod([float(gates[name][labels[name]]) for name in labels if name not in fixed])
            for item in range(N_ITEMS):
                states = network.states(memory, at, torch.tensor([[item]]))[0]
                states = objective.adapt(states, {name: torch.tensor([[of]]) for name, of in labels.items()})
                path = objective.chosen(network, states, network.trie.place[[item]])
                total[item] += weight * float(path.sum().exp())
    return total


@pytest.mark.parametrize("backbone", range(len(NETWORKS)))
@pytest.mark.parametrize("fixed", [{}, {"term": 2}, {"behaviour": 1, "taxonomy": 0}], ids=str)
def test_heads_are_composed_and_summed(backbone: int, fixed: dict[str, int]) -> None:
    model, network = make_network(backbone, asked=fixed)
    history = [3, 9, 4]
    expected = exact(network, history, fixed)
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-4)
    items, scores = model.recommend(Histories.of([history, [1]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-expected, kind="stable"))
    np.testing.assert_allclose(np.exp(scores[0]), np.sort(expected)[::-1], rtol=1e-3)
    items, _ = model.recommend(Histories.of([history]), N_ITEMS)
    assert sorted(items[0].tolist()) == [-1] * 3 + [item for item in range(N_ITEMS) if item not in history]


def test_few_heads_are_the_likeliest() -> None:
    _, every = make_network()
    _, few = make_network(heads=3)
    objectives = [every.objective, few.objective]
    with torch.no_grad():
        sequences = Sequences.of(Histories.of([[3, 9, 4]]), 6)
        memory, at = every.read(sequences), sequences.lengths[:, None]
        assert all(isinstance(objective, PriorHeads) for objective in objectives)
        whole, labels = objectives[0].combinations(memory, at)  # type: ignore[attr-defined]
        best, some = objectives[1].combinations(memory, at)  # type: ignore[attr-defined]
    assert whole.shape == (1, 18)
    torch.testing.assert_close(whole.exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(best, whole[:, :3])
    assert all(torch.equal(some[name], labels[name][:, :3]) for name in labels)
    told = {tuple(int(labels[name][0, head]) for name in labels) for head in range(18)}
    assert len(told) == 18


def test_without_adapters_and_priors_it_is_the_plain_network() -> None:
    bare, _ = make_network(priors=[], heads=1)
    gated, network = make_network(width=0)
    history = Histories.of([[3, 9], [1]])
    assert not list(network.objective.adapters.parameters())  # type: ignore[attr-defined]
    gated.network.load_state_dict(bare.network.state_dict(), strict=False)  # type: ignore[union-attr]
    for left, right in zip(bare.recommend(history, 5), gated.recommend(history, 5), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


def planted(n_users: int = 60) -> Histories:
    """Events of type 0 are on items 0 to 7, those of type 1 on items 8 to 15; types are drawn."""
    rng = np.random.default_rng(0)
    types = rng.integers(2, size=(n_users, 7))
    items = rng.integers(8, size=(n_users, 7)) + 8 * types
    made = Histories.of(items.tolist())
    return replace(made, event_types=types.astype(np.int8).ravel())


def test_a_head_that_is_asked_for_steers_the_list() -> None:
    parts = split(planted(), "full")
    lists = []
    for label in range(2):
        params = GenerativeParams.model_validate(
            {
                **{"d": 16, "length": 6, "dropout": 0.0, "epochs": 60, "learning_rate": 2e-2},
                **{"batch_tokens": 128, "warmup": 5, "tokens": {"kind": "codes", "merge": True}},
                "backbone": SIZES | NETWORKS[0],
                "objective": {"kind": "prior_heads", "priors": ["behaviour"], "beam": N_ITEMS, "width": 8}
                | {"asked": {"behaviour": label}},
            }
        )
        model = Generative(params)
        model.fit(parts, make_catalogue(), seed=0)
        lists.append(model.recommend(Histories.of([[1, 9], [12], []]), 5)[0])
    assert (lists[0] < 8).all()
    assert (lists[1] >= 8).all()


def test_a_label_that_no_head_has_is_not_asked_for() -> None:
    with pytest.raises(ValueError, match="label 3 of prior term"):
        make_network(asked={"term": 3})
    with pytest.raises(ValueError, match="label 0 of prior taxonomy"):
        make_network(priors=["term"], asked={"taxonomy": 0})
