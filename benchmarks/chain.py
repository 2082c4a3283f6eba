"""One run of a job over a range of days, in a process of its own: ``python -m benchmarks.chain FIRST LAST [JOB]``.

Without a job it is logs to features. Prints one line of JSON with seconds and peak memory. ``TESSERA_HOME`` and
``TESSERA_DATA`` say what is run on.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import redirect_stdout
from typing import Any

GROUPS = ("ingest", "warehouse", "features")
DATA = "data"


def run(first: str, last: str, job: str = DATA) -> dict[str, Any]:
    """Run a job for the days ``first`` to ``last``, or ``retrain`` for all recipes.

    Parameters
    ----------
    first, last
        Days, as partitions are named.
    job
        One of the project, or :data:`DATA`: the assets of :data:`GROUPS` and their checks.

    Raises
    ------
    RuntimeError
        If a step fails.
    """
    began = time.monotonic()
    import dagster as dg
    from rich.console import Console

    from orchestration import home as homes
    from orchestration.demo import cause_of, group_of
    from orchestration.memory import PeakMemory
    from orchestration.partitions import range_tags
    from orchestration.progress import ProgressHandler
    from orchestration.runs import release_dead_runs
    from orchestration.settings import get_settings

    settings = get_settings()
    homes.prepare(
        settings.home, {"source": settings.source, "data": os.environ["TESSERA_DATA"], "clock": "logs"}
    )
    get_settings.cache_clear()
    settings = get_settings()
    # A benchmark that was killed leaves its pools taken, and this run would wait for them for ever.
    release_dead_runs(dg.DagsterInstance.get())
    with PeakMemory() as memory:
        from orchestration.definitions import defs

        data = dg.define_asset_job(DATA, selection=dg.AssetSelection.groups(*GROUPS))
        definitions = dg.Definitions.merge(defs(), dg.Definitions(jobs=[data]))
        ProgressHandler.console = Console(file=io.StringIO())
        keys = (settings.recipes[0], settings.recipes[-1]) if job == "retrain" else (first, last)
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=dg.DagsterInstance.get(),
            tags=range_tags(*keys),
            run_config={"loggers": {"progress": {}}},
            raise_on_error=False,
        )
    if not result.success:
        raise RuntimeError(f"{cause_of(result)}; {settings.dagster_home} says more")
    groups: dict[str, float] = {}
    for step, seconds in ProgressHandler.seconds.items():
        group = group_of(definitions, step)
        groups[group] = round(groups.get(group, 0.0) + seconds, 2)
    return {
        "seconds": round(time.monotonic() - began, 2),
        "stages": {step: round(seconds, 2) for step, seconds in ProgressHandler.seconds.items()},
        "groups": groups,
        "peak_mb": round(memory.peak_mb),
    }


def main() -> None:
    """Run what the command line asks for."""
    with redirect_stdout(sys.stderr):
        told = run(*sys.argv[1:4])
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
