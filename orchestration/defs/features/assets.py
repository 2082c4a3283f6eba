"""Marts to the feature store."""

from __future__ import annotations

import dagster as dg

from orchestration.defs.warehouse.assets import marts
from orchestration.failures import RETRY, one_line_failures
from orchestration.settings import get_settings

# Feast rewrites its registry file whole: one writer at a time.
FEAST_POOL = "feast_registry"


@dg.asset(group_name="features", kinds={"feast"}, deps=[marts], pool=FEAST_POOL, retry_policy=RETRY)
def feature_definitions() -> dg.MaterializeResult:
    """Entities, feature views and services, applied to the Feast registry."""
    from serving.feature_store import apply_definitions

    with one_line_failures():
        report = apply_definitions(get_settings().home)
    return dg.MaterializeResult(metadata=report.model_dump())


@dg.asset(
    group_name="features", kinds={"feast"}, deps=[feature_definitions], pool=FEAST_POOL, retry_policy=RETRY
)
def online_features() -> dg.MaterializeResult:
    """The latest feature row of every entity, in the online store."""
    from serving.feature_store import materialize

    settings = get_settings()
    with one_line_failures():
        rows = materialize(settings.home, settings.now())
    return dg.MaterializeResult(metadata={"dagster/row_count": sum(rows.values()), "rows": rows})
