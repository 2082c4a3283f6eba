"""One run at a time on a home, whoever starts it; what a killed run left open is closed by the next one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import wait
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml.files import alone
from orchestration import home as homes
from orchestration.settings import SettingsError, get_settings

if TYPE_CHECKING:
    from dagster._core.execution.retries import RetryMode
    from dagster._core.execution.step_dependency_config import StepDependencyConfig

_UNFINISHED = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def only_run(home: Path) -> AbstractContextManager[None]:
    """Hold the one place that a home has for a run; the system gives it back when the process ends, however it does.

    Raises
    ------
    SettingsError
        If another run is at work.
    """
    busy = SettingsError(f"another run is at work on {home}: wait for its end")
    return alone(home / "dagster" / ".run", busy)


def release_dead_runs(
    instance: dg.DagsterInstance,
    but: str | None = None,
    statuses: tuple[dg.DagsterRunStatus, ...] = (dg.DagsterRunStatus.STARTING, *_UNFINISHED),
) -> None:
    """End what killed runs left open, and free the pools that they held; else the next run waits for ever.

    To be called only while no other run can be alive.

    Parameters
    ----------
    instance
        Dagster's.
    but
        The run that is at work.
    statuses
        Of the runs that are ended.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=list(statuses))):
        if run.run_id != but:
            instance.report_run_failed(run, message="The process of this run was killed.")
    storage = instance.event_log_storage
    for key in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(key)
        for run_id in {*info.active_run_ids, *info.pending_run_ids, *info.assigned_run_ids} - {but}:
            storage.free_concurrency_slots_for_run(run_id)


class OneRunExecutor(dg.Executor):
    """Lets another executor work while it holds the home.

    A run started by ``dagster job execute`` knows nothing of Dagster's queue, and a cron job nothing of the UI.
    """

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> RetryMode:
        """How steps are tried again."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """When a step may begin."""
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Clear away what killed runs left, then run the steps.

        Raises
        ------
        SettingsError
            If another run is at work.
        """
        home = get_settings().home
        with only_run(home):
            # A run that is only starting has not been here yet; Dagster's monitor ends it if it never comes.
            release_dead_runs(plan_context.instance, plan_context.run_id, _UNFINISHED)
            homes.sweep(home)
            yield from self._inner.execute(plan_context, execution_plan)


def end_with_the_run() -> None:
    """Let every process that is forked from this one end when the process that asked for it does.

    A step must not outlive a run that was killed: the next one may be at work already.
    """
    os.register_at_fork(after_in_child=_watch_the_run)


def _watch_the_run() -> None:
    threading.Thread(target=_end_with_the_run, name="watch-the-run", daemon=True).start()


def _end_with_the_run() -> None:
    # The child learns who asked for it shortly after it was forked.
    while (run := multiprocessing.parent_process()) is None:
        sleep(0.01)
    wait([run.sentinel])
    os._exit(1)
