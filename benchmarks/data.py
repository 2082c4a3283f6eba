"""Logs to features at one, ten and more million events: first load, one more day, a 30-day backfill, beside straight SQL.

``python -m benchmarks.data --events 1000000 --events 10000000`` simulates the logs below ``--folder`` (kept for the next
time), runs the chain in processes of their own, and writes ``results/data-1M.json`` and so on. What a run that died had
measured is kept in ``steps.json`` of that folder, and the next run goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chain import DATA
from benchmarks.record import Row, write
from benchmarks.straight import Straight, build_straight, differences
from ml.artifacts import read_manifest, write_json
from orchestration.simulate import simulate
from orchestration.simulate.config import SimulationConfig

DAYS = 100
START = date(2025, 3, 1)
BACKFILL = 30
ITEMS = 20_000
EVENTS_PER_USER = 100
PEER = "straight DuckDB SQL, one process, no tests, no export"


def main(
    events: Annotated[
        list[int] | None, typer.Option(help="Events of a log; may be given more than once.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where logs and homes go.")] = None,
    memory: Annotated[str, typer.Option(help="DuckDB's memory limit.")] = "4GB",
    peer: Annotated[bool, typer.Option(help="Build the same by straight SQL beside it.")] = True,
    seed: int = 0,
) -> None:
    """Run every size and write the record."""
    folder = folder or Path(tempfile.gettempdir()) / "tessera-bench"
    os.environ["TESSERA_DUCKDB_MEMORY"] = memory
    for size in events or [1_000_000, 10_000_000]:
        rows = measure(size, folder / str(size), memory if peer else None, seed)
        write(f"data-{size // 1_000_000}M", rows, seed)


def measure(events: int, folder: Path, peer_memory: str | None, seed: int) -> list[Row]:
    """Return the rows of one size; the home is made anew unless a run that died left its steps."""
    config = SimulationConfig(
        seed=seed, days=DAYS, start=START, events=events, users=max(events // EVENTS_PER_USER, 1), items=ITEMS
    )
    if not (folder / "logs").is_dir():
        simulate(config, folder / "part", folder / "truth")
        (folder / "part").rename(folder / "logs")
    home, landing = folder / "home", folder / "landing"
    days = [START + timedelta(days=n) for n in range(DAYS)]
    name = f"{events // 1_000_000}M events"

    def begin() -> dict[str, Any]:
        for path in (home, landing):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folder / "logs", landing, copy_function=os.link)
        return run(home, landing, days[0], days[-2])

    def sizes() -> dict[str, Any]:
        return {"lines": lines_of(landing), "rows": read_manifest(home / "marts").metrics["rows"]}

    def peer() -> dict[str, Any]:
        straight = build_straight(home / "lake", folder / "straight.duckdb", str(peer_memory))
        if wrong := differences(folder / "straight.duckdb", home / "marts"):
            raise SystemExit(f"the peer's result differs: {', '.join(wrong)}")
        return asdict(straight)

    def backfill() -> dict[str, Any]:
        correct(landing, days[-BACKFILL:])
        return run(home, landing, days[-BACKFILL], days[-1])

    steps = folder / "steps.json"
    first = kept(steps, "first", begin)
    loaded = kept(steps, "sizes", sizes)
    straight = Straight(**kept(steps, "peer", peer)) if peer_memory else None
    more = kept(steps, "more", lambda: run(home, landing, days[-1], days[-1]))
    again = kept(steps, "again", backfill)
    steps.unlink()
    rows = [
        _row(f"{name}: first load of {DAYS - 1} days", first, loaded),
        _row(f"{name}: one more day", more),
        _row(f"{name}: backfill of {BACKFILL} corrected days", again),
    ]
    if straight is not None:
        case = f"{name}: warehouse build of that load alone, data tests included"
        extra = {"peer_peak_mb": straight.peak_mb, "peer_tables": straight.seconds}
        seconds = first["stages"]["warehouse"]
        rows.insert(1, Row(case, seconds, straight.total, PEER, "seconds", "lower", extra))
    return rows


def kept(steps: Path, name: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a step measured, now or in the run before."""
    done: dict[str, dict[str, Any]] = json.loads(steps.read_text()) if steps.is_file() else {}
    if name not in done:
        done[name] = measured()
        write_json(steps, done)
    return done[name]


def run(home: Path, landing: Path, first: date, last: date, job: str = DATA) -> dict[str, Any]:
    """Run a job of `benchmarks.chain` over a range of days in a process of its own."""
    environment = os.environ | {"TESSERA_HOME": str(home), "TESSERA_DATA": str(landing)}
    command = [sys.executable, "-m", "benchmarks.chain", str(first), str(last), job]
    load, memory = round(os.getloadavg()[0], 2), os.environ.get("TESSERA_DUCKDB_MEMORY")
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job} failed on {first} to {last}: {home}")
    told: dict[str, Any] = {
        **json.loads(done.stdout.splitlines()[-1]),
        "load_before": load,
        "duckdb_memory": memory,
    }
    sys.stdout.write(f"{job} {first} to {last}: {told}\n")
    sys.stdout.flush()
    return told


def correct(landing: Path, days: list[date]) -> None:
    """Give every day one more event, as a source that sends a corrected file would."""
    for day in days:
        path = landing / "events" / f"{day}.jsonl"
        content = path.read_bytes()
        told = {
            "id": f"correction-{day}",
            "ts": _noon_ms(day),
            "type": "view",
            "user": "u000001",
            "item": "i00001",
        }
        path.unlink()  # the other links must keep what they have
        path.write_bytes(content + json.dumps(told).encode() + b"\n")


def lines_of(landing: Path) -> int:
    """Return how many lines of events landed."""
    return sum(path.read_bytes().count(b"\n") for path in (landing / "events").iterdir())


def _noon_ms(day: date) -> int:
    return int(datetime.combine(day, time(12), UTC).timestamp() * 1000)


def _row(case: str, told: dict[str, Any], extra: dict[str, Any] | None = None) -> Row:
    more = {name: value for name, value in told.items() if name != "seconds"} | (extra or {})
    return Row(case, told["seconds"], None, "", "seconds", "lower", more)


if __name__ == "__main__":
    typer.run(main)
