"""Great Expectations on the feature marts, before they are served."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from orchestration.defs.warehouse.assets import marts
from orchestration.failures import one_line_failures
from orchestration.quality import MART_SUITES
from orchestration.quality_checks import (
    FEATURE_HISTORY,
    REFERENCES,
    check_features,
    check_mart,
    check_references,
)
from orchestration.settings import get_settings


@dg.multi_asset_check(
    name="feature_mart_checks",
    specs=[
        dg.AssetCheckSpec(name, asset=marts, blocking=True)
        for name in (*MART_SUITES, FEATURE_HISTORY, REFERENCES)
    ],
)
def feature_mart_checks() -> Iterator[dg.AssetCheckResult]:
    """Suites of the feature marts, their newest day against the weeks before, and references between the marts."""
    with one_line_failures():
        for name in MART_SUITES:
            yield check_mart(get_settings(), name)
        yield check_features(get_settings())
        yield check_references(get_settings())
