"""The checks at the borders, as Dagster asset checks: what enters the lake, and what features are served from.

A broken error fails its check and stops what comes after. Broken warnings alone fail it too, at severity WARN, which
Dagster shows and lets pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from orchestration.metadata import table
from orchestration.quality.checks import Checker
from orchestration.quality.failed import FOLDER
from orchestration.quality.mart_suites import MART_SUITES
from orchestration.quality.profiles import Engine
from orchestration.quality.report import QualityReport
from orchestration.quality.thresholds import load_thresholds
from orchestration.settings import Settings

CONTRACT = "contract"
HISTORY = "volume_and_drift"
FEATURE_HISTORY = "feature_volume_and_drift"
REFERENCES = "references"
EXPECTATIONS = "expectations"


def specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset of the lake; what level stops is for the thresholds to say."""
    return [dg.AssetCheckSpec(name, asset=asset, blocking=True) for name in (CONTRACT, HISTORY)]


def check_events(settings: Settings, days: Sequence[str]) -> list[dg.AssetCheckResult]:
    """Hold lake days against the events suite, and each against the weeks before it."""
    checker = _checker(settings)
    return [
        _result([checker.events(settings.lake, days)], CONTRACT, "raw_events", "no rows"),
        _result([checker.events_history(settings.lake, days)], HISTORY, "raw_events", "no rows"),
    ]


def check_items(settings: Settings) -> list[dg.AssetCheckResult]:
    """Hold the catalogue against the items suite, and against the version before it."""
    checker = _checker(settings)
    return [
        _result([checker.items(settings.lake)], CONTRACT, "raw_items"),
        _result([checker.items_history(settings.lake)], HISTORY, "raw_items"),
    ]


def check_mart(settings: Settings, name: str) -> dg.AssetCheckResult:
    """Hold what has changed of a feature mart against its suite."""
    report = _checker(settings).mart(settings.marts, name)
    return _result([report], name, "marts", "every part is as it was when it passed")


def check_features(settings: Settings) -> dg.AssetCheckResult:
    """Hold the newest day of every feature mart against the weeks before it."""
    checker = _checker(settings)
    reports = [checker.feature_history(settings.marts, name) for name in MART_SUITES]
    return _result(reports, FEATURE_HISTORY, "marts", "no features")


def check_references(settings: Settings) -> dg.AssetCheckResult:
    """Look for events of unknown items, and for items without events."""
    reports = _checker(settings).references(settings.marts)
    return _result(reports, REFERENCES, "marts", "the source has no catalogue")


def check_semantic_ids(verdict: QualityReport, asset: str) -> dg.AssetCheckResult:
    """Tell the verdict on semantic IDs, or on the tokenizer that gave them."""
    return _result([verdict], EXPECTATIONS, asset)


def _checker(settings: Settings) -> Checker:
    return Checker(
        settings.quality,
        load_thresholds(settings.quality_thresholds),
        Engine(settings.duckdb_memory, settings.duckdb_threads),
        settings.quality_failed_rows,
    )


def _result(
    found: Sequence[QualityReport | None], check: str, asset: str, nothing: str = ""
) -> dg.AssetCheckResult:
    """Return verdicts as one result; ``nothing`` says why there is none."""
    reports = [report for report in found if report is not None]
    if not reports:
        return dg.AssetCheckResult(check_name=check, asset_key=asset, passed=True, description=nothing)
    broken = [
        {
            "suite": report.suite,
            "promise": f.rule,
            "severity": f.severity,
            "found": str(f),
            "rows": f.rows or "",
        }
        for report in reports
        for f in report.failures
    ]
    skipped = [f"{report.suite}: {told}" for report in reports for told in report.skipped]
    docs = reports[0].docs.parent.parent
    metadata: dict[str, dg.MetadataValue | int] = {
        "rows": sum(report.rows for report in reports),
        "rows_checked": sum(report.rows_checked for report in reports),
        "promises": sum(report.rules for report in reports),
        "broken": table(broken),
        "skipped": table([{"not compared": told} for told in skipped]),
        "data_docs": dg.MetadataValue.path(
            str(reports[0].docs.resolve() if len(reports) == 1 else (docs / "index.html").resolve())
        ),
    }
    if any(failure["rows"] for failure in broken):
        metadata["failing_rows"] = dg.MetadataValue.path(str((docs / FOLDER).resolve()))
    errors = any(report.errors for report in reports)
    return dg.AssetCheckResult(
        check_name=check,
        asset_key=asset,
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR if errors else dg.AssetCheckSeverity.WARN,
        description=" · ".join(report.summary for report in reports),
        metadata=metadata,
    )
