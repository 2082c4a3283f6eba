from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vector_samples import write_marts

from ml.artifacts import Manifest, current, read_manifest
from ml.vectors.behaviour import Method, update_behaviour_vectors
from ml.vectors.fused import update_fused_vectors
from ml.vectors.store import load_vectors, save_vectors, turned


def test_vectors_are_turned_onto_what_stood(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(20, 4)).astype(np.float32)
    ids = [f"i{n}" for n in range(20)]
    folder = save_vectors(tmp_path / "v", Manifest(kind="vectors", version="v1"), ids, before)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0].astype(np.float32)
    now = np.vstack([before[::-1] @ rotation, np.zeros((1, 4), np.float32), rng.normal(size=(1, 4))]).astype(
        np.float32
    )
    found = turned(folder, [*ids[::-1], "unknown", "new"], now)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:20], before[::-1], atol=1e-5)
    assert not found[20].any()
    np.testing.assert_allclose(found @ found.T, now @ now.T, atol=1e-5)
    np.testing.assert_allclose(found[21], now[21] @ rotation.T, atol=1e-5)


def test_nothing_to_turn_onto_turns_nothing(tmp_path: Path) -> None:
    rows = np.eye(2, dtype=np.float32)
    folder = save_vectors(tmp_path / "v", Manifest(kind="vectors", version="v1"), ["a", "b"], -rows)
    assert turned(None, ["a", "b"], rows) is rows
    assert turned(folder, ["c", "d"], rows) is rows
    assert turned(folder, ["a"], np.ones((1, 3), np.float32)).shape == (1, 3)


@pytest.mark.parametrize("method", ["ppmi", "als", "sasrec"])
def test_a_night_of_events_does_not_turn_the_space(method: Method, tmp_path: Path) -> None:
    """Items stay near where they were, which without turning they do not."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(150):
        group = 10 * (user % 4)
        seen = group + rng.permutation(10)[:7]
        events += [(f"u{user:03}", n + 1, f"i{item:02}", 10 * n) for n, item in enumerate(seen)]
    marts = write_marts(tmp_path / "first", [e for e in events if e[0] < "u140"], [])
    later = write_marts(tmp_path / "second", events, [])
    out = tmp_path / "out"
    first = update_behaviour_vectors(marts, out, 6, method=method)
    alone = update_behaviour_vectors(later, out, 6, seed=1, method=method)
    second = update_behaviour_vectors(later, out, 6, seed=1, method=method, anchor=first)
    assert read_manifest(second).recipe["turned_to"] == first.name
    assert read_manifest(alone).recipe["turned_to"] is None

    def moved(folder: Path) -> float:
        (ids, before), (same, now) = load_vectors(first), load_vectors(folder)
        assert ids == same
        return float(np.linalg.norm(now - before) / np.linalg.norm(before))

    assert moved(second) < moved(alone) - 1e-3
    # The same night again is the same version; what was learned from what the anchor was is the anchor.
    assert update_behaviour_vectors(later, out, 6, seed=1, method=method, anchor=first) == second
    assert update_behaviour_vectors(marts, out, 6, method=method, anchor=first) == first == current(out)
    assert update_behaviour_vectors(later, out, 5, seed=1, method=method, anchor=first).name == (
        update_behaviour_vectors(later, tmp_path / "narrow", 5, seed=1, method=method).name
    )


def test_a_projection_stays_where_the_anchor_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{n:02}" for n in range(40)]
    pq.write_table(pa.table({"item_id": ids}), tmp_path / "dim_items.parquet")
    rows = rng.normal(size=(40, 6)).astype(np.float32)
    made = []
    for name, changed in (("one", 0.0), ("two", 0.3)):
        manifest = Manifest(kind="vectors", version=name)
        now = rows + changed * rng.normal(size=rows.shape).astype(np.float32)
        made.append({"text": save_vectors(tmp_path / "text", manifest, ids, now)})
    catalogue, out = tmp_path / "dim_items.parquet", tmp_path / "fused"
    anchor = update_fused_vectors(catalogue, made[0], out, "project", 3)
    alone = update_fused_vectors(catalogue, made[1], out, "project", 3)
    turned_to = update_fused_vectors(catalogue, made[1], out, "project", 3, anchor)
    assert read_manifest(turned_to).recipe["turned_to"] == anchor.name
    assert read_manifest(anchor).recipe["versions"] == {"text": "one"}
    near, far = (np.linalg.norm(load_vectors(f)[1] - load_vectors(anchor)[1]) for f in (turned_to, alone))
    assert near < far
    assert update_fused_vectors(catalogue, made[0], out, "project", 3, anchor) == anchor
    # What is not projected has axes that mean something, and is not turned.
    plain = update_fused_vectors(catalogue, made[0], out)
    assert (
        read_manifest(update_fused_vectors(catalogue, made[1], out, anchor=plain)).recipe["turned_to"] is None
    )
