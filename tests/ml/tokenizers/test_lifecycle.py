from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.artifacts import ArtifactError, current, read_json, read_manifest, write_manifest
from ml.tokenizers.items import ItemData
from ml.tokenizers.lifecycle import (
    assign_semantic_ids,
    fit_tokenizer,
    load_semantic_ids,
    load_tokenizer,
    make_live,
)
from tests.ml.tokenizers.samples import sample_items

_PARAMS = {"levels": 2, "code_size": 4}
# A tokenizer that gives an item three IDs.
_SEVERAL = _PARAMS | {"hidden": [8], "latent": 4, "epochs": 20, "warm_up": 2, "batch": 8, "checkpoints": 3}
_SEVERAL |= {"schedule": "constant", "lr": 0.02}


def _vectors(n: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def _items(vectors: np.ndarray, ids: list[str] | None = None, **known: object) -> ItemData:
    return ItemData(ids or _ids(len(vectors)), {"fused": vectors}, **known)  # type: ignore[arg-type]


def _ids(n: int = 30) -> list[str]:
    return [f"i{place:03}" for place in range(n)]


def _by_item(folder: Path) -> dict[str, tuple[int, ...]]:
    ids = load_semantic_ids(folder)
    return {item: tuple(row) for item, row in zip(ids.item_ids, ids.codes.tolist(), strict=True)}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return fit_tokenizer(
        _items(_vectors()), "residual_kmeans", _PARAMS, 0, {"fused": "abc"}, tmp_path / "tokenizers"
    )


def test_fitting_the_same_again_finds_it(tokenizer: Path) -> None:
    out = tokenizer.parent
    before = (tokenizer / "manifest.json").read_bytes()
    assert (
        fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 0, {"fused": "abc"}, out) == tokenizer
    )
    assert (tokenizer / "manifest.json").read_bytes() == before
    assert fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 1, {}, out) != tokenizer
    assert read_manifest(tokenizer).inputs == {"fused": "abc", "items": _items(_vectors()).hash}


def test_unknown_items_take_no_part_in_fitting(tmp_path: Path) -> None:
    padded = np.concatenate([_vectors(), np.zeros((50, 6), np.float32)])
    plain = fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 0, {}, tmp_path)
    with_unknown = fit_tokenizer(_items(padded), "residual_kmeans", _PARAMS, 0, {}, tmp_path)
    codes = [load_tokenizer(folder).encode(_items(_vectors())) for folder in (plain, with_unknown)]
    np.testing.assert_array_equal(*codes)


def test_ids_are_distinct_readable_and_reported(tokenizer: Path, tmp_path: Path) -> None:
    vectors = _vectors()
    vectors[5] = 0
    spaces = {"fused": vectors, "text": np.concatenate([vectors[:20], np.zeros_like(vectors[20:])])}
    items = ItemData(_ids(), spaces, [["a"], ["b"]] * 15)
    folder = assign_semantic_ids(tokenizer, items, None, tmp_path / "ids")
    with pytest.raises(ArtifactError, match="no live version"):
        current(tmp_path / "ids")
    make_live(folder)
    assert current(tmp_path / "ids") == folder
    ids = load_semantic_ids(folder)
    assert ids.item_ids == _ids()
    assert ids.tokenizer == tokenizer.name
    assert len(np.unique(ids.codes, axis=0)) == 30
    assert (ids.codes.max(axis=0) < ids.code_sizes).all()
    np.testing.assert_array_equal(ids.codes[:, :-1], load_tokenizer(tokenizer).encode(items))
    table = pq.read_table(folder / "items.parquet").to_pylist()
    assert table[3]["semantic_id"] == "-".join(map(str, ids.codes[3]))
    assert [table[3][f"c{level}"] for level in range(3)] == ids.codes[3].tolist()
    figures = read_json(folder / "report.json")
    assert figures["uniqueness"]["items"] == 30
    assert figures["uniqueness"]["distinct"] == len(np.unique(ids.codes[:, :-1], axis=0)) < 30
    assert figures["full_ids"]["distinct"] == 30
    assert figures["items_without_vector"] == 1
    assert len(figures["levels"]) == 2
    assert 0 < figures["reconstruction_error"] < 1
    assert 0 < figures["neighbour_overlap@10"]["text"]["codes"] <= 1
    assert 0 < figures["neighbour_overlap@10"]["text"]["decoded"] <= 1
    assert figures["training_seconds"] > 0
    assert figures["encoded_per_second"] > 0
    assert "behaviour" not in figures["neighbour_overlap@10"]
    assert set(figures["prefix_purity"]) == {"prefix_1", "prefix_2"}
    assert figures["churn"] is None


def test_ids_are_frozen_and_new_items_appended(tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids"
    first = assign_semantic_ids(tokenizer, _items(_vectors()[:20]), None, out)
    # Tomorrow: an item left, vectors moved, ten items came, and one has the vector of an old one.
    moved = _vectors()[::-1].copy()
    moved[25] = _vectors()[2]
    second = assign_semantic_ids(tokenizer, _items(moved[1:], _ids()[1:]), first, out)
    before, after = load_semantic_ids(first), load_semantic_ids(second)
    assert after.item_ids == _ids()
    np.testing.assert_array_equal(after.codes[:20], before.codes)
    assert len(np.unique(after.codes, axis=0)) == 30
    assert after.codes[25, :2].tolist() == before.codes[2, :2].tolist()
    assert after.codes[25, 2] > before.codes[2, 2]
    assert after.code_sizes == before.code_sizes
    figures = read_json(second / "report.json")
    assert figures["churn"] == {
        "kept": 20,
        "added": 10,
        "removed": 0,
        "changed": 0,
        "first_code": 0,
        "neighbourhood": 0,
    }
    assert figures["share_outdated"] > 0.3


def test_a_new_tokenizer_starts_anew_and_says_what_changed(tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids"
    first = assign_semantic_ids(tokenizer, _items(_vectors()), None, out)
    other = fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 7, {}, tokenizer.parent)
    second = assign_semantic_ids(other, _items(_vectors()), first, out)
    codes = _by_item(second)
    for item, row in zip(_ids(), load_tokenizer(other).encode(_items(_vectors())), strict=True):
        assert codes[item][:2] == tuple(row)
    assert read_json(second / "report.json")["churn"]["changed"] > 0.3
    with pytest.raises(ArtifactError, match=f"built on tokenizer {tokenizer.name}, not on {other.name}"):
        load_semantic_ids(first, other.name)
    assert load_semantic_ids(second, other.name).tokenizer == other.name


def test_the_last_code_has_room_to_grow(tokenizer: Path, tmp_path: Path) -> None:
    same = np.repeat(_vectors(1), 40, axis=0)
    out = tmp_path / "ids"
    first = assign_semantic_ids(tokenizer, _items(same[:9]), None, out)
    assert load_semantic_ids(first).code_sizes == (4, 4, 32)
    second = assign_semantic_ids(tokenizer, _items(same[:32]), first, out)
    assert load_semantic_ids(second).code_sizes == (4, 4, 32)
    third = assign_semantic_ids(tokenizer, _items(same), second, out)
    assert load_semantic_ids(third).code_sizes == (4, 4, 128)


def test_wrong_folders_are_named(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds a tokenizer, not a semantic_ids"):
        load_semantic_ids(tokenizer)
    with pytest.raises(ArtifactError, match="does not exist"):
        load_tokenizer(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="width 5"):
        assign_semantic_ids(tokenizer, _items(_vectors()[:, :5]), None, tmp_path / "ids")


@settings(max_examples=25, deadline=None)
@given(nights=st.lists(st.lists(st.tuples(st.integers(0, 24), st.integers(0, 5)), max_size=12), max_size=4))
def test_any_nights_keep_every_old_id_and_all_ids_distinct(
    nights: list[list[tuple[int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each night names items with one of six vectors: they come, stay, change, leave, come back, and collide."""
    folder = tmp_path_factory.mktemp("nights")
    fitted = fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 0, {}, folder / "tokenizers")
    books = load_tokenizer(fitted)
    known: dict[str, tuple[int, ...]] = {}
    live = None
    for night in nights:
        seen = dict(night)
        vectors = _vectors()[list(seen.values())].reshape(len(seen), 6)
        items = _items(vectors, [f"i{n:03}" for n in seen])
        live = assign_semantic_ids(fitted, items, live, folder / "ids")
        found = _by_item(live)
        assert found.keys() == known.keys() | set(items.item_ids)
        assert known.items() <= found.items()
        assert len(set(found.values())) == len(found)
        for item, codes in zip(items.item_ids, books.encode(items).tolist(), strict=True):
            assert item in known or found[item][:-1] == tuple(codes)
        known = found


def test_a_warm_start_changes_few_ids_and_says_what_it_began_from(tmp_path: Path) -> None:
    out = tmp_path / "tokenizers"
    some, every = _items(_vectors()[:20], _ids()[:20]), _items(_vectors())
    first = fit_tokenizer(some, "residual_kmeans", _PARAMS, 0, {}, out)
    before = assign_semantic_ids(first, some, None, tmp_path / "ids")
    cold = fit_tokenizer(every, "residual_kmeans", _PARAMS, 0, {}, out)
    warm = fit_tokenizer(every, "residual_kmeans", _PARAMS, 0, {}, out, start=first)
    assert len({first, cold, warm}) == 3
    assert read_manifest(cold).recipe["start"] is None
    assert read_manifest(warm).recipe["start"] == first.name
    churn = {
        name: read_json(assign_semantic_ids(folder, every, before, tmp_path / "ids") / "report.json")["churn"]
        for name, folder in (("cold", cold), ("warm", warm))
    }
    for measure in ("changed", "first_code", "neighbourhood"):
        assert churn["warm"][measure] < churn["cold"][measure]
    assert churn["cold"]["changed"] > 0.3


def test_what_cannot_be_begun_from_is_passed_over(tmp_path: Path) -> None:
    out, items = tmp_path / "tokenizers", _items(_vectors())
    narrow = fit_tokenizer(_items(_vectors()[:, :5]), "residual_kmeans", _PARAMS, 0, {}, out)
    other_size = fit_tokenizer(items, "residual_kmeans", _PARAMS | {"code_size": 5}, 0, {}, out)
    other_kind = fit_tokenizer(items, "product_quantization", _PARAMS, 0, {}, out)
    cold = fit_tokenizer(items, "residual_kmeans", _PARAMS, 0, {}, out)
    for start in (narrow, other_size, other_kind):
        assert fit_tokenizer(items, "residual_kmeans", _PARAMS, 0, {}, out, start) == cold


def test_fitting_again_from_its_own_result_is_that_result(tmp_path: Path) -> None:
    first = fit_tokenizer(_items(_vectors()[:20]), "residual_kmeans", _PARAMS, 0, {}, tmp_path)
    warm = fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 0, {}, tmp_path, first)
    assert fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 0, {}, tmp_path, warm) == warm
    assert fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 1, {}, tmp_path, warm) != warm


def test_equal_codes_of_a_new_tokenizer_keep_the_whole_id(tokenizer: Path, tmp_path: Path) -> None:
    """A new item that sorts before an old one must not push it to another de-duplicating code."""
    out = tmp_path / "ids"
    twins = np.repeat(_vectors(2), 3, axis=0)
    first = assign_semantic_ids(tokenizer, _items(twins, ["b", "c", "d", "e", "f", "g"]), None, out)
    items = _items(np.concatenate([_vectors(1), twins[1:]]), ["a", "c", "d", "e", "f", "g"])
    again = fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 0, {}, tmp_path / "other")
    renamed = tmp_path / "tokenizers" / "same-books"
    shutil.copytree(again, renamed)
    write_manifest(renamed, read_manifest(again).model_copy(update={"version": "same-books"}))
    second = assign_semantic_ids(renamed, items, first, out)
    before, after = _by_item(first), _by_item(second)
    assert "b" not in after
    assert {item: after[item] for item in "cdefg"} == {item: before[item] for item in "cdefg"}
    assert len(set(after.values())) == 6


def test_every_identifier_is_distinct_and_frozen(tmp_path: Path) -> None:
    fitted = fit_tokenizer(_items(_vectors()), "rqvae", _SEVERAL, 0, {}, tmp_path / "tokenizers")
    first = assign_semantic_ids(fitted, _items(_vectors()[:20], _ids()[:20]), None, tmp_path / "ids")
    # Tomorrow the first five have left.
    second = assign_semantic_ids(fitted, _items(_vectors()[5:], _ids()[5:]), first, tmp_path / "ids")
    before, after = load_semantic_ids(first), load_semantic_ids(second)
    assert before.identifiers is not None
    assert after.identifiers is not None
    assert after.identifiers.shape == (3, 30, 3)
    np.testing.assert_array_equal(after.identifiers[:, :20], before.identifiers)
    np.testing.assert_array_equal(after.identifiers[-1], after.codes)
    assert [len(np.unique(codes, axis=0)) for codes in after.identifiers] == [30, 30, 30]
    assert (after.identifiers[0] != after.codes).any()
    assert (after.identifiers.max(axis=(0, 1)) < after.code_sizes).all()


def test_one_identifier_is_told_once(tokenizer: Path, tmp_path: Path) -> None:
    folder = assign_semantic_ids(tokenizer, _items(_vectors()), None, tmp_path / "ids")
    assert load_semantic_ids(folder).identifiers is None
    assert not (folder / "identifiers.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "params", "reads"),
    [
        ("residual_kmeans", {"input": "text", "levels": 2, "code_size": 4}, ["text"]),
        ("residual_kmeans", {"levels": 2, "code_size": 4}, ["fused"]),
        ("sequential_index", {}, ["first_seen"]),
        ("category_index", {}, []),
        (
            "rqvae",
            {"input": "text", "levels": 2, "code_size": 4, "epochs": 1, "alignment": 0.1},
            ["behaviour", "text"],
        ),
        (
            "rqvae",
            {"input": "text", "levels": 2, "code_size": 4, "epochs": 1, "cooccurrence": 0.1},
            ["pairs", "text"],
        ),
    ],
)
def test_codes_tell_what_they_were_made_from(
    kind: str, params: dict[str, Any], reads: list[str], tmp_path: Path
) -> None:
    items = sample_items()
    fitted = fit_tokenizer(items, kind, params, 0, {}, tmp_path / "tokenizers")
    assert read_manifest(fitted).recipe["reads"] == reads
    ids = assign_semantic_ids(fitted, items, None, tmp_path / "ids")
    assert read_manifest(ids).recipe["reads"] == reads
