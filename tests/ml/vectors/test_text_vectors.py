from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file
from vector_samples import make_encoder

from ml.artifacts import ArtifactError, current, read_manifest
from ml.vectors import text
from ml.vectors.fused import load_vectors
from ml.vectors.text import encode_texts, item_text, update_text_vectors

_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("brand", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)


def _write_items(path: Path, rows: list[dict[str, Any]]) -> Path:
    full = [{name: row.get(name) for name in _SCHEMA.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=_SCHEMA), path)
    return path


def test_item_text_orders_parts_and_cleans_markup() -> None:
    row = {
        "title": "Rose &amp; milk soap.",
        "brand": "Lush",
        "categories": ["Beauty", "Bath"],
        "description": "<p>Soft\n skin</p>" + " word" * 100,
        "attributes": [("colour_name", "pink"), ("asin", "12345"), ("link", "http://x.y"), ("vegan", "true")],
    }
    parts = item_text(row).split(". ")
    assert parts[:3] == ["Rose & milk soap", "Lush", "Beauty, Bath"]
    assert parts[3].split()[:3] == ["Soft", "skin", "word"]
    assert len(parts[3].split()) == 60
    assert parts[4:] == ["colour name: pink"]


@pytest.mark.parametrize("row", [{}, {"title": None, "categories": [], "attributes": None}, {"title": " "}])
def test_item_without_text_has_none(row: dict[str, Any]) -> None:
    assert item_text(row) == ""


def test_encoder_knows_meaning_and_keeps_order() -> None:
    texts = ["a kitten", "quarterly tax return forms for small companies", "a cat"]
    vectors = encode_texts(texts)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[2] > 0.6 > 0.3 > vectors[0] @ vectors[1]
    np.testing.assert_allclose(encode_texts(texts[:1])[0], vectors[0], atol=1e-5)
    assert (encode_texts(texts, precision="bfloat16") * vectors).sum(axis=1).min() > 0.99


def test_unknown_encoder_is_one_line() -> None:
    with pytest.raises(ArtifactError, match="no/such-encoder") as caught:
        encode_texts(["a"], "no/such-encoder")
    assert "\n" not in str(caught.value)


def test_a_folder_of_ones_own_makes_vectors(tmp_path: Path, tiny_encoder: Path) -> None:
    rows = [{"item_id": "a", "title": "red soap"}, {"item_id": "b", "title": "blue saw"}]
    items, out = _write_items(tmp_path / "i.parquet", rows), tmp_path / "text"
    made = update_text_vectors(items, out, str(tiny_encoder))
    ids, vectors = load_vectors(made)
    assert (ids, vectors.shape) == (["a", "b"], (2, 16))
    np.testing.assert_allclose(vectors, encode_texts(["red soap", "blue saw"], str(tiny_encoder)), atol=1e-6)
    assert (encode_texts(["red soap"], str(tiny_encoder), "bfloat16")[0] @ vectors[0]) > 0.99

    # Other weights below the same name are another encoder, and so is another prompt or precision.
    changed = shutil.copytree(tiny_encoder, tmp_path / tiny_encoder.name)
    weights = load_file(changed / "model.safetensors")
    save_file({name: 2 * array for name, array in weights.items()}, changed / "model.safetensors")
    versions = {
        made,
        update_text_vectors(items, out, str(changed)),
        update_text_vectors(items, out, str(tiny_encoder), "bfloat16"),
        update_text_vectors(items, out, str(tiny_encoder), prompt="query : "),
    }
    assert [read_manifest(folder).metrics["encoded"] for folder in versions] == [2] * 4


def test_prompts_stand_before_every_text(tmp_path: Path, tiny_encoder: Path) -> None:
    prompts = {"query": "query : ", "passage": "passage : "}
    named = str(make_encoder(tmp_path / "named", prompts))
    with_prefix = encode_texts(["passage : red soap"], str(tiny_encoder))
    bare = encode_texts(["red soap"], str(tiny_encoder))
    assert not np.allclose(with_prefix, bare, atol=1e-3)
    np.testing.assert_allclose(encode_texts(["red soap"], named), with_prefix, atol=1e-6)
    np.testing.assert_allclose(encode_texts(["red soap"], named, prompt=""), bare, atol=1e-6)
    asked = encode_texts(["red soap"], str(tiny_encoder), prompt="passage : ")
    np.testing.assert_allclose(asked, with_prefix, atol=1e-6)


@pytest.mark.parametrize("damage", ["empty", "pickled", "cut off"])
def test_broken_encoder_is_one_line(damage: str, tmp_path: Path, tiny_encoder: Path) -> None:
    folder = tmp_path / "broken"
    if damage == "empty":
        folder.mkdir()
    else:
        shutil.copytree(tiny_encoder, folder)
        (folder / "model.safetensors").write_bytes(b"no")
    if damage == "pickled":
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="broken' cannot be loaded: ") as caught:
        encode_texts(["a"], str(folder))
    assert "\n" not in str(caught.value)


def test_encoder_that_answers_nan_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: array * np.float32("nan") for name, array in weights.items()}, folder / "model.safetensors"
    )
    with pytest.raises(ArtifactError, match="not finite"):
        encode_texts(["red soap"], str(folder))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_vectors(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = encode_texts(["red soap", "blue saw"], str(tiny_encoder))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.testing.assert_allclose(encode_texts(["red soap", "blue saw"], str(tiny_encoder)), on_gpu, atol=1e-4)


def test_swapped_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CARRIED_WEIGHTS", "0" * 16)
    with pytest.raises(ArtifactError, match="not the encoder that was examined"):
        encode_texts(["a"])


def test_only_new_or_changed_texts_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fake(texts: list[str], encoder: str, precision: str, prompt: str | None) -> np.ndarray:
        asked.append(list(texts))
        return np.array([[len(t), ord(t[0])] for t in texts], np.float32).reshape(-1, 2)

    monkeypatch.setattr(text, "encode_texts", fake)
    rows = [{"item_id": "a", "title": "soap"}, {"item_id": "b", "title": "cream"}, {"item_id": "c"}]
    out = tmp_path / "text"
    first = update_text_vectors(_write_items(tmp_path / "1.parquet", rows), out)
    assert asked == [["soap", "cream"]]
    ids, vectors = load_vectors(first)
    assert ids == ["a", "b"]
    np.testing.assert_array_equal(vectors, [[4, ord("s")], [5, ord("c")]])

    # Nothing new: the same version, nothing encoded.
    assert update_text_vectors(tmp_path / "1.parquet", out) == first
    assert len(asked) == 1

    rows[1]["title"] = "lotion"
    rows += [{"item_id": "d", "title": "brush"}, {"item_id": "e", "title": "brush"}]
    second = update_text_vectors(_write_items(tmp_path / "2.parquet", rows), out)
    assert asked[1] == ["lotion", "brush"]
    ids, vectors = load_vectors(second)
    assert ids == ["a", "b", "d", "e"]
    np.testing.assert_array_equal(vectors[:, 0], [4, 6, 5, 5])
    assert current(out) == second != first
    assert read_manifest(second).metrics == {"rows": 4, "encoded": 2, "reused": 1}

    # Another encoder shares no vector.
    update_text_vectors(tmp_path / "2.parquet", out, "other/model")
    assert asked[2] == ["soap", "lotion", "brush"]


def test_catalogue_without_text_gives_zero_rows(tmp_path: Path) -> None:
    folder = update_text_vectors(_write_items(tmp_path / "i.parquet", [{"item_id": "a"}]), tmp_path / "text")
    ids, vectors = load_vectors(folder)
    assert ids == []
    assert vectors.shape == (0, 384)
    assert read_manifest(folder).recipe["width"] == 384
