"""Items that land after the champion's snapshot are published beside it, and the service takes them in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import Manifest, read_manifest, write_json
from ml.snapshot import load_snapshot, write_snapshot
from ml.vectors.store import save_vectors
from orchestration.newcomers import publish_newcomers
from orchestration.settings import Settings
from serving.items import load_facts
from serving.newcomers import with_newcomers

BORN = datetime(2025, 1, 1, tzinfo=UTC)


def marts(settings: Settings, items: list[str]) -> None:
    settings.marts.mkdir(exist_ok=True)
    days = [BORN.replace(day=1 + n) for n in range(len(items))]
    utc = pa.timestamp("us", tz="UTC")
    pq.write_table(
        pa.table(
            {
                "item_id": items,
                "title": [f"Tea {item}" for item in items],
                "categories": [["tea"]] * len(items),
                "valid_from": pa.array([None] * len(items), utc),
                "first_event_ts": pa.array(days, utc),
            }
        ),
        settings.marts / "dim_items.parquet",
    )
    histories = {
        "user_id": ["u"],
        "position": [1],
        "item_id": ["a"],
        "event_type": ["view"],
        "event_ts": pa.array([BORN], utc),
    }
    pq.write_table(pa.table(histories), settings.marts / "user_histories.parquet")


def vectors(settings: Settings, night: str, items: list[str], **recipe: str) -> dict[str, Path]:
    told = {"encoder": "e", "width": 3, "fusion": "concatenate"} | recipe
    return {
        name: save_vectors(
            settings.vectors / name,
            Manifest(kind="vectors", version=f"{name}-{night}", recipe=told),
            items,
            np.array([[len(item), ord(item[0]), 1] for item in items], np.float32),
        )
        for name in ("text", "fused")
    }


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    marts(settings, ["a", "c"])
    made = vectors(settings, "one", ["a", "c"])
    snapshot = write_snapshot(settings.marts, None, made["fused"], settings.snapshots, made["text"])
    write_json(
        settings.evaluation / "champion.json",
        {"recipe": "r", "model": "models/m", "snapshot": f"snapshots/{snapshot.name}"},
    )
    return settings


def snapshot_of(settings: Settings) -> Path:
    return next(settings.snapshots.glob("[!.]*"))


def test_new_items_with_a_vector_stand_behind_the_catalogue(settings: Settings) -> None:
    marts(settings, ["a", "b", "c", "d"])
    vectors(settings, "two", ["a", "b", "c"])
    folder, count = publish_newcomers(settings)
    assert count == 1
    assert read_manifest(folder).metrics == {"items": 1, "without_vector": 1}
    stored = pq.read_table(folder / "items.parquet").to_pylist()
    assert stored == [
        {"item_id": "b", "title": "Tea b", "categories": ["tea"], "first_seen": BORN.replace(day=2)}
    ]
    catalogue, version = with_newcomers(settings.home, load_snapshot(snapshot_of(settings)))
    assert version == f"newcomers/{folder.name}"
    assert (catalogue.item_ids, catalogue.titles[-1]) == (["a", "c", "b"], "Tea b")
    assert catalogue.vectors.tolist() == catalogue.text.tolist() == [[1, 97, 1], [1, 99, 1], [1, 98, 1]]
    # "c" is told of last, in the mart as it is on that night.
    assert load_facts(settings.home, catalogue).latest == [1, 2, 0]
    assert publish_newcomers(settings) == (folder, count)
    (folder / "manifest.json").write_text("{")
    assert publish_newcomers(settings) == (folder, count)


def test_nobody_new_changes_nothing(settings: Settings) -> None:
    assert publish_newcomers(settings)[1] == 0
    snapshot = load_snapshot(snapshot_of(settings))
    assert with_newcomers(settings.home, snapshot) == (snapshot.catalogue, None)


def test_vectors_of_another_space_are_none(settings: Settings) -> None:
    marts(settings, ["a", "b", "c"])
    vectors(settings, "two", ["a", "b", "c"], encoder="other")
    publish_newcomers(settings)
    catalogue, _ = with_newcomers(settings.home, load_snapshot(snapshot_of(settings)))
    assert catalogue.text[2].tolist() == [0, 0, 0]
    assert catalogue.vectors[2].tolist() == [1, 98, 1]


def test_newcomers_of_another_snapshot_or_damaged_ones_are_passed_over(settings: Settings) -> None:
    marts(settings, ["a", "b", "c"])
    made = vectors(settings, "two", ["a", "b", "c"])
    folder, _ = publish_newcomers(settings)
    old = load_snapshot(snapshot_of(settings))
    new = write_snapshot(settings.marts, None, made["fused"], settings.snapshots, made["text"])
    assert with_newcomers(settings.home, load_snapshot(new))[1] is None
    assert len(with_newcomers(settings.home, old)[0]) == 3
    (folder / "vectors.safetensors").write_bytes(b"damaged")
    assert with_newcomers(settings.home, old) == (old.catalogue, None)


def test_only_the_live_version_is_kept(settings: Settings) -> None:
    first, _ = publish_newcomers(settings)
    marts(settings, ["a", "b", "c"])
    second, _ = publish_newcomers(settings)
    assert first != second
    assert [path.name for path in settings.newcomers.glob("[!.]*/")] == [second.name]
