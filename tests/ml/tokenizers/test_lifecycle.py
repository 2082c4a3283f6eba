from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ml.artifacts import ArtifactError, current, read_json, read_manifest
from ml.tokenizers.items import ItemData
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer, load_semantic_ids, load_tokenizer

_PARAMS = {"levels": 2, "code_size": 4}


def _vectors(n: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def _items(vectors: np.ndarray, ids: list[str] | None = None, **known: object) -> ItemData:
    return ItemData(ids or _ids(len(vectors)), {"fused": vectors}, **known)  # type: ignore[arg-type]


def _ids(n: int = 30) -> list[str]:
    return [f"i{place:03}" for place in range(n)]


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
    assert read_manifest(tokenizer).inputs == {"fused": "abc"}


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
    assert 0 < figures["neighbour_overlap@10"]["text"] <= 1
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
    assert figures["churn"] == {"kept": 20, "added": 10, "removed": 0, "changed": 0}
    assert figures["share_outdated"] > 0.3


def test_a_new_tokenizer_starts_anew_and_says_what_changed(tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids"
    first = assign_semantic_ids(tokenizer, _items(_vectors()), None, out)
    other = fit_tokenizer(_items(_vectors()), "residual_kmeans", _PARAMS, 7, {}, tokenizer.parent)
    second = assign_semantic_ids(other, _items(_vectors()), first, out)
    np.testing.assert_array_equal(
        load_semantic_ids(second).codes[:, :2], load_tokenizer(other).encode(_items(_vectors()))
    )
    assert read_json(second / "report.json")["churn"]["changed"] > 0.3
    with pytest.raises(ArtifactError, match=f"made by tokenizer {tokenizer.name}, not by {other.name}"):
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
