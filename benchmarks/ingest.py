"""JSON lines to typed, checked Parquet, beside DuckDB's bare read of the same file: ``python -m benchmarks.ingest``.

Both sides write Parquet and run on the same two threads, in turns. Ours checks each row, keeps order and row numbers,
puts bad rows in quarantine with the reason, and publishes the day with its manifest; the bare read drops what it
cannot parse.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import duckdb
import psutil

from benchmarks.record import Row, write
from orchestration.ingest.events import ingest_events
from orchestration.ingest.options import Options
from orchestration.ingest.spec import load_spec
from orchestration.memory import PeakMemory

DAY = date(2025, 3, 20)
THREADS = 2
MEMORY = "2GB"
BAD_SHARE = 0.002
REPEATS = 3
_DAY_MS = 1_742_428_800_000
_TYPES = ("impression", "impression", "impression", "view", "view", "cart", "purchase", "search")
_COLUMNS = {
    "id": "VARCHAR",
    "ts": "BIGINT",
    "type": "VARCHAR",
    "user": "VARCHAR",
    "session": "VARCHAR",
    "item": "VARCHAR",
    "pos": "INTEGER",
    "price": "DOUBLE",
    "query": "VARCHAR",
}


def make_file(path: Path, rows: int, seed: int) -> int:
    """Write ``rows`` lines like the simulator's, of which a few are broken in one of five ways; return how many."""
    rng = random.Random(seed)
    bad = 0
    with path.open("wb") as file:
        for number in range(rows):
            line = _line(number, rows, rng)
            if rng.random() < BAD_SHARE:
                bad += 1
                line = _broken(line, rng.randrange(5))
            file.write(line)
    return bad


def ingest(landing: Path, home: Path) -> int:
    """Run our ingestion into an empty home; return how many rows went to quarantine."""
    shutil.rmtree(home, ignore_errors=True)
    options = Options(memory_limit=MEMORY, threads=THREADS)
    spec = load_spec("simulator")
    return ingest_events(
        spec, landing, [DAY], home / "lake", home / "quarantine", options=options
    ).quarantined


def bare_read(source: Path, target: Path) -> None:
    """Copy the file to Parquet by DuckDB alone."""
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in _COLUMNS.items())
    config: dict[str, str | bool | int | float | list[str]] = {"threads": THREADS, "memory_limit": MEMORY}
    with duckdb.connect(config=config) as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json('{source}', columns={{{columns}}}, format='newline_delimited', "
            f"ignore_errors=true)) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
        )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that some work took: by the clock, and of processor time."""
    process, clock = psutil.Process(), time.perf_counter()
    before = sum(process.cpu_times()[:2])
    work()
    return time.perf_counter() - clock, sum(process.cpu_times()[:2]) - before


def run(rows: int, seed: int, folder: Path) -> Row:
    """Measure both sides in turns and return the case, by the best of each."""
    source = folder / "landing" / "events" / f"{DAY}.jsonl"
    source.parent.mkdir(parents=True)
    bad = make_file(source, rows, seed)
    ours, peers = [], []
    quarantined = 0
    with PeakMemory() as memory:
        for _ in range(REPEATS):
            ours.append(timed(lambda: ingest(folder / "landing", folder / "home")))
            peers.append(timed(lambda: bare_read(source, folder / "bare.parquet")))
        quarantined = ingest(folder / "landing", folder / "home")
    if quarantined != bad:
        raise RuntimeError(f"{quarantined} rows are in quarantine, {bad} were broken")
    extra = {
        "rows": rows,
        "bytes": source.stat().st_size,
        "quarantined": bad,
        "threads": THREADS,
        "duckdb_memory": MEMORY,
        "peak_mb": round(memory.peak_mb),
        "seconds": {"ours": _rounded(ours, 0), "peer": _rounded(peers, 0)},
        "processor_seconds": {"ours": _rounded(ours, 1), "peer": _rounded(peers, 1)},
        "load": round(os.getloadavg()[0], 2),
    }
    return Row(
        f"{rows:,} JSON lines to Parquet, {BAD_SHARE:.1%} bad",
        round(rows / min(wall for wall, _ in ours)),
        round(rows / min(wall for wall, _ in peers)),
        "DuckDB read_json with given types to one Parquet file, bad lines dropped",
        "rows/s",
        "higher",
        extra,
    )


def _line(number: int, rows: int, rng: random.Random) -> bytes:
    kind = rng.choice(_TYPES)
    user, session, item = rng.randrange(70_000), rng.randrange(rows // 8 + 1), rng.randrange(20_000)
    text = (
        f'{{"id":"e250320-{number:07d}","ts":{_DAY_MS + number * 86_000_000 // rows},"type":"{kind}",'
        f'"user":"u{user:06d}","session":"s250320-{session:06d}",'
    )
    if kind == "search":
        text += f'"query":"linen shirt {item % 500}"'
    else:
        text += f'"item":"i{item:05d}"'
        text += f',"pos":{rng.randrange(1, 25)}' if kind in ("impression", "view") else ""
        text += f',"price":{rng.randrange(200, 90_000) / 100}' if kind != "impression" else ""
    return f"{text}}}\n".encode()


def _broken(line: bytes, way: int) -> bytes:
    return (
        line[: len(line) // 2] + b"\n",
        line.replace(b'"session":"', b'"session":"\xff\xfe'),
        line.replace(b'"ts":', b'"ts":"noon","t":'),
        line.replace(b'"type":"', b'"type":"tele'),
        line.replace(b'"user":', b'"usr":'),
    )[way]


def _rounded(timings: list[tuple[float, float]], which: int) -> list[float]:
    return [round(timing[which], 3) for timing in timings]


def main() -> int:
    """Measure, and write the record; return the exit code."""
    parser = argparse.ArgumentParser(description="JSON lines to Parquet, beside DuckDB's bare read.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, help="folder of the record, benchmarks/results where left out"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = run(asked.rows, asked.seed, Path(folder))
    target = {} if asked.results is None else {"results": asked.results}
    path = write("ingest", [row], asked.seed, **target)
    sys.stdout.write(f"{row.case}: {row.ours:,} {row.unit}, bare {row.peer:,}, ratio {row.ratio}; {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
