"""Lake to marts, by dbt."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource, dbt_assets
from dagster_dbt.errors import DagsterDbtCliRuntimeError

from ml.artifacts import ArtifactError, publish, read_manifest
from orchestration.dbt import DBT_DIR, DBT_PROJECT, TRANSLATOR
from orchestration.failures import RETRY, one_line_failures
from orchestration.marts import (
    KIND,
    PERIODS,
    ExportPlan,
    certify,
    dated_marts,
    is_unfinished,
    lay_out,
    plan_export,
)
from orchestration.partitions import source_spec
from orchestration.settings import get_settings
from orchestration.warehouse import begin, failures_of, plan_build, read_loaded, remember

WAREHOUSE_POOL = "warehouse"


@dbt_assets(
    manifest=DBT_PROJECT.manifest_path,
    project=DBT_PROJECT,
    dagster_dbt_translator=TRANSLATOR,
    pool=WAREHOUSE_POOL,
    retry_policy=RETRY,
)
def warehouse(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    """Every dbt model, rebuilt where the lake has changed; dbt tests run as asset checks."""
    settings = get_settings()
    with one_line_failures():
        plan = plan_build(settings.lake, settings.warehouse, DBT_DIR, meaning())
        begin(settings.warehouse, plan)
    context.log.info(
        f"{len(plan.changed)} changed lake days; {'full build' if plan.full else plan.variables}"
    )
    invocation = dbt.cli(plan.command(meaning()), context=context)
    try:
        yield from invocation.stream()
    except DagsterDbtCliRuntimeError:
        told = failures_of(DBT_DIR / invocation.target_path / "run_results.json")
        raise dg.Failure(description=told, allow_retries="lock" in told) from None
    remember(settings.warehouse, plan.loaded)


@dg.asset(
    group_name="warehouse",
    kinds={"dbt", "parquet"},
    deps=[warehouse],
    pool=WAREHOUSE_POOL,
    retry_policy=RETRY,
)
def marts(dbt: DbtCliResource) -> dg.MaterializeResult:
    """The marts as Parquet, published together: the only way out of the warehouse."""
    settings = get_settings()
    with one_line_failures():
        loaded = read_loaded(settings.warehouse)
        if loaded is None or is_unfinished(loaded):
            raise ArtifactError(
                f"{settings.warehouse} was not built to its end: materialize the dbt models first"
            )
        dated = dated_marts(DBT_PROJECT.manifest_path)
        plan = plan_export(settings.marts, dated, loaded, PERIODS[source_spec().cadence])
        if plan is not None:
            export(dbt, settings.marts, plan)
        metrics = read_manifest(settings.marts, KIND).metrics
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(metrics["rows"].values()),
            **metrics,
            "changed": plan is not None,
            "path": dg.MetadataValue.path(str(settings.marts)),
        },
    )


def meaning() -> dict[str, Any]:
    """Return the variables that change what the tables mean."""
    return {"history_event_types": list(source_spec().history_event_types)}


def export(dbt: DbtCliResource, marts: Path, plan: ExportPlan) -> None:
    """Write what the plan says, and publish it with what it keeps."""
    with publish(marts) as staging:
        lay_out(plan, marts, staging)
        arguments = {"target": str(staging), "period": plan.period, "ranges": plan.ranges}
        dbt.cli(["run-operation", "export_marts", "--args", json.dumps(arguments)]).wait()
        certify(plan, staging)
