"""Resources that assets share, and how a job's steps become processes."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration.dbt import DBT_PROJECT
from orchestration.progress import progress_logger

# Two steps at a time, each in a fresh process that a server has imported the project for. Never plain fork: torch
# hangs in a fork of a process that has used its threads.
EXECUTOR = dg.multiprocess_executor.configured(
    {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": ["orchestration.definitions"]}}}
)


@dg.definitions
def resources() -> dg.Definitions:
    """Return the dbt client, the logger that prints a line per stage, and the executor."""
    # Beside the interpreter, so that it need not be on PATH.
    dbt = DbtCliResource(DBT_PROJECT, dbt_executable=str(Path(sys.executable).with_name("dbt")))
    return dg.Definitions(resources={"dbt": dbt}, loggers={"progress": progress_logger}, executor=EXECUTOR)
