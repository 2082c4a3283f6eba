"""Items to vectors."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from ml.artifacts import read_manifest
from ml.vectors.behaviour import update_behaviour_vectors
from ml.vectors.fused import update_fused_vectors
from ml.vectors.text import update_text_vectors
from orchestration.defs.warehouse.assets import marts
from orchestration.failures import RETRY, one_line_failures
from orchestration.settings import get_settings


@dg.asset(group_name="vectors", kinds={"sentence-transformers"}, deps=[marts], retry_policy=RETRY)
def item_text_vectors() -> dg.MaterializeResult:
    """Item text through a sentence encoder; only new and changed items are encoded."""
    settings = get_settings()
    with one_line_failures():
        folder = update_text_vectors(
            settings.marts / "dim_items.parquet", settings.vectors / "text", settings.encoder
        )
    return _result(folder)


@dg.asset(group_name="vectors", kinds={"scipy"}, deps=[marts], retry_policy=RETRY)
def item_behaviour_vectors() -> dg.MaterializeResult:
    """Item transitions, counted on training events only, factorised."""
    settings = get_settings()
    with one_line_failures():
        folder = update_behaviour_vectors(settings.marts, settings.vectors / "behaviour", seed=settings.seed)
    return _result(folder)


@dg.asset(
    group_name="vectors",
    kinds={"numpy"},
    deps=[item_text_vectors, item_behaviour_vectors],
    retry_policy=RETRY,
)
def item_fused_vectors() -> dg.MaterializeResult:
    """Text and behaviour side by side, each standardised: what semantic IDs are made from."""
    from ml.artifacts import current

    settings = get_settings()
    with one_line_failures():
        sources = {name: current(settings.vectors / name) for name in ("behaviour", "text")}
        folder = update_fused_vectors(
            settings.marts / "dim_items.parquet", sources, settings.vectors / "fused"
        )
    return _result(folder)


def _result(folder: Path) -> dg.MaterializeResult:
    manifest = read_manifest(folder)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": manifest.metrics["rows"],
            "version": manifest.version,
            "recipe": manifest.recipe,
            "metrics": manifest.metrics,
            "path": dg.MetadataValue.path(str(folder)),
        },
        data_version=dg.DataVersion(manifest.version),
    )
