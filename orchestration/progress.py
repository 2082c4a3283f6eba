"""One line per stage while a run is at work in this process."""

from __future__ import annotations

import logging
import time
from typing import ClassVar

import dagster as dg
from rich.console import Console


class ProgressHandler(logging.Handler):
    """Print when a step ends, and keep how long it took; pass over everything else.

    Dagster builds a handler for every run, so what a process of several runs adds up stands on the class.
    """

    console: ClassVar[Console] = Console()
    seconds: ClassVar[dict[str, float]] = {}
    _started: ClassVar[dict[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line for an event that a person at a terminal waits for."""
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        if event is None or event.step_key is None:
            return
        if event.is_step_start:
            self._started[event.step_key] = time.monotonic()
        elif event.is_step_success or event.is_step_failure:
            seconds = time.monotonic() - self._started.pop(event.step_key, time.monotonic())
            self.seconds[event.step_key] = self.seconds.get(event.step_key, 0.0) + seconds
            mark = "ok" if event.is_step_success else "FAILED"
            self.console.print(f"  {seconds:6.1f} s  {event.step_key:<24} {mark}", highlight=False)


@dg.logger(None, description="One line per step.")
def progress_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger that :class:`ProgressHandler` listens to."""
    logger = logging.Logger("progress", level=logging.DEBUG)
    logger.addHandler(ProgressHandler())
    return logger
