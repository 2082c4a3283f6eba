"""The whole chain in one process: logs to recommendations, through Dagster, without its UI."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ml.artifacts import write_json
from orchestration import home as homes
from orchestration.failures import USER_ERRORS
from orchestration.ingest.events import available_days
from orchestration.ingest.spec import load_spec
from orchestration.memory import PeakMemory
from orchestration.models import check_recipes
from orchestration.settings import Settings, get_settings, home_from_environment
from orchestration.simulate import simulate

if TYPE_CHECKING:
    import dagster as dg

LOG = "demo.log"


class ChainError(Exception):
    """A stage failed; the message is one line that names stage and cause."""


def run_demo(source: str, data: Path | None, console: Console) -> dict[str, Any]:
    """Simulate (for the simulator), ingest, train, choose, index, recommend; print and return the summary.

    What an earlier run finished is reused; a run that was killed is taken up again.

    Raises
    ------
    ChainError
        If a stage fails.
    SettingsError, IngestError, SimulationError
        If what was asked for makes no sense.
    """
    home = home_from_environment()
    started = time.monotonic()
    with homes.only_one(home), PeakMemory() as memory:
        settings, days = _set_up(home, source, data, console)
        stages = _materialize(settings, days, console)
        from orchestration.summary import show, summarise

        summary = summarise(settings, stages, time.monotonic() - started, memory.peak_mb)
        write_json(settings.home / "summary.json", summary)
    show(console, settings, summary)
    return summary


def _set_up(home: Path, source: str, data: Path | None, console: Console) -> tuple[Settings, list[date]]:
    """Claim the home, make sure that there are logs, and return the days that they hold.

    Whatever a person can get wrong is checked before the home is touched.
    """
    spec = load_spec(source)
    os.environ["TESSERA_SOURCE"] = source
    if data is not None:
        os.environ["TESSERA_DATA"] = str(data.resolve())
    get_settings.cache_clear()
    check_recipes(get_settings())
    given = os.environ.get("TESSERA_DATA") or homes.remembered_data(home, source)
    days = available_days(spec, Path(given)) if given else []
    homes.claim(home, source)
    homes.sweep(home)
    get_settings.cache_clear()
    settings = get_settings()
    simulated = not given and source == "simulator"
    if simulated:
        _simulate(settings, console)
    days = days or available_days(spec, settings.landing)
    if simulated:
        # A lake day without a landing file belongs to another simulation. Of real logs, old files may have been
        # cleared away, and their days stay.
        homes.forget_other_days(home, days)
    homes.prepare(home, {"source": source, "data": given, "clock": "logs"})
    get_settings.cache_clear()
    return get_settings(), days


def _simulate(settings: Settings, console: Console) -> None:
    began = time.monotonic()
    settings.home.mkdir(parents=True, exist_ok=True)
    simulate(settings.simulation, settings.landing, settings.truth)
    console.print(f"  {time.monotonic() - began:6.1f} s  {'simulated logs':<24} ok", highlight=False)


def _materialize(settings: Settings, days: list[date], console: Console) -> dict[str, float]:
    """Run ``backfill`` over all days, then ``retrain`` over all recipes; return seconds by asset group."""
    log = settings.dagster_home / LOG
    with noise_to(log), told_in_one_line(settings.home, log):
        import dagster as dg

        from orchestration.definitions import defs
        from orchestration.partitions import partition_keys_of
        from orchestration.progress import ProgressHandler
        from orchestration.runs import only_run, release_dead_runs

        definitions = defs()
        ProgressHandler.console = console
        ProgressHandler.seconds.clear()
        instance = dg.DagsterInstance.get()
        with only_run(settings.home):
            release_dead_runs(instance)
            for job, first, last in (
                ("backfill", *partition_keys_of(days)),
                ("retrain", settings.recipes[0], settings.recipes[-1]),
            ):
                _run(definitions, instance, job, first, last)
    groups: dict[str, float] = {}
    for step, seconds in ProgressHandler.seconds.items():
        group = group_of(definitions, step)
        groups[group] = groups.get(group, 0.0) + seconds
    return groups


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, first: str, last: str) -> None:
    from orchestration.partitions import range_tags

    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance,
        tags=range_tags(first, last),
        run_config={"loggers": {"progress": {}}},
        raise_on_error=False,
    )
    if not result.success:
        raise ChainError(cause_of(result) or f"{job} failed; see {get_settings().dagster_home / LOG}")


def cause_of(result: dg.ExecuteInProcessResult) -> str | None:
    """Return one line that names the step of a run that failed first, and why."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            error = data.error.cause or data.error if data.error else None
            told = data.user_failure_data.description if data.user_failure_data else None
            message = told or (error.message if error else "unknown cause")
            return f"{event.step_key}: {message.strip().splitlines()[0]}"
    return None


def group_of(definitions: dg.Definitions, step: str) -> str:
    """Return the asset group that a step belongs to; ``"checks"`` for a check that is a step of its own."""
    for assets in definitions.resolve_asset_graph().assets_defs:
        if assets.keys and assets.node_def.name == step:
            return next(iter(assets.group_names_by_key.values()))
    return "checks"


@contextmanager
def told_in_one_line(home: Path, log: Path) -> Iterator[None]:
    """Turn what fails outside every step (Dagster's own storage on a full disk, say) into one line; log the rest."""
    try:
        yield
    except (ChainError, *USER_ERRORS):
        raise
    except Exception as error:
        traceback.print_exc()
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ChainError(f"{home}: {cause[0]}; {log} says more") from None


@contextmanager
def noise_to(log: Path) -> Iterator[None]:
    """Send what libraries print to a file, so that the terminal shows a line per stage."""
    with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield
    sys.stdout.flush()
