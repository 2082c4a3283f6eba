"""One run of logs to features, over a range of days, in a process of its own: ``python -m benchmarks.chain FIRST LAST``.

Prints one line of JSON with seconds and peak memory. ``TESSERA_HOME`` and ``TESSERA_DATA`` say what is run on.
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


def run(first: str, last: str) -> dict[str, Any]:
    """Run the assets of :data:`GROUPS` and their checks for the days ``first`` to ``last``.

    Raises
    ------
    RuntimeError
        If a step fails.
    """
    began = time.monotonic()
    import dagster as dg
    from rich.console import Console

    from orchestration import home as homes
    from orchestration.demo import release_dead_runs
    from orchestration.memory import PeakMemory
    from orchestration.partitions import range_tags
    from orchestration.progress import ProgressHandler
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

        job = dg.define_asset_job("data", selection=dg.AssetSelection.groups(*GROUPS))
        ProgressHandler.console = Console(file=io.StringIO())
        result = (
            dg.Definitions.merge(defs(), dg.Definitions(jobs=[job]))
            .resolve_job_def("data")
            .execute_in_process(
                instance=dg.DagsterInstance.get(),
                tags=range_tags(first, last),
                run_config={"loggers": {"progress": {}}},
                raise_on_error=False,
            )
        )
    if not result.success:
        failed = [event.step_key for event in result.all_events if event.is_step_failure]
        raise RuntimeError(f"{failed} failed; {settings.dagster_home} says more")
    return {
        "seconds": round(time.monotonic() - began, 2),
        "stages": {step: round(seconds, 2) for step, seconds in ProgressHandler.seconds.items()},
        "peak_mb": round(memory.peak_mb),
    }


def main() -> None:
    """Run what the command line asks for."""
    with redirect_stdout(sys.stderr):
        told = run(*sys.argv[1:3])
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
