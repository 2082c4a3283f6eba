"""Users erased from a home: a job of its own, because it redoes what no night touches."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import os
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration import privacy
from orchestration.dbt import DBT_DIR, DBT_PROJECT
from orchestration.defs.features.assets import FEAST_POOL
from orchestration.defs.warehouse.assets import WAREHOUSE_POOL, export, meaning
from orchestration.failures import RETRY, one_line_failures
from orchestration.home import POSTGRES_SWITCH
from orchestration.marts import PERIODS, ExportPlan, dated_marts
from orchestration.partitions import source_spec
from orchestration.privacy.runs import forget_runs, forget_stored_runs
from orchestration.settings import get_settings
from orchestration.warehouse import begin, failures_of, plan_build, remember

START = {"start": dg.In(dg.Nothing)}


@dg.op(retry_policy=RETRY, out=dg.Out(dg.Nothing))
def erase_from_lake(context: dg.OpExecutionContext) -> None:
    """Rows of lake and quarantine."""
    with one_line_failures():
        done = privacy.erase_from_lake(get_settings(), source_spec().events.daily)
    context.add_output_metadata(done)


@dg.op(retry_policy=RETRY, pool=WAREHOUSE_POOL, ins=START, out=dg.Out(dg.Nothing))
def rebuild_warehouse(context: dg.OpExecutionContext, dbt: DbtCliResource) -> None:
    """The warehouse in a new file, and all marts from it."""
    settings = get_settings()
    if not privacy.is_known(settings) or not settings.marts.is_dir():
        return
    with one_line_failures():
        privacy.forget_warehouse(settings)
        plan = plan_build(settings.lake, settings.warehouse, DBT_DIR, meaning())
        begin(settings.warehouse, plan)
    invocation = dbt.cli(plan.command(meaning()), raise_on_error=False).wait()
    if not invocation.is_successful():
        told = failures_of(DBT_DIR / invocation.target_path / "run_results.json")
        raise dg.Failure(description=told, allow_retries="lock" in told)
    remember(settings.warehouse, plan.loaded)
    with one_line_failures():
        dated = tuple(dated_marts(DBT_PROJECT.manifest_path))
        export(dbt, settings.marts, ExportPlan(PERIODS[source_spec().cadence], {}, {}, dated, plan.loaded))
    context.log_event(dg.AssetMaterialization("marts", description="without users who were erased"))


@dg.op(retry_policy=RETRY, pool=FEAST_POOL, ins=START, out=dg.Out(dg.Nothing))
def erase_online(context: dg.OpExecutionContext) -> None:
    """Values in the online store."""
    settings = get_settings()
    if not privacy.is_known(settings) or not (settings.home / "feast").is_dir():
        return
    with one_line_failures():
        context.add_output_metadata({"online": privacy.erase_online(settings)})
    context.log_event(dg.AssetMaterialization("online_features", description="without users who were erased"))


@dg.op(retry_policy=RETRY, ins=START, out=dg.Out(dg.Nothing))
def erase_derived(context: dg.OpExecutionContext) -> None:
    """Snapshots, lists, failing rows, logs and runs, old versions among them."""
    settings = get_settings()
    with one_line_failures():
        done = privacy.erase_derived(settings)
        runs = forget_runs(
            settings.dagster_home,
            privacy.pending(settings),
            but=context.run_id,
            delete=context.instance.delete_run,
        )
        if os.environ.get(POSTGRES_SWITCH):
            runs += forget_stored_runs(context.instance, privacy.pending(settings), but=context.run_id)
    context.add_output_metadata({**done, "runs_forgotten": runs})


@dg.op(retry_policy=RETRY, ins=START)
def verify_erasure(context: dg.OpExecutionContext) -> dict[str, Any]:
    """A search of every file, and the end of the record."""
    with one_line_failures():
        found = privacy.finish(get_settings())
    context.add_output_metadata(found)
    return found


@dg.job(
    description="Users named in TESSERA_HOME/erasing.json, out of every file; `python -m orchestration erase` writes "
    "it. Never name them in a run's configuration: Dagster keeps that.",
)
def erase_users() -> None:
    """Chain the steps; each can be done again."""
    verify_erasure(erase_derived(erase_online(rebuild_warehouse(erase_from_lake()))))
