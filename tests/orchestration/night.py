"""Runs of a job that can be killed: one warm process forks a child for each, so that a run starts at once.

``python night.py`` reads a JSON request a line from standard input (home, log, notes, jobs, days) and answers with the child's process id, and, once it has ended, with its exit status. A child leads a process group of its own.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

STAGES = {
    "raw_events": "ingest",
    "raw_items": "ingest",
    "warehouse": "dbt",
    "marts": "export",
    "feature_definitions": "materialize",
    "online_features": "materialize",
    "item_text_vectors": "vectors",
    "item_behaviour_vectors": "vectors",
    "item_fused_vectors": "vectors",
    "semantic_ids": "semantic_ids",
    "online_semantic_ids": "semantic_ids",
    "item_index": "index",
    "id_trie": "index",
    "recommendations": "publish",
}


@dataclass
class Night:
    """One run at work.

    Parameters
    ----------
    server
        The process that forked it.
    pid
        The child, and its process group.
    notes, log
        Files with a line ``start STEP SECONDS`` or ``end STEP SECONDS`` for each step that began or ended, and with
        what the run printed.
    """

    server: subprocess.Popen[str]
    pid: int
    notes: Path
    log: Path

    def stage(self) -> str:
        """Return the stage that is at work, or was when the run died; ``"between"`` where none is."""
        at_work: list[str] = []
        for line in self.notes.read_text().splitlines():
            what, step, _ = line.split()
            at_work = [*at_work, step] if what == "start" else [name for name in at_work if name != step]
        return STAGES.get(at_work[-1], "checks") if at_work else "between"

    def spans(self) -> dict[str, float]:
        """Return how many seconds each stage took."""
        spans: dict[str, float] = {}
        for line in self.notes.read_text().splitlines():
            what, step, second = line.split()
            stage = STAGES.get(step, "checks")
            spans[stage] = spans.get(stage, 0.0) + (float(second) if what == "end" else -float(second))
        return spans

    def error(self) -> str:
        """Return what a person would be told."""
        return self.notes.with_suffix(".error").read_text()

    def is_over(self) -> bool:
        """Tell whether the run has ended; its status waits to be read then."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    def kill(self, group: bool = True) -> None:
        """Kill the run; without ``group`` its dbt child goes on alone."""
        (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Return the exit code; negative for a signal."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps({"wait": self.pid}), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())


@contextmanager
def nights(environment: dict[str, str], scratch: Path) -> Iterator[Callable[..., Night]]:
    """Yield a function that starts a run: ``start(home, days, *jobs)``; ``now`` is what its clock is to say."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "DAGSTER_"))}
        | environment
        | {"TESSERA_HOME": str(scratch / "nowhere")},
    )
    numbers = iter(range(10_000))

    def start(home: Path, days: list[date], *jobs: str, now: datetime | None = None) -> Night:
        number = next(numbers)
        notes, log = scratch / f"{number}.notes", scratch / f"{number}.log"
        notes.touch()
        request = {"home": str(home), "notes": str(notes), "log": str(log)}
        request |= {"days": [day.isoformat() for day in days], "jobs": jobs or ["backfill"]}
        request |= {"now": now.isoformat()} if now else {}
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        return Night(server, int(server.stdout.readline()), notes, log)

    try:
        yield start
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


def _serve() -> None:
    """Fork a child for each request, and tell how it ended when asked."""
    # Imported once here. None of it starts a thread, so that a fork is safe.
    import feast  # noqa: F401
    import great_expectations  # noqa: F401
    import sentence_transformers  # noqa: F401

    from orchestration.definitions import defs

    definitions = defs()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _answer(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(_night(definitions, request))
        _answer(pid)


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _night(definitions: Any, request: dict[str, Any]) -> int:
    """Do what the demo does after its simulation; return the exit code."""
    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["TESSERA_HOME"] = request["home"]
    if "now" in request:
        os.environ["TESSERA_CLOCK"] = "real"
        _set_clock(datetime.fromisoformat(request["now"]))
    try:
        import dagster as dg

        from orchestration import home as homes
        from orchestration import partitions
        from orchestration.demo import ChainError, cause_of, told_in_one_line
        from orchestration.runs import only_run, release_dead_runs
        from orchestration.settings import get_settings

        for cached in (get_settings, partitions.source_spec, partitions.landing_partitions):
            cached.cache_clear()
        home = Path(request["home"])
        days = [date.fromisoformat(day) for day in request["days"]]
        with homes.only_one(home), told_in_one_line(home, Path(request["log"])):
            homes.sweep(home)
            homes.prepare(home, {"source": "simulator", "data": None, "clock": "logs"})
            get_settings.cache_clear()
            settings = get_settings()
            with dg.DagsterInstance.get() as instance, only_run(home):
                release_dead_runs(instance)
                _note_steps(Path(request["notes"]))
                for job in request["jobs"]:
                    ends = partitions.partition_keys_of(days)
                    if job == "retrain":
                        ends = (settings.recipes[0], settings.recipes[-1])
                    result = definitions.resolve_job_def(job).execute_in_process(
                        instance=instance,
                        tags=partitions.range_tags(*ends),
                        run_config={"loggers": {"progress": {}}},
                        raise_on_error=False,
                    )
                    if not result.success:
                        raise ChainError(cause_of(result))
                return 0
    except (ChainError, OSError) as error:
        Path(request["notes"]).with_suffix(".error").write_text(f"error: {error}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 2
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _set_clock(now: datetime) -> None:
    """Let everything that reads the clock in this process read ``now``."""
    from orchestration import publications, settings
    from orchestration.ingest import events

    class Set(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return now

    for module in (publications, settings, events):
        module.datetime = Set  # type: ignore[attr-defined]


def _note_steps(notes: Path) -> None:
    """Let the logger of the jobs write down which step begins and ends."""
    from orchestration.progress import ProgressHandler

    handle = os.open(notes, os.O_WRONLY | os.O_APPEND)

    def emit(_: ProgressHandler, record: logging.LogRecord) -> None:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        if event is not None and event.step_key is not None:
            begun = event.is_step_start
            if begun or event.is_step_success or event.is_step_failure:
                line = f"{'start' if begun else 'end'} {event.step_key} {time.monotonic():.3f}\n"
                os.write(handle, line.encode())

    ProgressHandler.emit = emit  # type: ignore[method-assign]


def until(true: Callable[[], bool], over: Callable[[], bool]) -> bool:
    """Wait until something is true; tell whether it became so before it was over."""
    while not true():
        if over():
            return False
        time.sleep(0.004)
    return True


if __name__ == "__main__":
    _serve()
