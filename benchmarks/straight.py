"""The peer of the warehouse build: the same marts by plain SQL in one DuckDB process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb

SQL = Path(__file__).with_suffix(".sql")
MARTS = (
    "dim_items",
    "dim_users",
    "fct_events",
    "ftr_item__stats",
    "ftr_user__activity",
    "ftr_user__history",
    "item_daily",
    "item_transitions",
    "user_daily",
    "user_histories",
)


@dataclass(frozen=True)
class Straight:
    """What the peer took.

    Parameters
    ----------
    seconds
        By table, of SQL alone.
    total
        Seconds of all of it.
    peak_mb
        Highest resident memory of its process.
    """

    seconds: dict[str, float]
    total: float
    peak_mb: int


def build_straight(lake: Path, database: Path, memory: str) -> Straight:
    """Build the marts of a lake into a new DuckDB file, in a process of its own with two threads."""
    database.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.straight", str(lake), str(database), memory]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Straight(**json.loads(done.stdout))


def differences(database: Path, marts: Path) -> list[str]:
    """Return the marts whose rows are not, as a set with multiplicities, those of the peer."""
    found = []
    with duckdb.connect(str(database), read_only=True, config={"threads": 2}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for mart in MARTS:
            path = marts / mart
            files = f"{path}/*.parquet" if path.is_dir() else f"{path}.parquet"
            columns = ", ".join(
                name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM '{files}'").fetchall()
            )
            sums = {
                connection.execute(
                    f"SELECT count(*), sum(CAST(hash({columns}) AS HUGEINT)) FROM {relation}"
                ).fetchone()
                for relation in (mart, f"'{files}'")
            }
            if len(sums) > 1:
                found.append(mart)
    return found


def main() -> None:
    """Build, as the command line says, and print what it took."""
    import resource

    lake, database, memory = sys.argv[1:4]
    seconds: dict[str, float] = {}
    with duckdb.connect(database, config={"threads": 2, "memory_limit": memory}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for statement in SQL.read_text(encoding="utf-8").replace("LAKE", lake).split(";\n"):
            if "create" not in statement:
                continue
            began = time.monotonic()
            connection.execute(statement)
            _, kind, name, *_ = statement[statement.index("create") :].split()
            if kind == "table":
                seconds[name] = round(time.monotonic() - began, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    total = round(sum(seconds.values()), 2)
    sys.stdout.write(json.dumps({"seconds": seconds, "total": total, "peak_mb": peak}))


if __name__ == "__main__":
    main()
