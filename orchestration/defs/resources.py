"""Resources that assets share, and how a job's steps become processes."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration.dbt import DBT_PROJECT
from orchestration.progress import progress_logger
from orchestration.runs import OneRunExecutor

_STEPS = dg.multiprocess_executor


# The schema of another executor is one, though Dagster's types do not say so.
@dg.executor(  # type: ignore[call-overload]
    name="one_run", config_schema=_STEPS.config_schema, requirements=list(_STEPS.get_requirements({}))
)
def one_run(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Run each step in a process of its own, while no other run is at work on the home."""
    return OneRunExecutor(_STEPS.executor_creation_fn(init_context))  # type: ignore[misc]


# Two steps at a time, each in a fresh process that a server has imported the project for. Never plain fork: torch
# hangs in a fork of a process that has used its threads.
EXECUTOR = one_run.configured(
    {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": ["orchestration.step_server"]}}},
    name="one_run",
)


@dg.definitions
def resources() -> dg.Definitions:
    """Return the dbt client, the logger that prints a line per stage, and the executor."""
    # Beside the interpreter, so that it need not be on PATH.
    dbt = DbtCliResource(DBT_PROJECT, dbt_executable=str(Path(sys.executable).with_name("dbt")))
    return dg.Definitions(resources={"dbt": dbt}, loggers={"progress": progress_logger}, executor=EXECUTOR)
