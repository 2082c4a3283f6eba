"""Vectors to semantic IDs."""

from __future__ import annotations

import dagster as dg

from ml.artifacts import current, read_json, read_manifest
from orchestration.defs.features.assets import FEAST_POOL, online_features
from orchestration.defs.vectors.assets import item_fused_vectors
from orchestration.failures import RETRY, one_line_failures
from orchestration.metadata import bar_plot, table
from orchestration.semantic_ids import assign, fit, write_feature_rows
from orchestration.settings import get_settings
from serving.materialize import materialize


@dg.asset(group_name="semantic_ids", kinds={"torch"}, deps=[item_fused_vectors], retry_policy=RETRY)
def tokenizer() -> dg.MaterializeResult:
    """Codebooks fitted to the item vectors; frozen until the next retrain."""
    settings = get_settings()
    with one_line_failures():
        folder = fit(settings)
    manifest = read_manifest(folder)
    return dg.MaterializeResult(
        metadata={
            "version": manifest.version,
            "recipe": manifest.recipe,
            "metrics": manifest.metrics,
            "path": dg.MetadataValue.path(str(folder)),
        },
        data_version=dg.DataVersion(manifest.version),
    )


@dg.asset(
    group_name="semantic_ids", kinds={"numpy"}, deps=[item_fused_vectors, tokenizer], retry_policy=RETRY
)
def semantic_ids() -> dg.MaterializeResult:
    """A semantic ID for every item: old ones keep theirs, new ones are encoded by the frozen codebooks."""
    settings = get_settings()
    with one_line_failures():
        folder = assign(settings)
        write_feature_rows(settings, folder)
    manifest, report = read_manifest(folder), read_json(folder / "report.json")
    levels = {f"level {n}": float(level["perplexity"]) for n, level in enumerate(report["levels"])}
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report["full_ids"]["items"],
            "before_deduplication": report["uniqueness"],
            "levels": table(report["levels"]),
            "perplexity": bar_plot(levels, "Codes in effective use, by level", "perplexity"),
            "report": report,
            "version": manifest.version,
            "path": dg.MetadataValue.path(str(folder)),
        },
        data_version=dg.DataVersion(manifest.version),
    )


@dg.asset(
    group_name="semantic_ids",
    kinds={"feast"},
    deps=[semantic_ids, online_features],
    pool=FEAST_POOL,
    retry_policy=RETRY,
)
def online_semantic_ids() -> dg.MaterializeResult:
    """Each item's semantic ID in the online store."""
    settings = get_settings()
    with one_line_failures():
        done = materialize(settings.home, settings.now())["item_semantic_id"]
    return dg.MaterializeResult(metadata={"dagster/row_count": done.rows, "rebuilt": done.rebuilt})


@dg.asset_check(asset=semantic_ids, blocking=True)
def ids_are_unique() -> dg.AssetCheckResult:
    """No two items share a de-duplicated semantic ID."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = pq.read_table(current(get_settings().semantic_ids) / "items.parquet", columns=["semantic_id"])[
        "semantic_id"
    ]
    distinct = pc.count_distinct(ids).as_py()
    return dg.AssetCheckResult(
        passed=distinct == len(ids), metadata={"items": len(ids), "distinct": distinct}
    )
