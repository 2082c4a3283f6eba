from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.clusters import nearest_centres
from ml.recommenders.sequential import model
from ml.recommenders.sequential.auxiliary.intents import IntentContrast, IntentContrastParams, contrast
from ml.recommenders.sequential.model import Sequential, SequentialParams
from ml.recommenders.sequential.network import Network
from ml.recommenders.sequential.objectives.next_item import NextItemParams
from ml.recommenders.sequential.parts import Facts
from ml.recommenders.training import train_network
from ml.snapshot import Catalogue

TRAIN = Histories.of([[0, 1, 2], [3, 2], [2, 4, 1], [5]])


def network(train: Histories = TRAIN, **params: float) -> Network:
    torch.manual_seed(0)
    counts = torch.from_numpy(np.bincount(train.items, minlength=6))
    catalogue = Catalogue([""] * 6, [], [], np.zeros((6, 0), np.float32), np.zeros((6, 0), np.int32), ())
    made = SequentialParams(
        d=4, max_length=5, dropout=0.0, auxiliary=(IntentContrastParams.model_validate(params),)
    )
    return made.build(Facts(catalogue, counts, 4, 5, 0.0, train))


def test_contrast_is_that_of_a_loop() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    labels = [7, 1, 7, 3]
    rows = [
        *zip(normalize(first, dim=1), labels, strict=True),
        *zip(normalize(second, dim=1), labels, strict=True),
    ]
    losses = []
    for i, (vector, label) in enumerate(rows):
        partner = (i + 4) % 8
        negatives = [j for j, (_, other) in enumerate(rows) if other != label]
        scores = {j: math.exp(float(vector @ rows[j][0]) / 0.5) for j in [partner, *negatives]}
        losses.append(-math.log(scores[partner] / sum(scores.values())))
    told = contrast(first, second, torch.tensor(labels), 0.5)
    assert float(told) == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_one_label_alone_costs_nothing() -> None:
    told = contrast(torch.randn(5, 3), torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), 0.1)
    assert float(told) == pytest.approx(0.0, abs=1e-6)


def test_partners_led_to_the_same_item() -> None:
    part = network().auxiliary[0]
    assert isinstance(part, IntentContrast)
    # What came before each event: the twin of `sliding`, by item that it led to.
    expected = {1: [[0], [2, 4]], 2: [[0, 1], [3]], 4: [[2]]}
    torch.manual_seed(0)
    for target, known in expected.items():
        read = part.windows(part.partners(torch.full((200,), target)), torch.device("cpu"))
        found = [row[:n].tolist() for row, n in zip(read.items, read.lengths.tolist(), strict=True)]
        assert sorted({tuple(row) for row in found}) == sorted(map(tuple, known))
        for row in known:
            assert found.count(row) == pytest.approx(200 / len(known), abs=30)


def test_prototypes_are_the_centres_of_the_states_at_the_start_of_an_epoch() -> None:
    made = network(intents=2)
    part = made.auxiliary[0]
    assert isinstance(part, IntentContrast)
    made.begin_epoch(np.random.default_rng(0))
    table = made.item_net()
    states = torch.stack(
        [
            made.query(Sequences.of(Histories.of([row]), 5), table)[0]
            for row in ([0], [0, 1], [3], [2], [2, 4])
        ]
    )
    unit = normalize(states, dim=1).detach().numpy()
    mine = nearest_centres(torch.from_numpy(unit), part.prototypes).numpy()
    assert set(mine.tolist()) == {0, 1}
    for cluster in (0, 1):
        centre = unit[mine == cluster].sum(axis=0)
        np.testing.assert_allclose(part.prototypes[cluster], centre / np.linalg.norm(centre), atol=1e-5)
    assert "prototypes" not in " ".join(made.state_dict())


def test_loss_is_coarse_plus_fine_of_both_views() -> None:
    made = network(coarse=0.2, fine=0.3, intents=2, temperature=0.5)
    part = made.auxiliary[0]
    assert isinstance(part, IntentContrast)
    made.begin_epoch(np.random.default_rng(0))
    table = made.item_net()
    batch = Sequences.of(Histories.of([[0, 1], [2, 4], [3]]), 5)
    targets = torch.tensor([[-1, 2], [-1, 1], [2, -1]])
    states = made.states(batch, table)
    torch.manual_seed(3)
    told = part(made, batch, targets, states, table)
    torch.manual_seed(3)
    wanted = torch.tensor([2, 1, 2])
    other = part.windows(part.partners(wanted), torch.device("cpu"))
    first = torch.stack([states[0, 1], states[1, 1], states[2, 0]])
    read = made.states(other, table)
    second = torch.stack([read[i, n - 1] for i, n in enumerate(other.lengths.tolist())])
    expected = 0.2 * contrast(first, second, wanted, 0.5)
    for view in (first, second):
        distance = (normalize(view, dim=1)[:, None] - part.prototypes).square().sum(dim=2)
        mine = distance.argmin(dim=1)
        expected = expected + 0.3 * contrast(view, part.prototypes[mine], mine, 0.5)
    torch.testing.assert_close(told, expected)


def test_resumed_as_if_never_killed(
    histories: Histories, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prototypes are not in a checkpoint: they follow from the weights at the start of an epoch."""
    monkeypatch.setattr(model, "train_network", partial(train_network, checkpoint_s=0.0))
    params = SequentialParams(
        d=8,
        max_length=5,
        epochs=3,
        batch_tokens=64,
        objective=NextItemParams(targets="last"),
        auxiliary=(IntentContrastParams(intents=4),),
    )
    parts = split(histories, "leave_one_out")
    begun: list[int] = []

    class KilledError(Exception):
        pass

    def fit(folder: Path, killed_in: int = 0) -> tuple[Sequential, dict[str, Any]]:
        def begin(part: IntentContrast, network: Network, rng: np.random.Generator) -> None:
            begun.append(len(begun) + 1)
            if len(begun) == killed_in:
                raise KilledError
            clustered(part, network, rng)
            assert part.prototypes.norm(dim=1).min() > 0

        begun.clear()
        with monkeypatch.context() as patch:
            clustered = IntentContrast.begin_epoch
            patch.setattr(IntentContrast, "begin_epoch", begin)
            made = Sequential(params)
            return made, made.fit(parts, catalogue, 0, folder)

    whole, report = fit(tmp_path / "whole")
    assert len(begun) == 3
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", killed_in=3)
    resumed, again = fit(tmp_path / "killed")
    assert len(begun) == 1
    assert again["losses"] == report["losses"]
    np.testing.assert_array_equal(resumed.item_vectors(), whole.item_vectors())
