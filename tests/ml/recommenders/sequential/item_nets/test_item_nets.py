from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.sequential.item_nets.features import VectorMap, Vectors, category_paths, whitening
from ml.recommenders.sequential.item_nets.ids import FreeVectors, IdAndVectorsParams, VectorsParams
from ml.recommenders.sequential.item_nets.metadata import MetadataParams, NextCategories
from ml.recommenders.sequential.item_nets.semantic import (
    BranchAlignment,
    CodeEmbedding,
    IdAndCodes,
    IdAndCodesParams,
    group_nce,
    units,
)
from ml.recommenders.sequential.item_nets.views import (
    CodeGuided,
    CodeGuidedParams,
    CodeMasking,
    CodeMaskingParams,
)
from ml.recommenders.sequential.model import Sequential, SequentialParams
from ml.recommenders.sequential.network import Network
from ml.recommenders.sequential.parts import Facts, PartParams
from ml.snapshot import Catalogue

D = 8
SMALL: dict[str, Any] = {
    "d": D,
    "max_length": 5,
    "epochs": 3,
    "batch_tokens": 64,
    "warmup": 2,
    "learning_rate": 0.01,
}
NETS: dict[str, dict[str, Any]] = {
    "vectors": {"whiten": 5, "hidden": 8},
    "id_and_vectors": {"id_dropout": 0.3},
    "metadata": {"whiten": 5, "mix": 8},
    "id_and_codes": {"id_dropout": 0.3},
    "code_guided": {"whiten": 5},
}
AUXILIARY: dict[str, list[dict[str, Any]]] = {
    "metadata": [{"kind": "next_categories"}],
    "id_and_codes": [{"kind": "branch_alignment"}],
    "code_guided": [{"kind": "code_masking"}],
}


def facts(catalogue: Catalogue, counts: Tensor | None = None) -> Facts:
    return Facts(
        catalogue, torch.ones(len(catalogue), dtype=torch.int64) if counts is None else counts, D, 5, 0.0
    )


def small(kind: str, **params: Any) -> SequentialParams:
    return SequentialParams.model_validate(
        {**SMALL, "items": {"kind": kind, **NETS[kind]}, "auxiliary": AUXILIARY.get(kind, []), **params}
    )


def sequences(rows: list[list[int]]) -> Sequences:
    items = torch.tensor(rows)
    lengths = torch.full((len(rows),), items.shape[1])
    return Sequences(items, lengths, torch.zeros_like(items), torch.zeros_like(items))


def twin(catalogue: Catalogue, cold: int, of: int) -> Catalogue:
    """Make one item look like another in all that the catalogue tells."""
    vectors, codes, categories = catalogue.vectors.copy(), catalogue.codes.copy(), list(catalogue.categories)
    vectors[cold], codes[cold], categories[cold] = vectors[of], codes[of], categories[of]
    return replace(catalogue, vectors=vectors, codes=codes, categories=categories)


# ---- what is read of the catalogue


def test_whitened_vectors_have_covariance_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    mean, onto = whitening(x, 4)
    white = (x - mean) @ onto
    torch.testing.assert_close(white.T @ white / 500, torch.eye(4), atol=1e-3, rtol=0)
    # The directions kept are those of most variance: they leave the least behind.
    left = (x - mean) - white @ torch.linalg.lstsq(white, x - mean).solution
    _, s, _ = torch.linalg.svd(x - mean)
    assert float((left**2).sum()) == pytest.approx(float((s[4:] ** 2).sum()), rel=1e-3)


def test_whitening_leaves_out_what_does_not_vary() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 2) @ torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 1, 0]])
    assert whitening(x, 4)[1].shape == (4, 2)


def test_unknown_vectors_are_zeros_and_do_not_count() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4) + 2
    x[7] = 0
    told = Vectors(x.numpy(), 3)
    assert told.known.tolist() == [i != 7 for i in range(50)]
    assert (told.ready[7] == 0).all()
    torch.testing.assert_close(told.ready[told.known].mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)


def test_what_whitens_comes_with_the_weights() -> None:
    """Loaded onto other vectors, the directions are those of the training."""
    torch.manual_seed(0)
    before, after = (Vectors(torch.randn(30, 4).numpy(), 4) for _ in range(2))
    raw = after.raw
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(after.ready, (raw - before.mean) @ before.map)


def test_category_paths_by_hand(catalogue: Catalogue) -> None:
    paths = [["a", "x"], ["b", "x"], ["a"], [], ["a", "x", "z"]]
    numbers, sizes = category_paths(replace(catalogue, item_ids=[""] * 5, categories=paths), 2)
    # x below a is not x below b.
    assert numbers.tolist() == [[1, 1], [2, 2], [1, 0], [0, 0], [1, 1]]
    assert sizes == [3, 3]
    assert category_paths(replace(catalogue, item_ids=[""] * 2, categories=[[], []]), 2)[0].shape == (2, 0)


def test_units_by_hand() -> None:
    codes = torch.tensor([[0, 1, 0], [0, 1, 1], [0, 2, 0], [3, 1, 0], [-1, -1, -1], [0, 1, -1]])
    told = units(codes, prefixes=True)
    # Codes: 0 at the first level; 1 at the second; 0 at the third. Then the prefix (0, 1); no three codes are shared.
    assert told.tolist() == [
        [1, 2, 3, 4, 0],
        [1, 2, 0, 4, 0],
        [1, 0, 3, 0, 0],
        [0, 2, 3, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 2, 0, 4, 0],
    ]
    assert units(codes, prefixes=False).tolist() == [row[:3] for row in told.tolist()]
    assert units(codes[:, :0], prefixes=True).shape == (6, 0)


# ---- item nets


@pytest.mark.parametrize("kind", NETS)
def test_a_new_item_is_scored_like_its_twin(kind: str, histories: Histories, catalogue: Catalogue) -> None:
    """An item that was never met, and is told of just as another, is recommended where that one is."""
    cold = len(catalogue) - 1
    model = Sequential(small(kind, epochs=6))
    model.fit(split(histories, "leave_one_out"), twin(catalogue, cold, 4), 0)
    table = model.item_vectors()
    assert table[cold, -1] == 0
    if kind in ("vectors", "metadata", "code_guided"):
        np.testing.assert_allclose(table[cold], table[4], atol=1e-6)
    else:
        cosine = table[:cold, :-1] @ table[cold, :-1] / np.linalg.norm(table[:cold, :-1], axis=1)
        assert 4 in np.argsort(-cosine)[:3]


@pytest.mark.parametrize("kind", NETS)
def test_items_of_which_nothing_is_known_come_last(
    kind: str, histories: Histories, catalogue: Catalogue
) -> None:
    """One that nobody met is never placed; one that was is, where it has anything of its own."""
    cold, met = len(catalogue) - 1, 3
    vectors, codes, categories = catalogue.vectors.copy(), catalogue.codes.copy(), list(catalogue.categories)
    for item in (cold, met):
        vectors[item], codes[item], categories[item] = 0, -1, []
    model = Sequential(small(kind))
    model.fit(
        split(histories, "leave_one_out"),
        replace(catalogue, vectors=vectors, codes=codes, categories=categories),
        0,
    )
    placed = model.item_vectors()[:, -1] == 0
    assert not placed[cold]
    assert placed[met] == (kind not in ("vectors", "metadata"))
    assert np.delete(placed, [cold, met]).all()
    items, scores = model.recommend(histories, len(catalogue), exclude_history=False)
    assert np.isfinite(scores).all()
    last = {cold} if placed[met] else {cold, met}
    assert all(set(row[-len(last) :]) == last for row in items.tolist())


@pytest.mark.parametrize("params", [VectorsParams(), MetadataParams(), CodeGuidedParams()])
def test_a_catalogue_that_tells_nothing_is_refused(params: PartParams, catalogue: Catalogue) -> None:
    bare = replace(catalogue, vectors=catalogue.vectors[:, :0], categories=[[]] * len(catalogue))
    with pytest.raises(ValueError, match="the catalogue has none"):
        params.build(facts(bare))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["id_and_codes", "code_guided"])
def test_a_catalogue_without_codes_will_do(kind: str, histories: Histories, catalogue: Catalogue) -> None:
    bare = replace(catalogue, codes=catalogue.codes[:, :0], code_sizes=())
    model = Sequential(small(kind))
    model.fit(split(histories, "leave_one_out"), bare, 0)
    placed = model.item_vectors()[:, -1] == 0
    assert placed[:-1].all()
    # Without codes nothing tells what a new item is, unless its views do.
    assert placed[-1] == (kind == "code_guided")


def test_free_vectors_are_dropped_for_their_mean(catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    counts = torch.ones(len(catalogue), dtype=torch.int64)
    counts[-4:] = 0
    free = FreeVectors(facts(catalogue, counts), 0.5)
    told = free()
    own = (told == free.weight).all(dim=1)
    assert 4 <= int(own.sum()) <= 20
    torch.testing.assert_close(told[~own], free.weight[:-4].mean(dim=0).expand(int((~own).sum()), D))
    assert (free.eval()() == free.weight).all()


def test_map_of_vectors_by_hand(catalogue: Catalogue) -> None:
    net = IdAndVectorsParams().build(facts(catalogue)).eval()
    expected = net.free.weight + torch.from_numpy(catalogue.vectors) @ net.map.linear.weight.T
    torch.testing.assert_close(net(), expected)
    index = torch.tensor([5, 2])
    torch.testing.assert_close(net.map(index), net.map()[index])


def test_code_embeddings_add_up(catalogue: Catalogue) -> None:
    codes = catalogue.codes.copy()
    codes[:3] = [[0, 0, 0], [0, 0, 0], [-1, -1, -1]]
    net = CodeEmbedding(facts(replace(catalogue, codes=codes)), prefixes=True)
    with torch.no_grad():
        net.weight.normal_()
    table = net()
    for item in (0, 1, 5):
        expected = sum(net.weight[int(unit)] for unit in net.units[item] if unit > 0)
        torch.testing.assert_close(table[item], expected)
    assert (table[2] == 0).all()
    torch.testing.assert_close(table[0], table[1])
    torch.testing.assert_close(net(torch.tensor([1, 2])), table[1:3])


def test_codes_that_nothing_trained_say_nothing(catalogue: Catalogue) -> None:
    trained = torch.ones(len(catalogue), dtype=torch.bool)
    trained[18:] = False  # all of code 3 at the first level; their second codes are trained
    net = IdAndCodesParams(prefixes=False).build(facts(catalogue, trained.long()))
    table, placed = net.settled(trained)
    assert placed.all()
    second = net.semantic.units[18, 1:3]
    mean = net.free.weight[trained].mean(dim=0)
    torch.testing.assert_close(table[18], mean + net.semantic.weight[second].sum(dim=0))


def fused_by_hand(net: CodeGuided, item: int) -> Tensor:
    """Fuse one item, slot by slot and head by head."""
    scale, d = 0.02, net.embedding.shape[1]
    maps = [cast(VectorMap, view) for view in net.maps]
    views = [view(torch.tensor([item]))[0] for view in maps if bool(view.known[item])]
    views += [
        weight[int(number)]
        for number, weight in zip(net.paths[item], net.levels, strict=True)
        if int(number) > 0
    ]
    total = sum(views, torch.zeros(d))
    for code in net.codes[item]:
        if int(code) < 0:
            continue
        x = net.embedding[int(code)]
        question, told = net.question(x / scale), torch.zeros(d)
        for part in torch.arange(d).chunk(net.heads):
            scores = (
                torch.stack([question[part] @ net.key(v / scale)[part] for v in views]) / len(part) ** 0.5
            )
            shares = torch.softmax(scores, dim=0)
            told[part] = sum(share * net.value(v)[part] for share, v in zip(shares, views, strict=True))
        x = x + net.answer(told)
        total = total + x + net.out(torch.nn.functional.gelu(net.into(x / scale)))
    return total


@torch.no_grad()
def test_code_guided_fusion_by_hand(catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    codes, vectors, paths = catalogue.codes.copy(), catalogue.vectors.copy(), list(catalogue.categories)
    codes[1], vectors[2], paths[3] = -1, 0, []
    rng = np.random.default_rng(1)
    known = replace(
        catalogue,
        codes=codes,
        vectors=vectors,
        categories=paths,
        text=rng.standard_normal((len(catalogue), 4)).astype(np.float32),
    )
    net = CodeGuidedParams().build(facts(known))
    assert [cast(VectorMap, view).vectors.width for view in net.maps] == [6, 4]
    for weight in [*net.levels, net.out.weight]:
        weight.normal_(std=0.02)
    table = net()
    for item in range(5):
        torch.testing.assert_close(table[item], fused_by_hand(net, item), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vectors", "metadata", "code_guided"])
def test_only_needed_rows_are_made(kind: str, histories: Histories, catalogue: Catalogue) -> None:
    """Sampled softmax gives the loss and the gradients that it gives with the whole table and the same negatives."""
    params = small(kind, loss={"kind": "sampled", "negatives": 4}, auxiliary=[], dropout=0.0)
    torch.manual_seed(0)
    made = params.build(facts(catalogue, torch.bincount(torch.from_numpy(histories.items), minlength=24)))
    told, targets = sequences([[1, 2, 3], [9, 10, 11]]), torch.tensor([[2, 3, 4], [-1, -1, 12]])
    table, drawn = made.table(told, targets)
    assert drawn is not None
    needed = {*told.items.flatten().tolist(), 2, 3, 4, 12, *drawn.tolist()}
    assert set(torch.nonzero(table.abs().sum(dim=1))[:, 0].tolist()) == needed
    wanted = targets >= 0
    gradients = []
    for rows in (table, made.item_net()):
        states = made.states(told, rows)
        value = made.catalogue_loss(states[wanted], rows, targets[wanted], drawn)
        parts = torch.autograd.grad(
            value, list(cast(nn.Module, made.item_net).parameters()), allow_unused=True
        )
        gradients.append([value.detach(), *(part for part in parts if part is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


# ---- losses


def network(kind: str, catalogue: Catalogue, **params: Any) -> Network:
    torch.manual_seed(0)
    return small(kind, **params).build(facts(catalogue))


def test_group_nce_by_hand() -> None:
    first, second = (
        torch.tensor([[1.0, 0], [0, 2.0], [1.0, 1.0]]),
        torch.tensor([[3.0, 0], [0, 1.0], [1.0, 0]]),
    )
    group = torch.tensor([[1, 2], [1, 3], [1, 2]])
    cosine = torch.tensor([[1, 0, 1], [0, 1, 0], [0.5**0.5, 0.5**0.5, 0.5**0.5]]) / 0.5
    e = torch.exp(cosine)
    expected = -torch.log(torch.stack([e[0, 0] + e[0, 2], e[1, 1], e[2, 0] + e[2, 2]]) / e.sum(dim=1)).mean()
    torch.testing.assert_close(group_nce(first, second, group, 0.5), expected)


def test_next_categories_are_learned(catalogue: Catalogue) -> None:
    """Level by level by hand; targets without a category do not count."""
    paths = [["a", "x"], ["b", "y"], ["a"], []] + [[]] * (len(catalogue) - 4)
    part = NextCategories(facts(replace(catalogue, categories=paths)), 0.5, 2)
    states, targets = torch.randn(1, 5, D), torch.tensor([[0, 1, 2, 3, -1]])
    table = torch.zeros(len(catalogue), D)
    told = part(None, sequences([[9, 9, 9, 9, 9]]), targets, states, table)
    first = torch.log_softmax(part.heads[0](states[0, :3]), dim=1)
    second = torch.log_softmax(part.heads[1](states[0, :2]), dim=1)
    expected = -(first[0, 1] + first[1, 2] + first[2, 1]) / 3 - (second[0, 1] + second[1, 2]) / 2
    torch.testing.assert_close(told, 0.5 * expected)
    nobody = part(None, sequences([[9]]), torch.tensor([[3]]), states[:, :1], table)
    assert float(nobody) == 0


def test_alignment_pulls_the_branches_together(catalogue: Catalogue) -> None:
    net = network("id_and_codes", catalogue)
    part, items = BranchAlignment(1.0, 0.0, 0.2), net.item_net
    assert isinstance(items, IdAndCodes)
    told = sequences([[1, 2, 3, 4, 5], [9, 10, 11, 12, 13]])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        table = items()
        value = part(net, told, told.items + 1, net.states(told, table), table)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.3 * values[0]
    both = torch.arange(2, 7)
    cosine = torch.nn.functional.cosine_similarity(items.free.weight[both], items.semantic(both))
    assert float(cosine.detach().min()) > 0.5


def test_alignment_of_users_is_least_where_free_vectors_add_nothing(catalogue: Catalogue) -> None:
    net = network("id_and_codes", catalogue, dropout=0.0).eval()
    part, items = BranchAlignment(0.0, 1.0, 0.2), net.item_net
    assert isinstance(items, IdAndCodes)
    told = sequences([[1, 2, 3], [9, 10, 11], [20, 4, 13]])

    def value() -> float:
        table = items()
        return float(part(net, told, told.items, net.states(told, table), table).detach())

    apart = value()
    with torch.no_grad():
        items.free.weight.zero_()
    assert value() < apart


def test_masked_codes_are_learned(catalogue: Catalogue) -> None:
    net = network("code_guided", catalogue, dropout=0.0)
    part = CodeMasking(CodeMaskingParams(code_weight=1.0, sequence_weight=1.0))
    told = sequences([[1, 2, 3, 4, 5], [9, 10, 11, 12, 13]])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    values = []
    for _ in range(150):
        table = net.item_net()
        value = part(net, told, told.items, net.states(told, table), table)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert np.mean(values[-20:]) < 0.5 * np.mean(values[:20])


def test_masking_without_codes_adds_nothing(catalogue: Catalogue) -> None:
    bare = replace(catalogue, codes=catalogue.codes[:, :0], code_sizes=())
    net = network("code_guided", bare)
    told = sequences([[1, 2, 3]])
    table = net.item_net()
    states = net.states(told, table)
    assert float(CodeMasking(CodeMaskingParams())(net, told, told.items, states, table)) == 0


def test_losses_go_with_their_item_nets() -> None:
    with pytest.raises(ValidationError, match="branch_alignment is for items of kind id_and_codes"):
        SequentialParams.model_validate({"auxiliary": [{"kind": "branch_alignment"}]})
    with pytest.raises(ValidationError, match="code_masking is for items of kind code_guided"):
        SequentialParams.model_validate(
            {"auxiliary": [{"kind": "code_masking"}], "items": {"kind": "id_and_codes"}}
        )
    with pytest.raises(ValidationError, match=r"heads \(3\) must divide d \(64\)"):
        SequentialParams.model_validate({"items": {"kind": "code_guided", "heads": 3}})
