"""A demo that is killed anywhere and run again ends where an undisturbed one does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ml.artifacts import MANIFEST, current, read_json

TINY = {"DAYS": "5", "EVENTS": "8000", "ITEMS": "300", "USERS": "250"}
KILLS = 8


def start(home: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {f"TESSERA_SIMULATION__{name}": value for name, value in TINY.items()}
    environment |= {"TESSERA_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration", "demo"], env=environment, stdout=subprocess.DEVNULL
    )


def state(home: Path) -> dict[str, object]:
    """What the chain leaves: tables, IDs, snapshot and lists, by content."""
    marts = read_json(home / "marts" / MANIFEST)["inputs"]
    versions = {
        name: current(home / name).name for name in ("semantic_ids", "snapshots", "tokenizers", "index")
    }
    lists = pq.read_table(current(home / "recommendations") / "recommendations.parquet")
    return {"marts": marts, "versions": versions, "lists": lists.drop_columns("title").to_pylist()}


@pytest.mark.slow
def test_killed_demo_ends_in_the_same_tables(tmp_path: Path) -> None:
    began = time.monotonic()
    assert start(tmp_path / "calm").wait() == 0
    whole = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(KILLS):
        process = start(tmp_path / "stormy")
        try:
            process.wait(timeout=moments.uniform(0.02, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert start(tmp_path / "stormy").wait() == 0
    assert state(tmp_path / "stormy") == state(tmp_path / "calm")
