from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from ml import train as training
from ml.artifacts import ArtifactError, Manifest, read_json, read_manifest, write_manifest
from ml.evaluation.gates import choose_champion
from ml.evaluation.results import read_result
from ml.recommenders import load_recommender
from ml.snapshot import load_snapshot, write_snapshot
from ml.train import main, train

GENERATIVE = """title: Tiny
recommender:
  kind: generative
  d: 8
  epochs: 1
  objective: {{kind: cold_start, beam: 20, offset: {offset}}}
"""
SASREC = """
title: Tiny
recommender: {kind: sequential, d: 8, max_length: 6, epochs: 3, patience: 1, batch_tokens: 64}
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty users walk a ring of twenty items, an hour a step."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("user_id", "position", "item_id", "event_type", "event_ts")
    }
    for user in range(60):
        first, begin = int(rng.integers(20)), int(rng.integers(40))
        for step in range(int(rng.integers(2, 9))):
            rows["user_id"].append(f"u{user:02d}")
            rows["position"].append(step + 1)
            rows["item_id"].append(f"i{(first + step) % 20:02d}")
            rows["event_type"].append("view")
            rows["event_ts"].append(datetime(2025, 3, 1, tzinfo=UTC) + timedelta(hours=begin + step))
    pq.write_table(pa.table(rows), folder / "user_histories.parquet")
    items = [f"i{i:02d}" for i in range(20)]
    table = {
        "item_id": items,
        "title": items,
        "categories": pa.array([["c"]] * 20, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(table), folder / "dim_items.parquet")
    return write_snapshot(folder, None, None, folder / "snapshots")


def model_bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not path.name.startswith("result-")
    }


def test_train_leaves_models_results_and_certificates(snapshot: Path, tmp_path: Path) -> None:
    folder = train(snapshot, "transitions", tmp_path)
    assert folder.parent == tmp_path / "transitions"
    assert sorted(path.name for path in folder.iterdir()) == [
        "leave_one_out",
        "manifest.json",
        "ranks-leave_one_out.safetensors",
        "ranks-temporal.safetensors",
        "result-leave_one_out.json",
        "result-temporal.json",
        "temporal",
    ]
    told = json.loads((folder / "result-leave_one_out.json").read_text())
    assert (told["protocol"], told["recipe"], told["seed"]) == ("leave_one_out", "transitions", 0)
    assert told["metrics"]["ndcg@10"] > 0.9
    assert set(told["metrics"]) == set(told["validation"])
    assert told["slices"]["history=1-4"]["queries"] > 0
    assert set(told["provenance"]) == {
        "data_hash",
        "recipe_hash",
        "code",
        "versions",
        "machine",
        "device",
        "seconds",
        "cpu_seconds",
        "peak_memory_mb",
        "date",
    }
    manifest = read_manifest(folder, training.TRAINING_KIND)
    assert manifest.metrics["protocols"] == ["leave_one_out", "temporal"]
    assert manifest.inputs == {"snapshot": snapshot.name}
    result = read_result(folder, "leave_one_out")
    assert len(result.test.ranks) == told["checks"]["queries"]
    catalogue = load_snapshot(snapshot).catalogue
    assert load_recommender(folder / "temporal", catalogue).kind == "transitions"


def test_complete_protocols_are_reused(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(snapshot, "popularity", tmp_path, protocols=["temporal"])
    stamp = (folder / "temporal" / "manifest.json").stat().st_mtime_ns
    trained = []
    real = training._train_one
    monkeypatch.setattr(training, "_train_one", lambda *a: (trained.append(a[3]), real(*a)))
    assert train(snapshot, "popularity", tmp_path) == folder
    assert trained == ["leave_one_out"]
    assert (folder / "temporal" / "manifest.json").stat().st_mtime_ns == stamp
    before = model_bytes(folder)
    train(snapshot, "popularity", tmp_path)
    assert trained == ["leave_one_out"]
    # A run killed after the results but before the model is taken up where it stopped.
    for path in (folder / "temporal").iterdir():
        path.unlink()
    (folder / "temporal").rmdir()
    train(snapshot, "popularity", tmp_path)
    assert trained == ["leave_one_out", "temporal"]
    assert model_bytes(folder) == before
    # One whose manifest is damaged is trained again; that of the whole is written again.
    (folder / "temporal" / "manifest.json").write_text("{")
    (folder / "manifest.json").write_text("[]")
    train(snapshot, "popularity", tmp_path)
    assert trained == ["leave_one_out", "temporal", "temporal"]
    assert model_bytes(folder) == before
    assert read_manifest(folder).metrics["protocols"] == ["leave_one_out", "temporal"]
    assert train(snapshot, "popularity", tmp_path, seed=1) != folder


def test_full_trains_on_everything_as_long_as_temporal_found_best(snapshot: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(SASREC)
    folder = train(snapshot, recipe, tmp_path / "a", protocols=["full"], threads=1)
    assert not (folder / "result-full.json").exists()
    found = read_result(folder, "temporal").fit["epochs"]
    full = read_manifest(folder / "full", training.MODEL_KIND)
    assert full.recipe["epochs"] == found
    assert len(full.metrics["fit"]["losses"]) == found
    assert full.metrics["fit"]["valid_ndcg@10"] == {}
    again = train(snapshot, recipe, tmp_path / "b", protocols=["temporal", "full"], threads=1)
    assert again.name == folder.name
    assert model_bytes(again) == model_bytes(folder)


def test_cold_items_are_asked_for_without_codes_that_know_them(snapshot: Path, tmp_path: Path) -> None:
    marts, n = snapshot.parents[1], 20
    angles = np.arange(n) * 2 * np.pi / n
    folders = {}
    for name, tensors in (
        ("text", {"vectors": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)}),
        ("ids", {"codes": np.arange(n, dtype=np.int32)[:, None]}),
    ):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        items = pa.table({"item_id": [f"i{i:02d}" for i in range(n)]})
        pq.write_table(items, folders[name] / "items.parquet")
        save_file(tensors, folders[name] / f"{next(iter(tensors))}.safetensors")
    write_manifest(folders["text"], Manifest(kind="vectors", version="t", recipe={"sees_behaviour": False}))
    recipe = tmp_path / "near.yaml"
    recipe.write_text("title: Near\nrecommender: {kind: transitions, similarity: 1.0, popularity: 0.0}\n")

    def cut(reads: list[str]) -> Path:
        told = {"code_sizes": [n], "tokenizer": "t", "reads": reads}
        write_manifest(folders["ids"], Manifest(kind="semantic_ids", version="v", recipe=told))
        return write_snapshot(marts, folders["ids"], None, tmp_path / "snapshots", folders["text"])

    knowing = cut(["fused"])
    told = read_result(train(knowing, recipe, tmp_path, protocols=["cold_items"]), "cold_items")
    assert told.test.checks["queries"] > 0
    # One of twenty items is held out; on a ring its text is next to what came before it.
    assert told.test.slices["item=cold"].all()
    assert told.test.metrics["recall@5"] == 1.0
    with pytest.raises(ArtifactError, match=r"semantic ID \(those of the snapshot were made with"):
        train(knowing, "tiger", tmp_path, protocols=["cold_items"])
    # IDs of text alone are let through, and the model is told which item nobody met: it may put it first, or nowhere.
    free = cut(["text"])
    for offset, recall in (("1000", 1.0), ("null", 0.0)):
        recipe.write_text(GENERATIVE.format(offset=offset))
        told = read_result(train(free, recipe, tmp_path, protocols=["cold_items"]), "cold_items")
        assert told.test.metrics["recall@5"] == recall


def test_history_may_be_asked_for(snapshot: Path, tmp_path: Path) -> None:
    common = ["--snapshot", str(snapshot), "--out", str(tmp_path), "--recipe", "popularity"]
    for switch in ([], ["--with-history"]):
        assert main([*common, "--protocol", "temporal", *switch]) == 0
    found = [read_json(path)["exclude_history"] for path in tmp_path.rglob("result-temporal.json")]
    assert sorted(found) == [False, True]


def test_results_can_be_put_to_the_gates(snapshot: Path, tmp_path: Path) -> None:
    results = {
        name: read_result(train(snapshot, name, tmp_path, protocols=["temporal"]), "temporal")
        for name in ("popularity", "transitions")
    }
    verdict = choose_champion(results)
    assert verdict.champion == "transitions"
    assert all(gate.passed for gate in verdict.gates)


def test_command_line(snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--snapshot", str(snapshot), "--out", str(tmp_path), "--threads", "1"]
    assert main([*common, "--recipe", "popularity", "--protocol", "leave_one_out"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "result-leave_one_out.json").is_file()
    assert main([*common, "--recipe", "magic"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown recipe 'magic'; known: als, ")
    assert main(["--snapshot", str(tmp_path), "--out", str(tmp_path), "--recipe", "popularity"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "manifest.json does not exist" in said
    with pytest.raises(SystemExit) as stopped:
        main([*common, "--recipe", "popularity", "--protocol", "both"])
    assert stopped.value.code == 2


def test_data_that_cannot_be_learned_from_is_a_users_mistake(tmp_path: Path) -> None:
    histories = {
        "user_id": ["a", "b"],
        "position": [1, 1],
        "item_id": ["x", "x"],
        "event_type": ["view"] * 2,
        "event_ts": [datetime(2025, 3, 1, tzinfo=UTC)] * 2,
    }
    pq.write_table(pa.table(histories), tmp_path / "user_histories.parquet")
    table = {"item_id": ["x"], "title": ["X"], "categories": pa.array([[]], pa.list_(pa.string()))}
    pq.write_table(pa.table(table), tmp_path / "dim_items.parquet")
    folder = write_snapshot(tmp_path, None, None, tmp_path / "snapshots")
    with pytest.raises(
        ArtifactError, match=r"cannot train sasrec \(leave_one_out\): no training history has two"
    ):
        train(folder, "sasrec", tmp_path / "models")
    # Counting needs no pair.
    told = read_result(train(folder, "transitions", tmp_path / "models"), "temporal")
    assert told.test.checks["queries"] == 0
    with pytest.raises(ValueError, match="unknown protocol 'both'"):
        train(folder, "transitions", tmp_path / "models", protocols=["both"])
