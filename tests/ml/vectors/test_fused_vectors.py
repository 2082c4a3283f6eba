from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import ArtifactError, Manifest, current, read_manifest
from ml.vectors.fused import Fusion, _ridge, align, fuse, load_vectors, project, update_fused_vectors
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


def test_projection_is_the_svd_and_whitening_evens_it_out() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(200, 6)) * [9, 5, 3, 1, 0.1, 0]).astype(np.float32)
    vectors = vectors @ np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    vectors[7] = 0
    projected, explained = project(vectors, 3)
    left, singular, right = np.linalg.svd(vectors.astype(float), full_matrices=False)
    signs = np.sign(right[np.arange(6), np.abs(right).argmax(axis=1)])
    np.testing.assert_allclose(projected, (left * singular * signs)[:, :3], atol=1e-3)
    assert explained == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum(), rel=1e-5)
    assert not projected[7].any()

    white, _ = project(vectors, 3, whiten=True)
    np.testing.assert_allclose(white.T @ white / 200, np.eye(3) / 3, atol=1e-5)
    # No variance is nothing to divide by.
    flat, explained = project(vectors, 6, whiten=True)
    assert flat.shape == (200, 6)
    assert np.abs(flat[:, 5]).max() == 0
    assert explained == pytest.approx(1)
    assert project(vectors, 99)[0].shape == (200, 6)
    assert project(np.zeros((0, 4), np.float32), 2)[0].shape == (0, 2)


def test_alignment_predicts_the_behaviour_of_unmet_items() -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(300)]
    text = rng.normal(size=(300, 12)).astype(np.float32)
    behaviour = (text @ rng.normal(size=(12, 4)) + 0.3 * rng.normal(size=(300, 4)) + 5).astype(np.float32)
    text[290:] = 0
    blocks = [
        (ids[:200] + ids[290:295], np.vstack([behaviour[:200], behaviour[290:295]])),
        (ids[:290], text[:290]),
    ]
    plain, (aligned, reports) = fuse(ids, blocks), align(ids, blocks)
    known_to_both = np.r_[0:200]
    np.testing.assert_array_equal(aligned[known_to_both], plain[known_to_both])
    np.testing.assert_array_equal(aligned[:290, 4:], plain[:290, 4:])
    # What nobody met is near where it would have been, and what has neither stays at zero.
    met = np.r_[0:200, 290:295]
    truth = (behaviour - behaviour[met].mean(axis=0)) / behaviour[met].std(axis=0) / 2
    error = ((aligned[200:290, :4] - truth[200:290]) ** 2).sum() / (truth[200:290] ** 2).sum()
    assert error < 0.05
    assert reports[0]["r2"] == pytest.approx(1 - error, abs=0.03)
    assert (reports[0]["predicted"], reports[1]["predicted"]) == (90, 5)
    assert not plain[200:290, :4].any()
    assert aligned[290:295, 4:].any(axis=1).all()
    assert not aligned[295:].any()


def test_ridge_chooses_like_leaving_rows_out() -> None:
    """Generalised cross-validation is near what leaving out each row in turn says, and near its choice."""
    rng = np.random.default_rng(1)
    x = rng.normal(2, 1, size=(40, 10)).astype(np.float32)
    y = (x @ rng.normal(size=(10, 2)) * 0.3 + rng.normal(size=(40, 2))).astype(np.float32)
    weights, shift, penalty, r2 = _ridge(x, y)
    centred = x - x.mean(axis=0)
    expected = np.linalg.solve(centred.T @ centred + penalty * np.eye(10), centred.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(shift, y.mean(axis=0) - x.mean(axis=0) @ expected, rtol=1e-3, atol=1e-3)

    def left_out(value: float) -> float:
        error = 0.0
        for row in range(40):
            rest = np.arange(40) != row
            middle, mean = x[rest].mean(axis=0), y[rest].mean(axis=0)
            inner = x[rest] - middle
            found = np.linalg.solve(inner.T @ inner + value * np.eye(10), inner.T @ (y[rest] - mean))
            error += ((y[row] - mean - (x[row] - middle) @ found) ** 2).sum()
        return error

    total = ((y - y.mean(axis=0)) ** 2).sum()
    assert r2 == pytest.approx(1 - left_out(penalty) / total, abs=0.08)
    assert left_out(penalty) < 1.02 * min(left_out(penalty * factor) for factor in (0.1, 0.3, 3, 10))


def test_noise_predicts_nothing() -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(100)]
    blocks = [
        (ids[:90], rng.normal(size=(90, 3)).astype(np.float32)),
        (ids, rng.normal(size=(100, 5)).astype(np.float32)),
    ]
    fused, reports = align(ids, blocks)
    assert reports[0]["r2"] < 0.05
    assert (fused[90:, :3] ** 2).sum(axis=1).max() < 0.1
    nobody, reports = align(ids, [([], np.zeros((0, 3), np.float32)), blocks[1]])
    assert not nobody[:, :3].any()
    assert reports[0] == {"predicted": 0, "penalty": 0, "r2": 0}


@pytest.mark.parametrize("fusion", ["concatenate", "project", "whiten", "align"])
def test_every_fusion_is_a_version_of_its_own(fusion: Fusion, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(30)]
    pq.write_table(pa.table({"item_id": ids}), tmp_path / "dim_items.parquet")
    sources = {
        name: save_vectors(
            tmp_path / name,
            Manifest(kind="vectors", version="v1"),
            ids[:n],
            rng.normal(size=(n, d)).astype(np.float32),
        )
        for name, n, d in (("text", 30, 6), ("behaviour", 20, 3))
    }
    out = tmp_path / "fused"
    made = {
        name: update_fused_vectors(tmp_path / "dim_items.parquet", sources, out, name, 4)
        for name in ("concatenate", fusion)
    }
    assert len(set(made.values())) == len(made)
    assert current(out) == made[fusion]
    manifest = read_manifest(made[fusion])
    assert manifest.recipe["fusion"] == fusion
    assert (
        manifest.recipe["width"]
        == load_vectors(made[fusion])[1].shape[1]
        == (4 if fusion in ("project", "whiten") else 9)
    )
    if fusion == "align":
        assert manifest.metrics["align"]["behaviour"]["predicted"] == 10
    before = load_vectors(made[fusion])[1].tobytes()
    again = update_fused_vectors(tmp_path / "dim_items.parquet", sources, tmp_path / "again", fusion, 4)
    assert again.name == made[fusion].name
    assert load_vectors(again)[1].tobytes() == before


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
