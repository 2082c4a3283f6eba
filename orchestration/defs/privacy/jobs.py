"""Users erased from a home: a job of its own, because it redoes what no night touches."""

# Dagster compares the annotation of `context` with its classes, so annotations must not be strings here.

import contextlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration import privacy
from orchestration.dbt import DBT_DIR, DBT_PROJECT
from orchestration.defs.features.assets import FEAST_POOL
from orchestration.defs.warehouse.assets import WAREHOUSE_POOL, export
from orchestration.failures import RETRY, one_line_failures
from orchestration.marts import PERIODS, ExportPlan, dated_marts
from orchestration.partitions import source_spec
from orchestration.privacy.search import as_word, holds_bytes, is_distinctive
from orchestration.settings import get_settings
from orchestration.warehouse import begin, failures_of, plan_build, remember

START = {"start": dg.In(dg.Nothing)}
_WAIT_S = 60


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
    meaning = {"history_event_types": list(source_spec().history_event_types)}
    with one_line_failures():
        privacy.forget_warehouse(settings)
        plan = plan_build(settings.lake, settings.warehouse, DBT_DIR, meaning)
        begin(settings.warehouse, plan)
    command = ["build", "--full-refresh", "--exclude-resource-type", "unit_test"]
    invocation = dbt.cli(
        [*command, "--vars", json.dumps(meaning | plan.variables)], raise_on_error=False
    ).wait()
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
        runs = _forget_runs(
            context.instance, settings.dagster_home, privacy.pending(settings), context.run_id
        )
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


def _forget_runs(instance: dg.DagsterInstance, dagster_home: Path, users: list[str], own: str) -> int:
    """Delete the runs whose events name a user, and write the databases that did anew; return how many."""
    known = [user for user in users if is_distinctive(user)]
    forgotten = 0
    databases = sorted(dagster_home.rglob("*.db"))
    for path in databases if known else ():
        for run in _runs_that_mention(path, known) - {own}:
            instance.delete_run(run)
            forgotten += 1
        if path.is_file() and holds_bytes(path, known):
            with contextlib.closing(
                sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            ) as connection:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return forgotten


def _runs_that_mention(path: Path, users: list[str]) -> set[str]:
    """Return the runs of a database of events or of runs whose text names a user."""
    pattern = re.compile(as_word(users))
    found: set[str] = set()
    with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_S)) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for table, column in (("event_logs", "event"), ("runs", "run_body")):
            if table in tables:
                rows = connection.execute(f"SELECT run_id, {column} FROM {table}")
                found |= {run for run, text in rows if run is not None and pattern.search(text or "")}
    return found
