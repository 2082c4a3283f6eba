"""Landing files to the lake."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import dagster as dg

from orchestration.dbt import source_metadata
from orchestration.failures import RETRY, one_line_failures
from orchestration.ingest.events import ingest_events
from orchestration.ingest.items import ingest_items
from orchestration.metadata import table
from orchestration.partitions import days_between, landing_partitions, source_spec
from orchestration.quality_checks import check_events, check_items, specs
from orchestration.settings import get_settings


@dg.asset(
    group_name="ingest",
    kinds={"duckdb", "parquet"},
    partitions_def=landing_partitions(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY,
    metadata=source_metadata("events"),
    check_specs=specs("raw_events"),
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
            max_bad_share=settings.max_bad_share,
            memory_limit=settings.duckdb_memory,
            threads=settings.duckdb_threads,
        )
        checks = check_events(settings, list(report.days))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.accepted,
            "rows_read": report.read,
            "rows_quarantined": report.quarantined,
            "quarantine_reasons": report.reasons,
            "lag_days": table(
                [{"days late": lag, "events": n} for lag, n in sorted(report.lag_days.items())]
            ),
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
