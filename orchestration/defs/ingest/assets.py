"""Landing files to the lake."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import dagster as dg

from orchestration.dbt import source_metadata
from orchestration.failures import RETRY, one_line_failures
from orchestration.ingest.events import ingest_events
from orchestration.ingest.items import ingest_items
from orchestration.ingest.options import limits_of, options_of
from orchestration.ingest.report import COVERED, IngestReport
from orchestration.metadata import table
from orchestration.partitions import days_between, landing_partitions, source_spec
from orchestration.quality_checks import check_events, check_items, specs
from orchestration.settings import get_settings

SCHEMA_DRIFT = "schema_drift"
_LAGS_SHOWN = 60


@dg.asset(
    group_name="ingest",
    kinds={"duckdb", "parquet"},
    partitions_def=landing_partitions(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY,
    metadata=source_metadata("events"),
    check_specs=[*specs("raw_events"), dg.AssetCheckSpec(SCHEMA_DRIFT, asset="raw_events")],
)
def raw_events(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Interaction events, typed and checked, one folder a day of arrival; bad rows are in quarantine with a reason."""
    settings, window = get_settings(), context.partition_time_window
    days = days_between(window.start.date(), window.end.date())
    with one_line_failures():
        report = ingest_events(
            source_spec(),
            settings.landing,
            days,
            settings.lake,
            settings.quarantine,
            options=options_of(settings),
        )
        checks = [*check_events(settings, list(report.days)), _drift_check(report)]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.accepted,
            "rows_read": report.read,
            "rows_quarantined": report.quarantined,
            "quarantine_reasons": report.reasons,
            "rows_erased": report.erased,
            **_lag(report),
            "days": len(report.days),
            "path": dg.MetadataValue.path(str(settings.lake / "events")),
            "quarantine": dg.MetadataValue.path(str(settings.quarantine / "events")),
        },
        check_results=checks,
    )


@dg.asset(
    group_name="ingest",
    kinds={"duckdb", "parquet"},
    retry_policy=RETRY,
    metadata=source_metadata("items"),
    check_specs=specs("raw_items"),
)
def raw_items() -> dg.MaterializeResult:
    """The catalogue as it landed: every version of every item."""
    settings = get_settings()
    with one_line_failures():
        report = ingest_items(
            source_spec(),
            settings.landing,
            settings.lake,
            settings.quarantine,
            max_bad_share=settings.max_bad_share,
            memory_limit=settings.duckdb_memory,
            threads=settings.duckdb_threads,
            limits=limits_of(settings),
        )
        checks = check_items(settings)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.accepted,
            "rows_read": report.read,
            "rows_quarantined": report.quarantined,
            "quarantine_reasons": report.reasons,
            "path": dg.MetadataValue.path(str(settings.lake / "items")),
        },
        check_results=checks,
    )


def _lag(report: IngestReport) -> dict[str, dg.MetadataValue | int]:
    """Return how late events arrived, those refused as too late included, and the bound that would take in most."""
    rows = [
        {"days late": row.days, "events": row.events, "share": row.share, "cumulative share": row.cumulative}
        for row in report.lag_table()
    ]
    covers = report.days_that_cover(COVERED)
    told: dict[str, dg.MetadataValue | int] = {"lag_days": table(rows[:_LAGS_SHOWN])}
    return told if covers is None else told | {f"days_that_cover_{COVERED:.1%}": covers}


def _drift_check(report: IngestReport) -> dg.AssetCheckResult:
    """Show changes in the shape of the files that were let pass; those that were not have stopped the asset."""
    return dg.AssetCheckResult(
        passed=not report.drift,
        asset_key="raw_events",
        check_name=SCHEMA_DRIFT,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(report.drift[:5]) or "the files look as they did on the days before",
        metadata={"changes": table([{"change": message} for message in report.drift])},
    )
