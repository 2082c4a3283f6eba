from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from ml.artifacts import ArtifactError
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Plans, Sequences, sliding, windows
from ml.recommenders.losses import Binary, FullSoftmax, SampledSoftmax
from ml.recommenders.sequential.blocks.attention import Attention
from ml.recommenders.sequential.item_nets.ids import IdAndVectorsParams
from ml.recommenders.sequential.model import Sequential, SequentialParams
from ml.recommenders.sequential.parts import Facts, Reading
from ml.snapshot import Catalogue

SMALL = SequentialParams(d=8, max_length=5, epochs=2, batch_tokens=64, warmup=2, learning_rate=3e-3)


def reading(length: int, causal: bool = True) -> Reading:
    real = torch.ones(1, length, dtype=torch.bool)
    return Reading(real, torch.arange(length)[None], torch.zeros(1, length, dtype=torch.int64), causal)


def sequences(rows: list[list[int]], lengths: list[int]) -> Sequences:
    items = torch.tensor(rows)
    return Sequences(items, torch.tensor(lengths), torch.zeros_like(items), torch.zeros_like(items))


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=5), st.integers(1, 4))
def test_every_event_but_the_first_is_a_target_once(rows: list[list[int]], longest: int) -> None:
    # Items are made unique, so that an item says which event it was.
    numbers = iter(range(100))
    unique = [[next(numbers) for _ in row] for row in rows]
    cut = windows(Histories.of(unique), longest)
    assert (cut.lengths <= longest).all()
    assert (cut.lengths > 0).all()
    pairs = []
    if len(cut.starts):
        plans = Plans(cut, tokens=6)
        drawn = list(plans.batches(np.random.default_rng(0)))
        assert len(drawn) == len(plans)
        for inputs, lengths, *_, targets in drawn:
            assert inputs.numel() <= 6 or len(inputs) == 1
            assert ((targets >= 0).sum(axis=1) == lengths).all()
            pairs += list(zip(inputs[targets >= 0].tolist(), targets[targets >= 0].tolist(), strict=True))
    assert sorted(pairs) == sorted(p for row in unique for p in itertools.pairwise(row))


def test_sliding_windows_predict_their_last_place() -> None:
    histories = Histories.of([[1, 2, 3, 4], [5], [6, 7]])
    found = []
    for inputs, lengths, times, *_, targets in Plans(sliding(histories, 2), 100).batches(
        np.random.default_rng(0)
    ):
        for row, n, when, wanted in zip(inputs, lengths, times, targets, strict=True):
            assert (wanted[: n - 1] == -1).all()
            found.append((row[:n].tolist(), when[:n].tolist(), int(wanted[n - 1])))
    assert sorted(found) == [([1], [0], 2), ([1, 2], [0, 1], 3), ([2, 3], [1, 2], 4), ([6], [0], 7)]


@pytest.mark.parametrize("pre_norm", [True, False])
def test_blocks_do_not_look_ahead(pre_norm: bool) -> None:
    torch.manual_seed(0)
    block = Attention(d=8, heads=2, hidden=16, dropout=0.5, pre_norm=pre_norm).eval()
    x = torch.randn(1, 5, 8)
    changed = x.clone()
    changed[0, 3:] += 1
    before, after = block(x, reading(5)), block(changed, reading(5))
    torch.testing.assert_close(before[0, :3], after[0, :3])
    assert not torch.allclose(before[0, 3:], after[0, 3:])


def test_padding_does_not_matter() -> None:
    torch.manual_seed(0)
    catalogue = Catalogue([""] * 9, [], [], np.zeros((9, 0), np.float32), np.zeros((9, 0), np.int32), ())
    network = SMALL.build(Facts(catalogue, torch.ones(9, dtype=torch.int64), 8, 5, 0.0)).eval()
    table = network.item_net()
    short = network.query(sequences([[3, 4]], [2]), table)
    padded = network.query(sequences([[3, 4, 0, 7, 1]], [2]), table)
    torch.testing.assert_close(short, padded)
    longer = network.query(sequences([[3, 4, 0, 7, 1]], [5]), table)
    assert not torch.allclose(padded, longer)


def test_attention_both_ways_sees_no_padding() -> None:
    torch.manual_seed(0)
    block = Attention(d=8, heads=2, hidden=16, dropout=0.0, pre_norm=True).eval()
    x = torch.randn(1, 5, 8)
    real = torch.tensor([[True, True, True, False, False]])
    both = Reading(real, torch.arange(5)[None], torch.zeros(1, 5, dtype=torch.int64), causal=False)
    torch.testing.assert_close(block(x, both)[:, :3], block(x[:, :3], reading(3, causal=False)))
    changed = x.clone()
    changed[0, 2] *= -1
    assert not torch.allclose(block(changed, both)[0, 0], block(x, both)[0, 0])


def test_binary_loss_by_hand() -> None:
    """With a table of two rows the negative is either the target itself, which counts nothing, or the other row."""
    torch.manual_seed(0)
    states, table = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 0.0]])
    seen = {round(float(Binary(1)(states, table, torch.tensor([0]))), 5) for _ in range(50)}
    own, other = math.log1p(math.exp(-2)), math.log1p(math.exp(3))
    assert seen == {round(own, 5), round(own + other, 5)}


def test_full_softmax_is_cross_entropy_by_hand() -> None:
    states, table = torch.randn(3, 4), torch.randn(5, 4)
    targets = torch.tensor([0, 4, 2])
    expected = 0.0
    for state, target in zip(states, targets, strict=True):
        scores = [float(state @ row) for row in table]
        expected += math.log(sum(map(math.exp, scores))) - scores[int(target)]
    assert float(FullSoftmax()(states, table, targets)) == pytest.approx(expected / 3, rel=1e-5)


def test_full_softmax_in_chunks_has_the_gradient_of_cross_entropy() -> None:
    torch.manual_seed(0)
    states = torch.randn(300, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(9, (300,))
    told = [FullSoftmax()(states, table, targets), cross_entropy(states @ table.T, targets)]
    gradients = [torch.autograd.grad(3 * loss, (states, table)) for loss in told]
    torch.testing.assert_close(*told)
    torch.testing.assert_close(*gradients)
    with torch.autocast("cpu", torch.bfloat16):
        low = FullSoftmax()(states.float(), table.float(), targets)
    torch.testing.assert_close(low, told[0].float(), rtol=0.01, atol=0)


@pytest.mark.parametrize("log_uniform", [True, False])
def test_sampled_softmax_approaches_the_full_one(log_uniform: bool) -> None:
    torch.manual_seed(0)
    states, table = torch.randn(6, 4), torch.randn(30, 4)
    targets = torch.tensor([0, 3, 7, 9, 20, 29])
    loss = SampledSoftmax(torch.arange(30), negatives=200_000, log_uniform=log_uniform)
    assert float(loss.chance.sum()) == pytest.approx(1, rel=1e-5)
    drawn = torch.bincount(loss.draw(), minlength=30) / 200_000
    torch.testing.assert_close(drawn, loss.chance, atol=0.005, rtol=0)
    told = float(loss(states, table, targets))
    assert told == pytest.approx(float(cross_entropy(states @ table.T, targets)), rel=0.01)


def test_untrained_items_come_last(histories: Histories, catalogue: Catalogue) -> None:
    cold = len(catalogue) - 1
    model = Sequential(SMALL)
    report = model.fit(split(histories, "leave_one_out"), catalogue, 0)
    assert report["untrained_items"] == 1
    items, scores = model.recommend(histories, len(catalogue), exclude_history=False)
    assert (items[:, -1] == cold).all()
    assert np.isfinite(scores).all()
    # A history of untrained items alone is answered too.
    assert (model.recommend(Histories.of([[cold]]), 3)[0] >= 0).all()


def test_vectors_give_new_items_a_place(histories: Histories, catalogue: Catalogue) -> None:
    """An item that was never met, and looks exactly like another, is scored like it but for its free vector."""
    cold = len(catalogue) - 1
    vectors = catalogue.vectors.copy()
    vectors[cold] = vectors[4]
    like = Catalogue(
        catalogue.item_ids,
        catalogue.titles,
        catalogue.categories,
        vectors,
        catalogue.codes,
        catalogue.code_sizes,
    )
    model = Sequential(SMALL.model_copy(update={"items": IdAndVectorsParams(), "epochs": 4}))
    model.fit(split(histories, "leave_one_out"), like, 0)
    table = model.item_vectors()
    assert table[cold, -1] == 0
    nearest = np.argsort(-(table[:cold, :-1] @ table[cold, :-1]))
    assert 4 in nearest[:5]
    items, _ = model.recommend(histories, len(like), exclude_history=False)
    assert (items[:, -1] != cold).any()


def test_it_stops_early_and_keeps_the_best(histories: Histories, catalogue: Catalogue) -> None:
    parts = split(histories, "leave_one_out")
    wild = SMALL.model_copy(update={"epochs": 40, "patience": 2, "learning_rate": 0.03})
    report = Sequential(wild).fit(parts, catalogue, 0)
    scores = report["valid_ndcg@10"]
    assert len(scores) == report["epochs"] + 2 < 40
    assert max(scores.values()) == scores[str(report["epochs"])]
    assert report["refit"] == {"epochs": report["epochs"]}
    assert report["losses"][0] > report["losses"][-1]


def test_nothing_to_learn_is_said(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="no training history has two events"):
        Sequential(SMALL).fit(split(Histories.of([[1], [2]]), "full"), catalogue, 0)


def test_another_catalogue_is_refused(histories: Histories, catalogue: Catalogue, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = Sequential(SMALL)
    model.fit(split(histories, "full"), catalogue, 0)
    model.save(tmp_path)
    fewer = Catalogue(catalogue.item_ids[:5], [], [], catalogue.vectors[:5], catalogue.codes[:5], (4, 6, 1))
    with pytest.raises(ArtifactError, match="trained on 24 items, not 5"):
        Sequential.load(tmp_path, fewer)
