"""The jobs, and the schedules that start them."""

from __future__ import annotations

import dagster as dg

# An encoder stays as it is between retrains: codes of two encoders' vectors do not compare.
INGEST = dg.AssetSelection.groups("ingest", "warehouse", "features", "vectors") - dg.AssetSelection.assets(
    "text_encoder"
)
NIGHTLY = (
    INGEST
    | dg.AssetSelection.assets("semantic_ids", "online_semantic_ids")
    | dg.AssetSelection.groups("index")
)
RETRAIN = dg.AssetSelection.groups("vectors", "semantic_ids", "models", "index")

backfill = dg.define_asset_job(
    "backfill",
    selection=INGEST,
    description="Logs to features and vectors, for any range of days; touches no model.",
)
nightly = dg.define_asset_job(
    "nightly",
    selection=NIGHTLY,
    description="A day of logs, and everything that is served refreshed for the live champion.",
)
retrain = dg.define_asset_job(
    "retrain",
    selection=RETRAIN,
    description="New semantic IDs and candidates; the gates decide which one serves.",
)
