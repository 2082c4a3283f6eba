from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from ml.artifacts import ArtifactError, Manifest, write_manifest
from ml.snapshot import Snapshot, drop_users, load_snapshot, without_behaviour, write_snapshot

START = datetime(2025, 3, 1, tzinfo=UTC)


def write_marts(folder: Path, *, items: tuple[str, ...] = ("x", "a", "m")) -> Path:
    folder.mkdir(exist_ok=True)
    histories = {
        "user_id": ["u1", "u1", "u2"],
        "position": [1, 2, 1],
        "item_id": ["m", "a", "m"],
        "event_type": ["view", "cart", "view"],
        "event_ts": pa.array([START + timedelta(hours=h) for h in (0, 1, 5)], pa.timestamp("us", tz="UTC")),
        "value": [None, 2.0, None],
    }
    pq.write_table(pa.table(histories), folder / "user_histories.parquet")
    catalogue = {
        "item_id": list(items),
        "title": pa.array([f"Title {i}" if i != "m" else None for i in items], pa.string()),
        "categories": pa.array([["c", i] if i != "a" else None for i in items], pa.list_(pa.string())),
        "price": [1.0] * len(items),
    }
    pq.write_table(pa.table(catalogue), folder / "dim_items.parquet")
    return folder


def write_ids(folder: Path) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"item_id": ["m", "gone", "a"]}), folder / "items.parquet")
    save_file({"codes": np.array([[1, 0], [7, 9], [3, 2]], dtype=np.int32)}, folder / "codes.safetensors")
    write_manifest(
        folder, Manifest(kind="semantic_ids", version="v", recipe={"code_sizes": [16], "tokenizer": "t1"})
    )
    return folder


def write_vectors(folder: Path) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"item_id": ["x", "m"]}), folder / "items.parquet")
    save_file({"vectors": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)}, folder / "vectors.safetensors")
    return folder


def test_snapshot_comes_back(tmp_path: Path) -> None:
    marts, ids, vectors = (
        write_marts(tmp_path / "m"),
        write_ids(tmp_path / "ids"),
        write_vectors(tmp_path / "v"),
    )
    folder = write_snapshot(marts, ids, vectors, tmp_path / "snapshots")
    told = load_snapshot(folder)
    assert folder == tmp_path / "snapshots" / told.manifest.version
    assert told.user_ids == ["u1", "u2"]
    assert told.event_type_names == ["cart", "view"]
    assert told.histories.offsets.tolist() == [0, 2, 3]
    assert told.histories.items.tolist() == [1, 0, 1]
    catalogue = told.catalogue
    assert catalogue.item_ids == ["a", "m", "x"]
    assert catalogue.titles == ["Title a", "", "Title x"]
    assert catalogue.categories == [[], ["c", "m"], ["c", "x"]]
    assert catalogue.vectors.tolist() == [[0, 0, 0], [4, 5, 6], [1, 2, 3]]
    assert catalogue.codes.tolist() == [[3, 2], [1, 0], [-1, -1]]
    # The tokenizer states 16 for the first level; the last is as wide as what is used.
    assert catalogue.code_sizes == (16, 3)
    assert told.manifest.metrics["events"] == 3
    assert told.manifest.recipe["semantic_ids"] == "ids"
    assert catalogue.tokenizer == told.manifest.recipe["tokenizer"] == "t1"
    # What a report says of the clock is no content; which tokenizer gave the codes is.
    (ids / "report.html").write_text("took 3 s")
    assert write_snapshot(marts, ids, vectors, tmp_path / "snapshots") == folder
    write_manifest(
        ids, Manifest(kind="semantic_ids", version="v", recipe={"code_sizes": [16], "tokenizer": "t2"})
    )
    assert write_snapshot(marts, ids, vectors, tmp_path / "snapshots") != folder


def test_text_vectors_stand_beside_the_fused(tmp_path: Path) -> None:
    marts, ids, text = (
        write_marts(tmp_path / "m"),
        write_ids(tmp_path / "ids"),
        write_vectors(tmp_path / "t"),
    )
    bare = load_snapshot(write_snapshot(marts, ids, None, tmp_path / "snapshots"))
    assert bare.catalogue.text.shape == (3, 0)
    assert without_behaviour(bare).codes.shape == (3, 0)

    def cut() -> Snapshot:
        return load_snapshot(write_snapshot(marts, ids, None, tmp_path / "snapshots", text))

    # What says nothing of how it was made may have seen anything.
    told = cut()
    assert told.manifest.recipe["text"] == "t"
    assert told.catalogue.text.tolist() == [[0, 0, 0], [4, 5, 6], [1, 2, 3]]
    assert told.catalogue.vectors.shape == (3, 0)
    assert without_behaviour(told).vectors.shape == (3, 0)
    write_manifest(text, Manifest(kind="vectors", version="t", recipe={"sees_behaviour": False}))
    free = without_behaviour(cut())
    assert free.vectors.tolist() == told.catalogue.text.tolist()
    assert (free.codes.shape, free.code_sizes, free.tokenizer) == ((3, 0), (), None)
    for reads, levels in ((["text"], 2), (["fused"], 0), (["pairs", "text"], 0)):
        recipe = {"code_sizes": [16], "tokenizer": "t1", "reads": reads}
        write_manifest(ids, Manifest(kind="semantic_ids", version="v", recipe=recipe))
        assert without_behaviour(cut()).codes.shape == (3, levels)


def test_snapshot_is_named_by_its_content(tmp_path: Path) -> None:
    marts, out = write_marts(tmp_path / "m"), tmp_path / "snapshots"
    first = write_snapshot(marts, None, None, out)
    stamp = (first / "manifest.json").stat().st_mtime_ns
    assert write_snapshot(marts, None, None, out) == first
    assert (first / "manifest.json").stat().st_mtime_ns == stamp
    assert load_snapshot(first).catalogue.vectors.shape == (3, 0)
    assert load_snapshot(first).catalogue.codes.shape == (3, 0)
    assert write_snapshot(marts, None, write_vectors(tmp_path / "v"), out) != first
    write_marts(marts, items=("x", "a", "m", "new"))
    assert write_snapshot(marts, None, None, out) != first


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "snapshots"
    with pytest.raises(ArtifactError, match=r"user_histories\.parquet does not exist"):
        write_snapshot(tmp_path, None, None, out)
    marts = write_marts(tmp_path / "m", items=("a", "x"))
    with pytest.raises(ArtifactError, match="'m', which is not in the catalogue"):
        write_snapshot(marts, None, None, out)
    write_marts(marts, items=("a", "m", "a"))
    with pytest.raises(ArtifactError, match="names an item twice"):
        write_snapshot(marts, None, None, out)
    write_marts(marts)
    vectors = write_vectors(tmp_path / "v")
    pq.write_table(pa.table({"item_id": ["x"]}), vectors / "items.parquet")
    with pytest.raises(ArtifactError, match="2 rows of vectors for 1 items"):
        write_snapshot(marts, None, vectors, out)
    assert not out.exists() or not list(out.iterdir())
    with pytest.raises(ArtifactError, match="does not exist"):
        load_snapshot(tmp_path / "nowhere")
    folder = write_snapshot(marts, None, None, out)
    (folder / "histories.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        load_snapshot(folder)
    assert "\n" not in str(caught.value)


def test_dropped_user_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    folder = write_snapshot(write_marts(tmp_path / "marts"), None, None, tmp_path / "snapshots")
    before = load_snapshot(folder)
    assert drop_users(folder, {"u1", "stranger"}) == 1
    after = load_snapshot(folder)
    assert after.user_ids == ["u2"]
    assert after.histories.items.tolist() == before.histories.rows(np.array([1])).items.tolist()
    assert after.histories.times.tolist() == before.histories.rows(np.array([1])).times.tolist()
    assert after.catalogue.item_ids == before.catalogue.item_ids
    assert after.manifest.version == before.manifest.version == folder.name
    assert (after.manifest.metrics["users"], after.manifest.metrics["events"]) == (1, 1)
    assert after.manifest.recipe["users_dropped"] == 1
    assert drop_users(folder, {"u1"}) == 0
    assert not [path for path in folder.rglob("*") if path.is_file() and b"u1" in path.read_bytes()]


def test_other_identifiers_go_with_the_catalogue(tmp_path: Path) -> None:
    marts, ids, out = write_marts(tmp_path / "m"), write_ids(tmp_path / "ids"), tmp_path / "snapshots"
    bare = write_snapshot(marts, ids, None, out)
    assert load_snapshot(bare).catalogue.more_codes.shape == (0, 3, 2)
    served = [[1, 0], [7, 9], [3, 2]]
    several = np.array([[[4, 0], [0, 0], [5, 6]], [[2, 1], [1, 1], [0, 3]], served], np.int32)
    save_file({"identifiers": several}, ids / "identifiers.safetensors")
    folder = write_snapshot(marts, ids, None, out)
    assert folder != bare
    catalogue = load_snapshot(folder).catalogue
    assert catalogue.codes.tolist() == [[3, 2], [1, 0], [-1, -1]]
    assert catalogue.more_codes.tolist() == [[[5, 6], [4, 0], [-1, -1]], [[0, 3], [2, 1], [-1, -1]]]
    # A level is as wide as its widest identifier.
    assert catalogue.code_sizes == (16, 7)
    assert without_behaviour(load_snapshot(folder)).more_codes.shape == (0, 3, 0)
    drop_users(folder, {"u1"})
    assert load_snapshot(folder).catalogue.more_codes.tolist() == catalogue.more_codes.tolist()
    save_file({"identifiers": several[::-1].copy()}, ids / "identifiers.safetensors")
    with pytest.raises(ArtifactError, match="the last of the identifiers are not the codes"):
        write_snapshot(marts, ids, None, out)
