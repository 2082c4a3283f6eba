from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.sequential.model import SequentialParams
from ml.recommenders.sequential.network import Network
from ml.recommenders.sequential.objectives.reasoning import (
    Reasoning,
    ReasoningParams,
    appended,
    mean_divergence,
)
from ml.recommenders.sequential.parts import Facts, Reading
from ml.snapshot import Catalogue

ROWS = [[1, 2, 3], [4], [5, 6]]
TARGETS = torch.tensor([[-1, -1, 7], [8, -1, -1], [-1, 9, -1]])
WANTED = torch.tensor([7, 8, 9])


def made(temperature: float | None = None, **params: Any) -> tuple[Network, Reasoning]:
    torch.manual_seed(0)
    catalogue = Catalogue([""] * 10, [], [], np.zeros((10, 0), np.float32), np.zeros((10, 0), np.int32), ())
    network = SequentialParams(
        d=8, max_length=5, dropout=0.0, objective=ReasoningParams(**params), temperature=temperature
    ).build(Facts(catalogue, torch.ones(10, dtype=torch.int64), 8, 5, 0.0))
    assert isinstance(network.objective, Reasoning)
    return network, network.objective


def batch(rows: list[list[int]] = ROWS) -> Sequences:
    return Sequences.of(Histories.of(rows), 5)


def alone(network: Network, objective: Reasoning, row: list[int], steps: int) -> list[torch.Tensor]:
    """Think about one sequence, without padding: what is read after each step is one vector longer."""
    table = network.item_net()
    assert network.position is not None
    x = table[row] * math.sqrt(8) + network.position[5 - len(row) :]
    found: list[torch.Tensor] = []
    for k in range(steps + 1):
        if k:
            x = torch.cat([x, (found[-1] + objective.step[k - 1])[None]])
        ones = torch.ones(1, len(x), dtype=torch.bool)
        found.append(network.encode(x[None], Reading(ones, ones.long(), ones.long(), True))[0, -1])
    return found


@pytest.mark.parametrize("learning", ["ensemble", "progressive"])
def test_asked_after_all_steps(learning: str) -> None:
    network, objective = made(learning=learning, steps=3)
    asked = network.query(batch(), network.item_net())
    for row, state in zip(ROWS, asked, strict=True):
        found = alone(network, objective, row, 3)
        torch.testing.assert_close(state, sum(found) / 4 if learning == "ensemble" else found[-1])
        assert not torch.allclose(found[0], found[-1])


def test_a_thought_stands_behind_its_sequence() -> None:
    read = batch()
    reading = Reading.of(read, 5, True)
    x, thought = torch.randn(3, 3, 2), torch.randn(3, 2)
    longer, now = appended(x, reading, thought, read.lengths)
    for row, n in enumerate([3, 1, 2]):
        torch.testing.assert_close(longer[row, :n], x[row, :n])
        torch.testing.assert_close(longer[row, n], thought[row])
        assert now.real[row].tolist() == [True] * (n + 1) + [False] * (3 - n)
        assert now.places[row, : n + 1].tolist() == [*range(5 - n, 6)]
        assert now.times[row, : n + 1].tolist() == [*range(n), n - 1]


def test_divergence_is_that_of_a_loop() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4)
    p = torch.softmax(scores, dim=2).tolist()
    found = [
        sum(a * math.log(a / b) for a, b in zip(row[s], row[t], strict=True))
        for row in p
        for s in range(3)
        for t in range(3)
        if s != t
    ]
    assert float(mean_divergence(scores)) == pytest.approx(sum(found) / 12, rel=1e-5)


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_ensemble_loss(temperature: float | None) -> None:
    network, objective = made(temperature, learning="ensemble", divergence=0.3)
    value, n = objective.loss(network, batch(), TARGETS)
    table = network.item_net()
    thoughts = torch.stack([torch.stack(alone(network, objective, row, 2)) for row in ROWS])

    def scores(states: torch.Tensor) -> torch.Tensor:
        if temperature is None:
            return states @ table.T
        return normalize(states, dim=-1) @ normalize(table, dim=1).T / temperature

    expected = cross_entropy(scores(thoughts.mean(dim=1)), WANTED) - 0.3 * mean_divergence(scores(thoughts))
    torch.testing.assert_close(value, expected)
    assert int(n) == 3


def test_progressive_loss_by_hand() -> None:
    network, objective = made(learning="progressive", anneal=3.0, early=0.5, contrast=0.0)
    value, _ = objective.loss(network, batch(), TARGETS)
    table = network.item_net()
    thoughts = torch.stack([torch.stack(alone(network, objective, row, 2)) for row in ROWS])
    each = [cross_entropy(thoughts[:, k] @ table.T / 3.0 ** (2 - k), WANTED) for k in range(3)]
    torch.testing.assert_close(value, each[2] + 0.5 * (each[0] + each[1]) / 2)


def test_disturbed_steps_are_found_among_the_rest() -> None:
    network, objective = made(learning="progressive", contrast=0.4, noise=0.0, contrast_temperature=0.2)
    with_contrast, _ = objective.loss(network, batch(), TARGETS)
    plain, other = made(learning="progressive", contrast=0.0)
    without, _ = other.loss(plain, batch(), TARGETS)
    thoughts = torch.stack([torch.stack(alone(network, objective, row, 2)) for row in ROWS])
    found = []
    for k in (1, 2):
        unit = normalize(thoughts[:, k], dim=1)
        found.append(cross_entropy(unit @ unit.T / 0.2, torch.arange(3)))
    torch.testing.assert_close(with_contrast - without, 0.4 * (found[0] + found[1]) / 2)


def test_noise_disturbs_training_alone() -> None:
    network, objective = made(learning="progressive", noise=1.0)
    losses = {round(float(objective.loss(network, batch(), TARGETS)[0].detach()), 6) for _ in range(3)}
    assert len(losses) == 3
    first, second = (network.query(batch(), network.item_net()) for _ in range(2))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    "block",
    ["attention", "filtered_attention", "gated_attention", "hstu", "multi_query", "recurrent", "state_space"],
)
def test_every_block_thinks(block: str) -> None:
    """A sequence of full length grows by its thoughts; what others of the batch hold does not reach it."""
    torch.manual_seed(0)
    catalogue = Catalogue([""] * 10, [], [], np.zeros((10, 0), np.float32), np.zeros((10, 0), np.int32), ())
    params = {
        "d": 8,
        "max_length": 5,
        "dropout": 0.0,
        "block": {"kind": block},
        "objective": {"kind": "reasoning"},
    }
    network = SequentialParams.model_validate(params).build(
        Facts(catalogue, torch.ones(10, dtype=torch.int64), 8, 5, 0.0)
    )
    network.eval()
    table, rows = network.item_net(), [[1, 2, 3, 4, 5], [6, 7]]
    together = network.query(batch(rows), table)
    for row, state in zip(rows, together, strict=True):
        torch.testing.assert_close(network.query(batch([row]), table)[0], state)
    objective = network.objective
    assert isinstance(objective, Reasoning)
    x, reading = objective.opening(network, batch(rows), table)
    start = network.encode(x, reading)[torch.arange(2), torch.tensor([4, 1])]
    thoughts = objective.thoughts(network, x, reading, start, torch.tensor([5, 2]))
    assert (thoughts[:, 1:] - thoughts[:, :-1]).abs().amax(dim=2).min() > 1e-3
