"""Great Expectations on the feature marts, before they are served."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from orchestration.defs.warehouse.assets import marts
from orchestration.failures import one_line_failures
from orchestration.quality.suites import MART_SUITES
from orchestration.quality_checks import check_mart
from orchestration.settings import get_settings


@dg.multi_asset_check(
    name="feature_mart_checks",
    specs=[dg.AssetCheckSpec(name, asset=marts, blocking=True) for name in MART_SUITES],
)
def feature_mart_checks() -> Iterator[dg.AssetCheckResult]:
    """One suite for each feature mart; the Data Docs are linked from the result."""
    with one_line_failures():
        for name in MART_SUITES:
            yield check_mart(get_settings(), name)
