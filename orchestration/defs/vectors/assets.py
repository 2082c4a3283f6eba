"""Items to vectors."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from ml.artifacts import current, read_manifest
from ml.vectors.behaviour import update_behaviour_vectors
from ml.vectors.encoder import TuningParams, update_text_encoder
from ml.vectors.fused import update_fused_vectors
from ml.vectors.text import update_text_vectors
from orchestration.defs.warehouse.assets import marts
from orchestration.failures import RETRY, one_line_failures
from orchestration.settings import get_settings
from orchestration.vectors import anchors, encoder_in_use


@dg.asset(group_name="vectors", kinds={"sentence-transformers"}, deps=[marts], retry_policy=RETRY)
def text_encoder() -> dg.MaterializeResult:
    """A sentence encoder tuned to which items are met together, where that is switched on; frozen until the next retrain."""
    settings = get_settings()
    if not settings.tune_encoder:
        return dg.MaterializeResult(metadata={"tuned": False, "encoder": settings.encoder})
    with one_line_failures():
        folder = update_text_encoder(
            settings.marts,
            settings.encoders,
            settings.encoder,
            TuningParams(precision=settings.encoder_precision),
            seed=settings.seed,
            prompt=settings.encoder_prompt,
        )
    return _result(folder, "texts")


@dg.asset(
    group_name="vectors", kinds={"sentence-transformers"}, deps=[marts, text_encoder], retry_policy=RETRY
)
def item_text_vectors() -> dg.MaterializeResult:
    """Item text through a sentence encoder; only new and changed items are encoded."""
    settings = get_settings()
    with one_line_failures():
        folder = update_text_vectors(
            settings.marts / "dim_items.parquet",
            settings.vectors / "text",
            encoder_in_use(settings),
            settings.encoder_precision,
            settings.encoder_prompt,
        )
    return _result(folder)


@dg.asset(group_name="vectors", kinds={"scipy"}, deps=[marts], retry_policy=RETRY)
def item_behaviour_vectors() -> dg.MaterializeResult:
    """What training events say about items: transitions factorised, or learned by ALS or SASRec."""
    settings = get_settings()
    with one_line_failures():
        folder = update_behaviour_vectors(
            settings.marts,
            settings.vectors / "behaviour",
            seed=settings.seed,
            method=settings.behaviour,
            anchor=anchors(settings).get("behaviour"),
        )
    return _result(folder)


@dg.asset(
    group_name="vectors",
    kinds={"numpy"},
    deps=[item_text_vectors, item_behaviour_vectors],
    retry_policy=RETRY,
)
def item_fused_vectors() -> dg.MaterializeResult:
    """Text and behaviour as one, each having the same say: what semantic IDs are made from."""
    settings = get_settings()
    with one_line_failures():
        sources = {name: current(settings.vectors / name) for name in ("behaviour", "text")}
        folder = update_fused_vectors(
            settings.marts / "dim_items.parquet",
            sources,
            settings.vectors / "fused",
            settings.fusion,
            settings.fusion_width,
            anchors(settings).get("fused"),
        )
    return _result(folder)


def _result(folder: Path, counted: str = "rows") -> dg.MaterializeResult:
    manifest = read_manifest(folder)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": manifest.metrics[counted],
            "version": manifest.version,
            "recipe": manifest.recipe,
            "metrics": manifest.metrics,
            "path": dg.MetadataValue.path(str(folder)),
        },
        data_version=dg.DataVersion(manifest.version),
    )
