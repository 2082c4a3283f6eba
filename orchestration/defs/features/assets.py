"""Marts to the feature store."""

from __future__ import annotations

from dataclasses import asdict

import dagster as dg

from orchestration.defs.warehouse.assets import marts
from orchestration.failures import RETRY, one_line_failures
from orchestration.metadata import table
from orchestration.settings import get_settings
from serving.feature_store import apply_definitions
from serving.materialize import materialize

# Feast rewrites its registry file whole: one writer at a time.
FEAST_POOL = "feast_registry"


@dg.asset(group_name="features", kinds={"feast"}, deps=[marts], pool=FEAST_POOL, retry_policy=RETRY)
def feature_definitions() -> dg.MaterializeResult:
    """Entities, feature views and services, applied to the Feast registry."""
    with one_line_failures():
        report = apply_definitions(get_settings().home)
    return dg.MaterializeResult(metadata=asdict(report))


@dg.asset(
    group_name="features", kinds={"feast"}, deps=[feature_definitions], pool=FEAST_POOL, retry_policy=RETRY
)
def online_features() -> dg.MaterializeResult:
    """The latest feature row of every entity, in the online store."""
    settings = get_settings()
    with one_line_failures():
        done = materialize(settings.home, settings.now())
    rows = [{"view": name} | asdict(view) for name, view in done.items()]
    return dg.MaterializeResult(
        metadata={"dagster/row_count": sum(view.rows for view in done.values()), "views": table(rows)}
    )
