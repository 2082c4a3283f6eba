from __future__ import annotations

import itertools
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.generative.auxiliary.text_alignment import (
    TASKS,
    TextAlignment,
    latest,
    title_words,
    together,
)
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Network
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import read, shake

N_ITEMS = 24
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}
TITLES = [" ".join(f"w{i % m}x{m}" for m in (3, 5, 7)[: 1 + i % 3]) for i in range(N_ITEMS)]
BUILDS = [
    ({"kind": "decoder_only"}, True),
    ({"kind": "decoder_only"}, False),
    ({"kind": "encoder_decoder"}, True),
]


def make_catalogue() -> Catalogue:
    every = np.array(list(itertools.product(range(4), range(4), range(3))), np.int32)
    codes = every[np.random.default_rng(0).permutation(len(every))[:N_ITEMS]]
    ids = [f"i{i}" for i in range(N_ITEMS)]
    return Catalogue(ids, TITLES, [[]] * N_ITEMS, np.zeros((N_ITEMS, 0), np.float32), codes, (4, 4, 3))


def make_params(backbone: dict[str, Any], merge: bool, *tasks: str, **changes: Any) -> GenerativeParams:
    alignment = {
        "kind": "text_alignment",
        "tasks": tasks or TASKS,
        "words": 64,
        "title_words": 4,
        "titles": 2,
    }
    return GenerativeParams.model_validate(
        {
            **{"d": 16, "length": 5, "dropout": 0.0},
            "tokens": {"kind": "codes", "merge": merge},
            "backbone": {**SIZES, **backbone},
            "auxiliary": [alignment],
            **changes,
        }
    )


def make(backbone: dict[str, Any], merge: bool, *tasks: str) -> tuple[Network, TextAlignment]:
    torch.manual_seed(0)
    catalogue = make_catalogue()
    params = make_params(backbone, merge, *tasks)
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    shake(network)
    part = network.auxiliary[0]
    assert isinstance(part, TextAlignment)
    return network.eval(), part


def buckets(item: int) -> list[int]:
    return [zlib.crc32(word.encode()) % 64 for word in TITLES[item].split()]


def loss_of_id(network: Network, part: TextAlignment, task: Any, read_items: list[int], item: int) -> float:
    """One history of titles, one item, no padding but within the last item's places."""
    words = []
    for one in read_items:
        found = buckets(one)
        words += found + [64] * (-len(found) % part.per_item)
    embedded = part.words[torch.tensor(words)].view(1, -1, part.per_item, 16)
    memory = network.backbone.read(
        embedded, network.table.start + part.told[TASKS.index(task)], torch.tensor([embedded.shape[1]])
    )
    states = network.states(memory, torch.tensor([[embedded.shape[1]]]), torch.tensor([[item]]))[0]
    return -float(network.objective.chosen(network, states, network.trie.place[[item]]).sum())


def losses_of_words(
    network: Network, part: TextAlignment, task: Any, history: list[int], item: int
) -> list[float]:
    """One word after the other, each told those before it."""
    found, memory = [], network.read(read(history))
    start = network.table.start + part.told[TASKS.index(task)]
    for place, word in enumerate(buckets(item)):
        x = torch.cat([start[None], part.words[torch.tensor(buckets(item)[:place], dtype=torch.long)]])
        states = network.backbone.write(memory, torch.tensor([[len(history)]]), x[None, None])
        logits = part.words[:64] @ states[0, 0, -1]
        found.append(-float(logits.log_softmax(0)[word]))
    return found


@pytest.mark.parametrize(("backbone", "merge"), BUILDS, ids=str)
def test_losses_equal_those_of_each_example_alone(backbone: dict[str, Any], merge: bool) -> None:
    sequences, targets = read([5, 1, 9], [4, 8]), torch.tensor([[1, 9, 2], [8, 0, -1]])
    with torch.no_grad():
        for task in TASKS:
            network, part = make(backbone, merge, task)
            torch.manual_seed(7)
            loss = float(part(network, sequences, targets, network.read(sequences)))
            torch.manual_seed(7)
            drawn = torch.randint(N_ITEMS, (64,)).tolist()
            if task == "title_to_id":
                each = [loss_of_id(network, part, task, [item], item) for item in drawn]
            elif task == "titles_to_id":
                each = [loss_of_id(network, part, task, *told) for told in (([1, 9], 2), ([4, 8], 0))]
            else:
                told = [([item], item) for item in drawn]
                if task == "ids_to_title":
                    told = [([5, 1, 9], 2), ([4, 8], 0)]
                each = [loss for one in told for loss in losses_of_words(network, part, task, *one)]
            np.testing.assert_allclose(loss, np.mean(each), rtol=1e-4)


def test_a_network_learns_which_item_a_title_belongs_to() -> None:
    """Items 20 to 23 are in no history: only their titles tell what their IDs are."""
    walks = Histories.of([[(user * 7 + step) % 20 for step in range(5 + user % 6)] for user in range(60)])
    found = {}
    titles = [f"alpha{i} beta{i % 5}" for i in range(N_ITEMS)]
    for tasks in (("title_to_id",), ("ids_to_title",)):
        changes = {"epochs": 20, "patience": 20, "learning_rate": 1e-2, "batch_tokens": 64, "warmup": 5}
        params = make_params({"kind": "decoder_only"}, True, *tasks, **changes)
        alignment = params.auxiliary[0].model_copy(update={"words": 512})
        made = Generative(params.model_copy(update={"auxiliary": (alignment,)}))
        made.fit(split(walks, "leave_one_out"), replace(make_catalogue(), titles=titles), seed=0)
        network = made.fitted()
        part = network.auxiliary[0]
        assert isinstance(part, TextAlignment)
        with torch.no_grad():
            losses = [
                [float(part._to_id(network, "title_to_id", torch.tensor([[title]]), torch.tensor([item])))
                 for item in range(N_ITEMS)]
                for title in range(20, N_ITEMS)
            ]  # fmt: skip
        found[tasks[0]] = (np.argmin(losses, axis=1) == np.arange(20, N_ITEMS)).mean()
    assert found["title_to_id"] == 1
    assert found["ids_to_title"] < 1


def test_words_of_titles() -> None:
    found = title_words(["Steel-Wire, 2 m", "", "a b c d e"], 4, 1000)
    assert found[0].tolist() == [zlib.crc32(word) % 1000 for word in (b"steel", b"wire", b"2", b"m")]
    assert found[1].tolist() == [-1] * 4
    assert found[2].tolist() == [zlib.crc32(word) % 1000 for word in (b"a", b"b", b"c", b"d")]


def test_latest_items_and_gaps() -> None:
    items = torch.tensor([[5, 1, 9], [4, 8, 0]])
    assert latest(items, torch.tensor([3, 1]), 2).tolist() == [[1, 9], [-1, 4]]
    groups = torch.tensor([[[1, -1], [-1, -1], [2, 3]], [[-1, -1], [-1, -1], [4, -1]]])
    assert together(groups)[:, :2].tolist() == [[[1, -1], [2, 3]], [[4, -1], [-1, -1]]]


def test_nothing_to_learn_is_no_loss() -> None:
    for task in TASKS[2:]:
        network, part = make({"kind": "decoder_only"}, True, task)
        sequences = read([5, 1], [4])
        loss = part(network, sequences, torch.full((2, 2), -1), network.read(sequences))
        assert float(loss.detach()) == 0
        loss.backward()


def test_it_needs_an_objective_that_writes_codes() -> None:
    with pytest.raises(ValueError, match="objective autoregressive"):
        make_params({"kind": "decoder_only"}, False, objective={"kind": "next_tokens"})
