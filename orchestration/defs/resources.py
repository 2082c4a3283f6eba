"""Resources that assets share."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration.dbt import DBT_PROJECT
from orchestration.progress import progress_logger


@dg.definitions
def resources() -> dg.Definitions:
    """Return the dbt client, and the logger that prints a line per stage."""
    # Beside the interpreter, so that it need not be on PATH.
    dbt = DbtCliResource(DBT_PROJECT, dbt_executable=str(Path(sys.executable).with_name("dbt")))
    return dg.Definitions(resources={"dbt": dbt}, loggers={"progress": progress_logger})
