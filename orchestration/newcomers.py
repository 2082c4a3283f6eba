"""Items that landed after the champion's snapshot, published beside it until the next retrain. No Dagster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ml.artifacts import (
    Manifest,
    current,
    hash_file,
    hash_json,
    is_complete,
    publish,
    read_manifest,
    set_current,
    write_manifest,
)
from ml.vectors.fused import load_vectors
from ml.vectors.store import places
from orchestration.models import read_decision
from orchestration.settings import Settings
from serving.items import born
from serving.newcomers import KIND

#: What the vectors of two versions must have in common to be compared, by name in their recipes.
_SPACE = {"text": ("encoder", "width"), "fused": ("fusion", "dim", "blocks", "width")}


def publish_newcomers(settings: Settings) -> tuple[Path, int]:
    """Publish the items of the mart that the champion's snapshot lacks and that have a vector.

    Returns
    -------
    folder, items
        ``newcomers/VERSION`` with ``items.parquet`` (``item_id, title, categories, first_seen``) and
        ``vectors.safetensors`` (``text`` and ``vectors``, float32 [items, width], zeros where unknown), and how many.

    Raises
    ------
    ArtifactError
        If there is no champion, or a part is missing.
    """
    snapshot = settings.home / read_decision(settings)["snapshot"]
    made = read_manifest(snapshot).recipe
    live = {name: current(settings.vectors / name) for name in _SPACE}
    mart = settings.marts / "dim_items.parquet"
    inputs = {"snapshot": snapshot.name, "dim_items": hash_file(mart)}
    inputs |= {name: folder.name for name, folder in live.items()}
    folder = settings.newcomers / hash_json([KIND, inputs])
    if not is_complete(folder):
        items = _new_items(mart, snapshot)
        before = {"text": made.get("text"), "fused": made.get("vectors")}
        vectors = {
            name: _rows(items["item_id"].to_pylist(), live[name], settings.vectors / name, before[name])
            for name in _SPACE
        }
        known = np.logical_or.reduce([rows.any(axis=1) for rows in vectors.values()])
        items = items.filter(pa.array(known))
        with publish(folder) as staging:
            pq.write_table(items, staging / "items.parquet", compression="zstd")
            kept = {"text": vectors["text"][known], "vectors": vectors["fused"][known]}
            save_file(kept, staging / "vectors.safetensors")
            metrics = {"items": len(items), "without_vector": int((~known).sum())}
            write_manifest(staging, Manifest(kind=KIND, version=folder.name, inputs=inputs, metrics=metrics))
    set_current(settings.newcomers, folder.name)
    for other in settings.newcomers.glob("[!.]*/"):
        # A service that is loading may still read the one before: it goes on without newcomers then.
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder, int(read_manifest(folder, KIND).metrics["items"])


def _new_items(mart: Path, snapshot: Path) -> pa.Table:
    known = pq.read_table(snapshot / "items.parquet", columns=["item_id"])["item_id"]
    wanted = ["item_id", "title", "categories", "first_event_ts", "valid_from"]
    stored = pq.read_schema(mart).names
    items = pq.read_table(mart, columns=[name for name in wanted if name in stored])
    items = items.filter(pc.invert(pc.is_in(items["item_id"], value_set=known.combine_chunks())))
    items = items.sort_by("item_id")
    return pa.table(
        {
            "item_id": items["item_id"].cast(pa.string()),
            "title": pc.fill_null(items["title"], "").cast(pa.string()),
            "categories": pa.array(
                [found or [] for found in items["categories"].to_pylist()], pa.list_(pa.string())
            ),
            "first_seen": born(items).cast(pa.timestamp("us", "UTC")),
        }
    )


def _rows(item_ids: list[str], live: Path, versions: Path, before: str | None) -> NDArray[np.float32]:
    """Return the live vectors of items, zeros where unknown; no columns where they lie in another space than before."""
    if before is None or not is_complete(versions / before):
        return np.zeros((len(item_ids), 0), np.float32)
    now, then = read_manifest(live).recipe, read_manifest(versions / before).recipe
    if not _comparable(now, then, versions.name):
        return np.zeros((len(item_ids), 0), np.float32)
    ids, vectors = load_vectors(live)
    place = places(item_ids, ids)
    rows = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
    rows[place >= 0] = vectors[place[place >= 0]]
    return rows


def _comparable(now: Mapping[str, object], then: Mapping[str, object], name: str) -> bool:
    return all(now.get(key) == then.get(key) for key in _SPACE[name])
