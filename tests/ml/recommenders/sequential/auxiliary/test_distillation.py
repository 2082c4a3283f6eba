from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.sequential.auxiliary.distillation import (
    TransitionDistillation,
    TransitionDistillationParams,
    transitions,
)
from ml.recommenders.sequential.model import SequentialParams
from ml.recommenders.sequential.parts import Facts
from ml.snapshot import Catalogue


@given(st.lists(st.lists(st.integers(0, 5), max_size=7), max_size=6), st.integers(1, 3))
def test_transitions_are_those_of_a_count(rows: list[list[int]], span: int) -> None:
    expected = Counter(
        (row[i], row[j])
        for row in rows
        for i in range(len(row))
        for j in range(i + 1, len(row))
        if j - i <= span
    )
    found = transitions(Histories.of(rows), 6, span)
    assert found.tolist() == [[*pair, n] for pair, n in sorted(expected.items())]


def test_labels_by_hand() -> None:
    """Item 1 was followed twice by 2 and once by 0; item 0 once by 3. Item 4 has no column of its own."""
    counted = transitions(Histories.of([[1, 2], [1, 2], [1, 0, 3]]), 5, 1)
    part = TransitionDistillation(counted, weight=1.0, temperature=0.5, most=9, dropout=0.0)
    labels = part.labels(torch.tensor([1, 0]), torch.tensor([0, 1, 2, 3]), 4)
    # Scores over the temperature: 1 / .5 for the most frequent follower, .5 / .5 for the other.
    rows = [[math.exp(1), 1.0, math.exp(2), 1.0], [1.0, 1.0, 1.0, math.exp(2)]]
    expected = torch.tensor([[value / sum(row) for value in row] for row in rows])
    torch.testing.assert_close(labels, expected)


def test_loss_is_the_cross_entropy_of_a_loop() -> None:
    torch.manual_seed(0)
    train = Histories.of([[0, 1, 2], [2, 1], [1, 2], [4, 4]])
    counts = torch.from_numpy(np.bincount(train.items, minlength=6))
    catalogue = Catalogue([""] * 6, [], [], np.zeros((6, 0), np.float32), np.zeros((6, 0), np.int32), ())
    part = TransitionDistillationParams(weight=0.3, temperature=0.2)
    network = SequentialParams(d=4, dropout=0.0, auxiliary=(part,)).build(
        Facts(catalogue, counts, 4, 5, 0.0, train)
    )
    table, trained = network.item_net(), [0, 1, 2, 4]
    batch = Sequences.of(Histories.of([[1, 0, 1], [3]]), 5)
    told = network.auxiliary[0](network, batch, batch.items, torch.zeros(2, 3, 4), table)
    following = {0: {1: 1}, 1: {2: 2}, 2: {1: 1}, 4: {4: 1}}
    losses = []
    # Each item of the batch once; item 3 was never followed, and padding is no item.
    for head in (0, 1):
        most = max(following[head].values())
        weights = [math.exp(following[head].get(item, 0) / most / 0.2) for item in trained]
        scores = [float((table[head] @ table[item]).detach()) * 2 / 0.2 for item in trained]
        total = math.log(sum(map(math.exp, scores)))
        losses.append(-sum(w / sum(weights) * (s - total) for w, s in zip(weights, scores, strict=True)))
    assert float(told.detach()) == pytest.approx(0.3 * sum(losses) / 2, rel=1e-5)


def test_nothing_to_distil_is_no_loss() -> None:
    part = TransitionDistillationParams().build(
        Facts(
            Catalogue([""] * 3, [], [], np.zeros((3, 0), np.float32), np.zeros((3, 0), np.int32), ()),
            torch.ones(3, dtype=torch.int64),
            *(4, 5, 0.0),
        )
    )
    batch = Sequences.of(Histories.of([[1, 2]]), 5)
    assert float(part(None, batch, batch.items, torch.zeros(1, 2, 4), torch.ones(3, 4))) == 0.0
