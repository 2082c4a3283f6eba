"""Fused vectors to semantic IDs, without Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml.artifacts import ArtifactError, current, read_manifest, write_bytes
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer
from ml.vectors.fused import load_vectors
from orchestration.settings import Settings

CODE_SIZE = 256
# A codebook larger than a fraction of the catalogue gives items a code of their own, which says nothing.
_ITEMS_PER_CODE = 4


def code_size(n_items: int) -> int:
    """Return 256, or for a small catalogue the largest power of two that leaves four items a code."""
    room = max(n_items // _ITEMS_PER_CODE, 2)
    return min(CODE_SIZE, 1 << (room.bit_length() - 1))


def fit(settings: Settings) -> Path:
    """Fit the tokenizer that the settings name to the live fused vectors, and make it live."""
    folder = current(settings.vectors / "fused")
    _, vectors = load_vectors(folder)
    params = {"code_size": code_size(int((vectors != 0).any(axis=1).sum()))}
    inputs = {"vectors": read_manifest(folder).version}
    return fit_tokenizer(vectors, settings.tokenizer, params, settings.seed, inputs, settings.tokenizers)


def assign(settings: Settings) -> Path:
    """Give every item of the catalogue an ID by the live tokenizer, old ones kept, and make them live."""
    folder = current(settings.vectors / "fused")
    item_ids, vectors = load_vectors(folder)
    return assign_semantic_ids(
        current(settings.tokenizers),
        item_ids,
        vectors,
        _live(settings.semantic_ids),
        settings.semantic_ids,
        text=_space(settings, "text"),
        behaviour=_space(settings, "behaviour"),
        categories=_categories(settings.marts / "dim_items.parquet", item_ids),
        inputs={"vectors": read_manifest(folder).version},
    )


def write_feature_rows(settings: Settings, folder: Path) -> None:
    """Write the rows of the Feast view ``item_semantic_id``: each item's ID, known from the end of the logs on."""
    ids = pq.read_table(folder / "items.parquet", columns=["item_id", "semantic_id"])
    known = settings.now().replace(hour=0, minute=0, second=0, microsecond=0)
    stamp = pa.array([known] * len(ids), pa.timestamp("us", tz="UTC"))
    rows = ids.append_column("version", pa.array([folder.name] * len(ids), pa.string()))
    rows = rows.append_column("event_timestamp", stamp).append_column("created_timestamp", stamp)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    write_bytes(settings.home / "feast" / "item_semantic_id.parquet", sink.getvalue().to_pybytes())


def _live(versions: Path) -> Path | None:
    try:
        return current(versions)
    except ArtifactError:
        return None


def _space(settings: Settings, name: str) -> tuple[list[str], NDArray[np.float32]]:
    return load_vectors(current(settings.vectors / name))


def _categories(dim_items: Path, item_ids: list[str]) -> list[list[str]]:
    table = pq.read_table(dim_items, columns=["item_id", "categories"])
    found: dict[str, Any] = dict(
        zip(table["item_id"].to_pylist(), table["categories"].to_pylist(), strict=True)
    )
    return [found.get(item) or [] for item in item_ids]
