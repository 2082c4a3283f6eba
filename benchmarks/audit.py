"""What public logs can show at all: ``python -m benchmarks.audit DATASET ...`` writes ``results/audit-DATASET.json``.

A dataset is the folder of a snapshot (`ml.snapshot`), or of a log of `benchmarks.logs`, of which one is cut first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.logs import LOGS
from benchmarks.record import RESULTS, machine
from benchmarks.snapshots import cut
from ml.artifacts import is_complete, package_versions, write_json
from ml.evaluation.audit import Audit, audit
from ml.snapshot import load_snapshot

_PACKAGES = ("tessera", "numpy", "torch")


def main(argv: list[str] | None = None) -> int:
    """Audit, print and record; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument(
        "datasets", nargs="+", metavar="DATASET", help="a folder, or a log's name below --root"
    )
    parser.add_argument(
        "--root", type=Path, default=os.environ.get("TESSERA_DATASETS"), help="where logs are"
    )
    parser.add_argument("--users", type=int, default=4000, help="validation queries to tune on")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    options = parser.parse_args(argv)
    for name in options.datasets:
        folder = Path(name) if Path(name).is_dir() or options.root is None else Path(options.root) / name
        if not is_complete(folder) and folder.name not in LOGS:
            parser.error(f"{name} is neither a snapshot nor one of {', '.join(sorted(LOGS))}")
        began = time.process_time()
        found = _audit(folder, options.users)
        told = _record(folder.name, found, time.process_time() - began)
        write_json(options.out / f"audit-{folder.name}.json", told)
        sys.stdout.write(f"{folder.name}: {found.verdict}\n")
        for row in found.rows():
            against = f"{row['against']} {row['that is']:.4f}"
            sys.stdout.write(f"  {row['measure']}: {row['value']:.4f} ({against})\n")
    return 0


def _audit(folder: Path, users: int) -> Audit:
    if is_complete(folder):
        return audit(load_snapshot(folder), users)
    with tempfile.TemporaryDirectory(prefix="tessera-audit-") as work:
        return audit(load_snapshot(cut(folder, Path(work))), users)


def _record(name: str, found: Audit, seconds: float) -> dict[str, Any]:
    return {
        "benchmark": f"audit-{name}",
        "dataset": name,
        **found.to_json(),
        "provenance": {
            "machine": machine(),
            "versions": package_versions(*_PACKAGES),
            "cpu_seconds": round(seconds, 1),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


if __name__ == "__main__":
    sys.exit(main())
