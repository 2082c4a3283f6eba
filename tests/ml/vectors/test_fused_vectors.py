from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import ArtifactError, Manifest, current
from ml.vectors.fused import fuse, load_vectors, update_fused_vectors
from ml.vectors.store import save_vectors


def test_blocks_have_the_same_say_and_unknown_is_zero() -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(50)]
    wide = (rng.normal(5, 3, (40, 30))).astype(np.float32)
    narrow = (rng.normal(-2, 0.1, (50, 4))).astype(np.float32)
    fused = fuse(ids, [([*ids[:40], "gone"], np.vstack([wide, wide[:1]])), (ids[::-1], narrow)])
    assert fused.shape == (50, 34)
    assert fused.dtype == np.float32
    np.testing.assert_allclose((fused[:40, :30] ** 2).sum(axis=1).mean(), 1, rtol=1e-4)
    np.testing.assert_allclose((fused[:, 30:] ** 2).sum(axis=1).mean(), 1, rtol=1e-4)
    np.testing.assert_allclose(fused[:40, :30].mean(axis=0), 0, atol=1e-6)
    assert not fused[40:, :30].any()
    expected = (narrow - narrow.mean(axis=0)) / narrow.std(axis=0) / 2
    np.testing.assert_allclose(fused[:, 30:], expected[::-1], rtol=1e-3, atol=1e-5)


def test_no_rows_no_blocks_and_constant_columns() -> None:
    assert fuse(["a"], []).shape == (1, 0)
    assert not fuse(["a", "b"], [([], np.zeros((0, 3), np.float32))]).any()
    assert not fuse(["a", "b"], [(["a", "b"], np.full((2, 3), 7, np.float32))]).any()


def test_artefact_covers_the_whole_catalogue(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["c", "a", "b"]}), tmp_path / "dim_items.parquet")
    rows = np.array([[1, 2], [3, 4]], np.float32)
    made = save_vectors(tmp_path / "text", Manifest(kind="vectors", version="v1"), ["b", "a"], rows)
    out = tmp_path / "fused"
    folder = update_fused_vectors(tmp_path / "dim_items.parquet", {"text": made}, out)
    ids, vectors = load_vectors(folder)
    assert ids == ["a", "b", "c"]
    np.testing.assert_allclose(vectors, np.array([[1, 1], [-1, -1], [0, 0]]) / np.sqrt(2), rtol=1e-6)
    assert current(out) == folder
    assert update_fused_vectors(tmp_path / "dim_items.parquet", {"text": made}, out) == folder


def test_rows_and_items_must_agree(tmp_path: Path) -> None:
    rows = np.zeros((2, 2), np.float32)
    folder = save_vectors(tmp_path, Manifest(kind="vectors", version="v1"), ["a"], rows)
    with pytest.raises(ArtifactError, match="2 vectors for 1 items"):
        load_vectors(folder)


def test_missing_mart_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    for name in ("missing", "broken"):
        with pytest.raises(ArtifactError, match=f"{name}.parquet cannot be read") as caught:
            update_fused_vectors(tmp_path / f"{name}.parquet", {}, tmp_path / "out")
        assert "\n" not in str(caught.value)
