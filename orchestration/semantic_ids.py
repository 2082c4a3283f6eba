"""Fused vectors to semantic IDs, without Dagster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import ArtifactError, current, read_json, read_manifest, write_bytes, write_text
from ml.evaluation.splits import training_mask
from ml.histories import read_histories
from ml.tokenizers.items import ItemData, first_seen
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer, load_semantic_ids, make_live
from ml.tokenizers.recipes import load_tokenizer_recipe
from ml.vectors.behaviour import transition_counts
from ml.vectors.store import aligned, load_vectors
from orchestration.quality.report import QualityReport
from orchestration.quality.semantic_ids import check_report
from orchestration.quality.thresholds import load_thresholds
from orchestration.semantic_id_page import page
from orchestration.settings import Settings

PAGE = "report.html"
CODE_SIZE = 256
# A codebook larger than a fraction of the catalogue gives items a code of their own, which says nothing.
_ITEMS_PER_CODE = 4


def code_size(n_items: int) -> int:
    """Return 256, or for a small catalogue the largest power of two that leaves four items a code."""
    room = max(n_items // _ITEMS_PER_CODE, 2)
    return min(CODE_SIZE, 1 << (room.bit_length() - 1))


@dataclass(frozen=True)
class Judged:
    """Something made, and whether it was found good enough to go live.

    Parameters
    ----------
    folder
        The version: of the tokenizer, or of semantic IDs.
    ids
        The version of semantic IDs that it was judged by.
    report
        Its figures.
    verdict
        How they stand to their bounds; with an error, what stood before is still live.
    """

    folder: Path
    ids: Path
    report: dict[str, Any]
    verdict: QualityReport


def fit(settings: Settings) -> Judged:
    """Fit the tokenizer that the settings name to the catalogue; live if the IDs that it gives pass."""
    items = read_items(settings)
    recipe = load_tokenizer_recipe(settings.tokenizer)
    params = recipe.params
    if "code_size" in params:
        known = int(items.known(params.get("input", "fused")).sum())
        params["code_size"] = min(params["code_size"], code_size(known))
    start = _live(settings.tokenizers) if settings.warm_start else None
    folder = fit_tokenizer(
        items, recipe.kind, params, settings.seed, _inputs(settings), settings.tokenizers, start
    )
    judged = _judge(settings, folder, items)
    if judged.verdict.passed:
        make_live(folder)
    return replace(judged, folder=folder)


def assign(settings: Settings) -> Judged:
    """Give every item of the catalogue an ID by the live tokenizer, old ones kept; live if they pass."""
    judged = _judge(settings, current(settings.tokenizers), read_items(settings))
    if judged.verdict.passed:
        make_live(judged.folder)
    return judged


def _judge(settings: Settings, tokenizer: Path, items: ItemData) -> Judged:
    """Publish the IDs that a tokenizer gives, hold their report against its bounds, and write its page."""
    live = _live(settings.semantic_ids)
    ids = assign_semantic_ids(tokenizer, items, live, settings.semantic_ids, _inputs(settings))
    report = read_json(ids / "report.json")
    limits = load_thresholds(settings.quality_thresholds).semantic_ids
    verdict = check_report(report, limits, settings.quality, f"{settings.now().date()}_{ids.name}")
    made = read_manifest(tokenizer)
    told = {
        "tokenizer": made.version,
        "kind": made.recipe["kind"],
        **made.recipe["params"],
        "seed": made.seed,
    }
    told["warm_start"] = made.recipe.get("start")
    codes = load_semantic_ids(ids).codes[:, :-1]
    write_text(ids / PAGE, page(report, codes, f"Semantic IDs {ids.name}", told, verdict))
    return Judged(ids, ids, report, verdict)


def _inputs(settings: Settings) -> dict[str, str]:
    return {"vectors": read_manifest(current(settings.vectors / "fused")).version}


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
