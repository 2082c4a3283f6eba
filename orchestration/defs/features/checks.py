"""Great Expectations on the feature marts before they are served; what is online against the marts after."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from orchestration.defs.features.assets import FEAST_POOL, online_features
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
from serving.parity import check_parity

_NAMED = 5


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


@dg.asset_check(asset=online_features, pool=FEAST_POOL)
def online_equals_offline() -> dg.AssetCheckResult:
    """Of a sample of entities of each view, every online value against the latest row of the mart, under the TTL.

    A view of which nothing is online though its mart has rows fails too: as an error where they lie in the future, so
    that the clock is wrong or was, as a warning where all are older than the TTL.
    """
    settings = get_settings()
    with one_line_failures():
        found = check_parity(settings.home, settings.parity_sample, settings.seed)
    differences = [told for view in found.values() for told in view.differences]
    unserved = {name: view for name, view in found.items() if view.unserved}
    told = differences[:_NAMED] + [
        f"nothing of {name} is online: its newest row is of {view.unserved}, served are {view.start} to {view.end}"
        for name, view in unserved.items()
    ]
    ahead = any(view.unserved and view.unserved > view.end for view in unserved.values())
    only_old = unserved and not ahead and not differences
    return dg.AssetCheckResult(
        passed=not told,
        severity=dg.AssetCheckSeverity.WARN if only_old else dg.AssetCheckSeverity.ERROR,
        description="; ".join(told) or "every sampled value is the mart's",
        metadata={
            "differences": len(differences),
            "entities": {name: view.checked for name, view in found.items()},
            "pushed_since": sum(view.pushed for view in found.values()),
        },
    )
