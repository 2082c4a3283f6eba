"""Fused vectors to semantic IDs, without Dagster."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import ArtifactError, current, read_manifest, write_bytes
from ml.evaluation.splits import training_mask
from ml.histories import read_histories
from ml.recipes import load_tokenizer_recipe
from ml.tokenizers.items import ItemData, first_seen
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer
from ml.vectors.behaviour import transition_counts
from ml.vectors.store import aligned, load_vectors
from orchestration.settings import Settings

CODE_SIZE = 256
# A codebook larger than a fraction of the catalogue gives items a code of their own, which says nothing.
_ITEMS_PER_CODE = 4


def code_size(n_items: int) -> int:
    """Return 256, or for a small catalogue the largest power of two that leaves four items a code."""
    room = max(n_items // _ITEMS_PER_CODE, 2)
    return min(CODE_SIZE, 1 << (room.bit_length() - 1))


def fit(settings: Settings) -> Path:
    """Fit the tokenizer that the settings name to the catalogue, and make it live."""
    items = read_items(settings)
    recipe = load_tokenizer_recipe(settings.tokenizer)
    params = recipe.params
    if "code_size" in params:
        known = int(items.known(params.get("input", "fused")).sum())
        params["code_size"] = min(params["code_size"], code_size(known))
    inputs = {"vectors": read_manifest(current(settings.vectors / "fused")).version}
    return fit_tokenizer(items, recipe.kind, params, settings.seed, inputs, settings.tokenizers)


def assign(settings: Settings) -> Path:
    """Give every item of the catalogue an ID by the live tokenizer, old ones kept, and make them live."""
    inputs = {"vectors": read_manifest(current(settings.vectors / "fused")).version}
    live = _live(settings.semantic_ids)
    return assign_semantic_ids(
        current(settings.tokenizers), read_items(settings), live, settings.semantic_ids, inputs
    )


def read_items(settings: Settings) -> ItemData:
    """Gather all that a tokenizer may know of the catalogue, in the order of the fused vectors."""
    item_ids, fused = load_vectors(current(settings.vectors / "fused"))
    spaces = {"fused": fused}
    for name in ("text", "behaviour"):
        ids, vectors = load_vectors(current(settings.vectors / name))
        spaces[name] = aligned(item_ids, ids, vectors)
    catalogue = pq.read_table(settings.marts / "dim_items.parquet", columns=["item_id", "categories"])
    categories = dict(zip(*catalogue.to_pydict().values(), strict=True))
    _, histories, _ = read_histories(settings.marts / "user_histories.parquet", item_ids)
    mask = training_mask(histories)
    return ItemData(
        item_ids,
        spaces,
        [categories.get(item) or [] for item in item_ids],
        transition_counts(histories, mask, len(item_ids)),
        first_seen(histories.items[mask], len(item_ids)),
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
