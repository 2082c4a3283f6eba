"""One run at a time, and nothing of a killed one stays in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration.runs import OneRunExecutor, only_run, release_dead_runs
from orchestration.settings import SettingsError

HOLDER = """
import pathlib, sys, time
from orchestration.runs import only_run
with only_run(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
# A run whose steps are forked by a server; the step would write after three seconds.
RUN = """
import multiprocessing, os, pathlib, sys, time
def step(folder):
    (folder / "step").write_text(str(os.getpid()))
    time.sleep(3)
    (folder / "late").touch()
if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["server"])
    context.Process(target=step, args=(pathlib.Path(sys.argv[1]),)).start()
    time.sleep(60)
"""


def test_pool_of_a_killed_run_is_free_again() -> None:
    with dg.instance_for_test() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("warehouse", 1)
        run = instance.run_storage.add_run(
            dg.DagsterRun(
                "backfill", run_id="11111111-1111-1111-1111-111111111111", status=dg.DagsterRunStatus.STARTED
            )
        )
        assert storage.claim_concurrency_slot("warehouse", run.run_id, "step").is_claimed
        assert not storage.claim_concurrency_slot("warehouse", "another", "step").is_claimed
        release_dead_runs(instance)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert storage.claim_concurrency_slot("warehouse", "next", "step").is_claimed


def test_pool_that_was_promised_to_a_killed_run_is_free_again() -> None:
    """A run that died after the pool was assigned to its step, and before it took it, holds it as well."""
    with dg.instance_for_test() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("warehouse", 1)
        first, dead = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
        for run_id in (first, dead):
            instance.run_storage.add_run(
                dg.DagsterRun("backfill", run_id=run_id, status=dg.DagsterRunStatus.STARTED)
            )
            storage.claim_concurrency_slot("warehouse", run_id, "step")
        storage.free_concurrency_slots_for_run(first)
        assert storage.get_concurrency_info("warehouse").assigned_run_ids == {dead}
        release_dead_runs(instance)
        assert storage.claim_concurrency_slot("warehouse", "next", "step").is_claimed


def test_second_run_is_refused_in_one_line_until_the_first_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SettingsError) as refused, only_run(tmp_path):
            pass
        assert str(refused.value) == f"another run is at work on {tmp_path}: wait for its end"
    finally:
        holder.kill()
        holder.wait()
    with only_run(tmp_path):
        pass


class Steps(dg.Executor):
    """Notes what it finds when it begins."""

    retries = None  # type: ignore[assignment]

    def __init__(self, home: Path) -> None:
        self.home = home
        self.found: list[str] = []

    def execute(self, plan_context: Any, execution_plan: Any) -> Any:
        self.found = sorted(path.name for path in (self.home / "index").iterdir())
        with pytest.raises(SettingsError), only_run(self.home):
            pass
        yield "event"


def test_executor_holds_the_home_and_clears_away_what_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration import runs

    class Settings:
        home = tmp_path

    monkeypatch.setattr(runs, "get_settings", Settings)
    for name in ("live", ".half.staging"):
        (tmp_path / "index" / name).mkdir(parents=True)
    steps = Steps(tmp_path)
    with dg.instance_for_test() as instance:
        ids = [f"{n}" * 8 + "-1111-1111-1111-" + f"{n}" * 12 for n in (1, 2, 3)]
        started, starting = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING
        for run_id, status in zip(ids, (started, started, starting), strict=True):
            instance.run_storage.add_run(dg.DagsterRun("nightly", run_id=run_id, status=status))

        class Plan:
            run_id = ids[0]

        Plan.instance = instance  # type: ignore[attr-defined]
        assert list(OneRunExecutor(steps).execute(Plan, None)) == ["event"]
        states = [instance.get_run_by_id(run_id).status for run_id in ids]  # type: ignore[union-attr]
        assert states == [started, dg.DagsterRunStatus.FAILURE, starting]
    assert steps.found == ["live"]
    with only_run(tmp_path):
        pass


def test_steps_of_a_killed_run_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "from orchestration.runs import end_with_the_run\nend_with_the_run()\n"
    )
    (tmp_path / "run.py").write_text(RUN)
    path = os.pathsep.join([str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path)], env=os.environ | {"PYTHONPATH": path}
    )
    note = tmp_path / "step"
    while not (note.is_file() and note.read_text()):
        assert run.poll() is None
        time.sleep(0.01)
    step = int(note.read_text())
    run.send_signal(signal.SIGKILL)
    run.wait()
    end = time.monotonic() + 10
    while _lives(step) and time.monotonic() < end:
        time.sleep(0.01)
    assert not _lives(step)
    assert not (tmp_path / "late").exists()


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_runs_in_a_database_that_name_a_user_are_forgotten() -> None:
    from orchestration.privacy.runs import forget_stored_runs

    @dg.op
    def say(context) -> None:  # type: ignore[no-untyped-def]
        context.log.info(context.run.tags["says"])

    @dg.job
    def talk() -> None:
        say()

    with dg.instance_for_test() as instance:
        ids = [
            talk.execute_in_process(instance=instance, tags={"says": text}).run_id
            for text in ("u000123 bought tea", "u0001234 bought tea", "u000123, at work")
        ]
        assert forget_stored_runs(instance, ["42"], but=ids[2]) == 0
        assert forget_stored_runs(instance, ["u000123"], but=ids[2]) == 1
        assert {run.run_id for run in instance.get_runs()} == set(ids[1:])
