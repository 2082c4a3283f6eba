"""The record of a speed benchmark: figures of ours with a peer's beside them, measured in the same run.

``python -m benchmarks.record NAME ...`` prints records.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from ml.artifacts import package_versions, read_json, write_json

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "tessera",
    "duckdb",
    "pyarrow",
    "dbt-core",
    "dbt-duckdb",
    "feast",
    "dagster",
    "numpy",
    "scipy",
    "torch",
    "faiss-cpu",
)


@dataclass(frozen=True)
class Row:
    """One case of a benchmark.

    Parameters
    ----------
    case
        What was done, in words a reader understands without the code.
    ours
        What Tessera came to, in ``unit``.
    peer
        What the peer came to, in the same unit and the same run; ``None`` where there is none.
    peer_name
        The peer with what it was told to do.
    unit
        For example ``"rows/s"`` or ``"seconds"``.
    better
        Which way is better.
    extra
        More that belongs to the case: sizes, memory, all repetitions.
    """

    case: str
    ours: float
    peer: float | None
    peer_name: str
    unit: str
    better: Literal["higher", "lower"]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's; ``None`` where there is no peer, or where it came to nothing."""
        return round(self.ours / self.peer, 4) if self.peer else None


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }


def write(name: str, rows: list[Row], seed: int | None = None, results: Path = RESULTS) -> Path:
    """Write ``results/NAME.json`` and return its path.

    Parameters
    ----------
    name
        Name of the benchmark.
    rows
        Its cases.
    seed
        Seed of the data that was measured on, where there was one.
    results
        Folder to write to.
    """
    told = {
        "benchmark": name,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **package_versions(*_PACKAGES)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "rows": [_told(row) for row in rows],
    }
    path = results / f"{name}.json"
    write_json(path, told)
    return path


def show(names: list[str], results: Path = RESULTS) -> None:
    """Print the cases of records, the peer's figures beside ours."""
    from rich.console import Console
    from rich.table import Table

    table = Table("benchmark", "case", "ours", "peer", "ratio", "unit", "the peer is")
    for name in names:
        for row in read_json(results / f"{name}.json")["rows"]:
            told = [_number(row[key]) for key in ("ours", "peer", "ratio")]
            table.add_row(name, row["case"], *told, f"{row['unit']}, {row['better']}", row["peer_name"])
    Console(width=200).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _told(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {
        "case": row.case,
        "ours": row.ours,
        "peer": row.peer,
        "peer_name": row.peer_name,
        "ratio": row.ratio,
        "unit": row.unit,
        "better": row.better,
    }
    return told | ({"extra": row.extra} if row.extra else {})


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    show(sys.argv[1:])
