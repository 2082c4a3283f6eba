from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ml.histories import Histories
from ml.recommenders.batches import Plans, Sequences
from ml.recommenders.sequential.auxiliary.distillation import TransitionDistillationParams
from ml.recommenders.sequential.auxiliary.dropout_contrast import DropoutContrastParams
from ml.recommenders.sequential.blocks.filtered import FilteredAttentionParams
from ml.recommenders.sequential.model import SequentialParams
from ml.recommenders.sequential.network import Network
from ml.recommenders.sequential.objectives.cloze import Cloze, ClozeParams, extended, latest
from ml.recommenders.sequential.parts import Facts
from ml.snapshot import Catalogue


def network(masked: float = 0.4, last_only: float = 0.0) -> Network:
    torch.manual_seed(0)
    params = SequentialParams(
        d=8, max_length=5, dropout=0.0, objective=ClozeParams(masked=masked, last_only=last_only)
    )
    catalogue = Catalogue([""] * 30, [], [], np.zeros((30, 0), np.float32), np.zeros((30, 0), np.int32), ())
    return params.build(Facts(catalogue, torch.ones(30, dtype=torch.int64), 8, 5, 0.0))


def sequences(rows: list[list[int]]) -> Sequences:
    return Sequences.of(Histories.of(rows), 9)


def test_windows_hold_every_event_and_fit() -> None:
    rows = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10], [11]]
    seen = []
    for batch in Plans(Cloze(4, 0.2, 0.0).windows(Histories.of(rows), 5), 100).batches(
        np.random.default_rng(0)
    ):
        targets, lengths = batch[-1], batch[1]
        whole = extended(Sequences(*batch[:-1]), targets[torch.arange(len(targets)), lengths - 1])
        seen += [
            row[:n].tolist() for row, n in zip(whole.items, whole.lengths.tolist(), strict=True) if n <= 5
        ]
    assert sorted(seen) == [[1, 2, 3, 4], [4, 5, 6, 7, 8], [9, 10]]


def test_as_many_are_hidden_as_asked_and_one_at_least() -> None:
    torch.manual_seed(0)
    many = sequences([[1] * 8] * 2000 + [[1]] * 2000)
    hidden = Cloze(4, 0.3, 0.0).hide(many)
    assert not hidden[~many.real].any()
    assert (hidden.sum(dim=1) >= 1).all()
    assert hidden[2000:, 0].all()
    # A row of eight that would hide none hides one: 8 * 0.3 + 0.7 ** 8 of them.
    assert float(hidden[:2000].sum(dim=1).float().mean()) == pytest.approx(8 * 0.3 + 0.7**8, rel=0.03)
    last = Cloze(4, 0.3, 1.0).hide(many)
    assert last[:2000, 7].all()
    assert last[:2000].sum() == 2000


def test_hidden_items_are_not_read_and_what_stands_around_them_is() -> None:
    made, row = network(), [3, 4, 5, 6]
    hidden = torch.tensor([[False, True, False, False]])
    table = made.item_net()
    assert isinstance(made.objective, Cloze)
    states = made.objective.states(made, sequences([row]), hidden, table)
    other = made.objective.states(made, sequences([[3, 20, 5, 6]]), hidden, table)
    torch.testing.assert_close(states, other)
    for place in (0, 2, 3):
        changed = [21 if i == place else item for i, item in enumerate(row)]
        moved = made.objective.states(made, sequences([changed]), hidden, table)
        assert not torch.allclose(states[0, 1], moved[0, 1])


def test_loss_is_that_of_hidden_places_alone() -> None:
    made = network()
    batch = sequences([[3, 4, 5, 6], [7, 8]])
    targets = torch.where(batch.real, torch.tensor([[4, 5, 6, 9], [8, 2, 0, 0]]), -1)
    assert isinstance(made.objective, Cloze)
    torch.manual_seed(1)
    value, n = made.objective.loss(made, batch, targets)
    torch.manual_seed(1)
    whole = extended(batch, torch.tensor([9, 2]))
    assert whole.items.tolist() == [[3, 4, 5, 6, 9], [7, 8, 2, 0, 0]]
    hidden = made.objective.hide(whole)
    table, expected = made.item_net(), []
    states = made.objective.states(made, whole, hidden, table)
    for user, place in hidden.nonzero().tolist():
        expected.append(
            cross_entropy((states[user, place] @ table.T)[None], whole.items[user, place : place + 1])
        )
    assert int(n) == len(expected) == int(hidden.sum())
    assert float(value.detach()) == pytest.approx(float(torch.stack(expected).mean().detach()), rel=1e-5)


def test_the_mask_after_the_last_item_asks() -> None:
    """By hand: the last four items and the mask, read at places 0 to 4."""
    made = network()
    table = made.item_net()
    for row in ([1, 2, 3, 4, 5, 6], [4, 5], [8]):
        # The recommender hands over five items at most.
        asked = made.query(Sequences.of(Histories.of([row]), 5), table)
        known = row[-4:]
        assert isinstance(made.objective, Cloze)
        vectors = torch.cat([table[known], made.objective.mask[None]])[None]
        alone = made.read(vectors, sequences([[*known, 0]]))[:, -1]
        torch.testing.assert_close(asked, alone)


def test_company_and_padding_do_not_matter() -> None:
    made = network()
    table = made.item_net()
    rows = [[1, 2, 3, 4, 5], [6], [7, 8]]
    together = made.query(sequences(rows), table)
    for row, state in zip(rows, together, strict=True):
        torch.testing.assert_close(made.query(sequences([row]), table)[0], state)


def test_latest_and_extended_keep_times_and_types() -> None:
    read = sequences([[1, 2, 3], [4]])._replace(types=torch.tensor([[5, 6, 7], [8, 0, 0]]))
    cut = latest(read, 2)
    assert cut.items.tolist() == [[2, 3], [4, 0]]
    assert cut.times.tolist() == [[1, 2], [0, 0]]
    longer = extended(cut, torch.tensor([9, 9]))
    assert longer.items.tolist() == [[2, 3, 9], [4, 9, 0]]
    assert longer.times.tolist() == [[1, 2, 2], [0, 0, 0]]
    assert longer.types.tolist() == [[6, 7, 7], [8, 8, 0]]
    assert longer.lengths.tolist() == [3, 2]


@pytest.mark.parametrize("objective", ["cloze", "reasoning"])
def test_blocks_that_see_the_whole_window_are_borne(objective: str) -> None:
    """Neither objective has a target among what is read, so nothing can leak."""
    block = FilteredAttentionParams(causal=False)
    SequentialParams.model_validate({"block": block, "objective": {"kind": objective}})
    with pytest.raises(ValueError, match="sees the whole window"):
        SequentialParams(block=block)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_length must be 2 or more"):
        SequentialParams(objective=ClozeParams(), max_length=1)
    with pytest.raises(ValueError, match="dropout_contrast needs states that saw no mask"):
        SequentialParams(objective=ClozeParams(), auxiliary=(DropoutContrastParams(),))
    SequentialParams(objective=ClozeParams(), auxiliary=(TransitionDistillationParams(),))
