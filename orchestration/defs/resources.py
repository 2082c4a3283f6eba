"""Resources that assets share."""

from __future__ import annotations

import dagster as dg
from dagster_dbt import DbtCliResource

from orchestration.dbt import DBT_PROJECT
from orchestration.progress import progress_logger


@dg.definitions
def resources() -> dg.Definitions:
    """Return the dbt client, and the logger that prints a line per stage."""
    return dg.Definitions(
        resources={"dbt": DbtCliResource(DBT_PROJECT)}, loggers={"progress": progress_logger}
    )
