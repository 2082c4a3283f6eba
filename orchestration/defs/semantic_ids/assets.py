"""Vectors to semantic IDs."""

from __future__ import annotations

import dagster as dg

from ml.artifacts import current, read_manifest
from ml.tokenizers.lifecycle import load_semantic_ids
from orchestration.defs.features.assets import FEAST_POOL, online_features
from orchestration.defs.vectors.assets import item_fused_vectors
from orchestration.failures import RETRY, one_line_failures
from orchestration.metadata import picture, table
from orchestration.quality_checks import EXPECTATIONS, check_semantic_ids
from orchestration.semantic_id_page import plots
from orchestration.semantic_ids import PAGE, assign, fit, write_feature_rows
from orchestration.settings import get_settings
from serving.materialize import materialize


@dg.asset(
    group_name="semantic_ids",
    kinds={"torch"},
    deps=[item_fused_vectors],
    retry_policy=RETRY,
    check_specs=[dg.AssetCheckSpec(EXPECTATIONS, asset="tokenizer", blocking=True)],
)
def tokenizer() -> dg.MaterializeResult:
    """Codebooks fitted to the item vectors; live, and frozen until the next retrain, if what they give passes."""
    settings = get_settings()
    with one_line_failures():
        judged = fit(settings)
    manifest = read_manifest(judged.folder)
    return dg.MaterializeResult(
        metadata={
            "version": manifest.version,
            "recipe": manifest.recipe,
            "metrics": manifest.metrics,
            "churn": judged.report["churn"],
            "report_page": dg.MetadataValue.path(str(judged.ids / PAGE)),
            "path": dg.MetadataValue.path(str(judged.folder)),
        },
        check_results=[check_semantic_ids(judged.verdict, "tokenizer")],
        data_version=dg.DataVersion(manifest.version),
    )


@dg.asset(
    group_name="semantic_ids",
    kinds={"numpy"},
    deps=[item_fused_vectors, tokenizer],
    retry_policy=RETRY,
    check_specs=[dg.AssetCheckSpec(EXPECTATIONS, asset="semantic_ids", blocking=True)],
)
def semantic_ids() -> dg.MaterializeResult:
    """A semantic ID for every item: old ones keep theirs, new ones are encoded by the frozen codebooks."""
    settings = get_settings()
    with one_line_failures():
        judged = assign(settings)
        if judged.verdict.passed:
            write_feature_rows(settings, judged.folder)
    report, folder = judged.report, judged.folder
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report["full_ids"]["items"],
            "before_deduplication": report["uniqueness"],
            "levels": table(report["levels"]),
            "plots": picture(plots(report, load_semantic_ids(folder).codes[:, :-1]), "Semantic IDs"),
            "report": report,
            "report_page": dg.MetadataValue.path(str(folder / PAGE)),
            "version": folder.name,
            "path": dg.MetadataValue.path(str(folder)),
        },
        check_results=[check_semantic_ids(judged.verdict, "semantic_ids")],
        data_version=dg.DataVersion(folder.name),
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
