"""The checks at the two borders, as Dagster asset checks: what enters the lake, and what features are served from."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from orchestration.metadata import table
from orchestration.quality.suites import MART_SUITES, events_suite, items_suite
from orchestration.quality.validate import QualityReport, validate
from orchestration.settings import Settings

CHECK = "great_expectations"


def check_events(settings: Settings, days: Sequence[str]) -> dg.AssetCheckResult:
    """Hold lake days against the events suite, all in one verdict."""
    files = [settings.lake / "events" / f"day={day}" / "events.parquet" for day in sorted(days)]
    files = [file for file in files if file.is_file()]
    if not files:
        return dg.AssetCheckResult(
            check_name=CHECK, asset_key="raw_events", passed=True, description="no rows"
        )
    first, last = (file.parent.name.removeprefix("day=") for file in (files[0], files[-1]))
    batch = first if first == last else f"{first}_{last}"
    return _result(validate(files, events_suite(), settings.quality, batch), CHECK, "raw_events")


def check_items(settings: Settings) -> dg.AssetCheckResult:
    """Hold the catalogue against the items suite."""
    report = validate(settings.lake / "items" / "items.parquet", items_suite(), settings.quality)
    return _result(report, CHECK, "raw_items")


def check_mart(settings: Settings, name: str) -> dg.AssetCheckResult:
    """Hold a feature mart against its suite."""
    return _result(
        validate(sorted((settings.marts / name).glob("*.parquet")), MART_SUITES[name], settings.quality),
        name,
        "marts",
    )


def _result(report: QualityReport, check: str, asset: str) -> dg.AssetCheckResult:
    """Broken errors fail the check; broken warnings are told, and pass."""
    broken = [{"promise": f.rule, "severity": f.severity, "found": str(f)} for f in report.failures]
    return dg.AssetCheckResult(
        check_name=check,
        asset_key=asset,
        passed=report.passed,
        description=report.summary,
        metadata={
            "rows": report.rows,
            "rows_checked": report.rows_checked,
            "promises": report.rules,
            "broken": table(broken),
            "data_docs": dg.MetadataValue.path(str(report.docs.resolve())),
        },
    )
