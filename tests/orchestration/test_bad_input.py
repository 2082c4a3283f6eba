"""What a person gets wrong: one line that names file and cause, exit code 1, and nothing touched."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml.artifacts import hash_folder

SPEC = """
name: shop
description: a small shop
license: none
start_date: 2025-03-01
history_event_types: [purchase]
events:
  path: "{day}.csv.gz"
  format: csv
  columns: {user_id: who, item_id: what, event_type: {constant: purchase}, event_ts: at}
"""
HEADER = "who,what,at"


def day(folder: Path, name: str, header: str = HEADER, rows: int = 30) -> Path:
    lines = [header, *(f"u{n % 7},i{n % 5},{name}T10:{n:02d}:00Z" for n in range(rows))]
    path = folder / f"{name}.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", mtime=0))
    return path


def demo(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestration", "demo", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(home) | variables, check=False
    )


def until_ingested(home: Path, name: str, spec: Path, landing: Path) -> None:
    """Run the demo until the lake has a day and items, and kill it: no test here is about what comes after."""
    command = [sys.executable, "-m", "orchestration", "demo", "--source", str(spec), "--data", str(landing)]
    begun = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    parts = [home / "lake" / part / "manifest.json" for part in (f"events/day={name}", "items")]
    try:
        while not all(part.is_file() for part in parts):
            assert begun.poll() is None, begun.communicate()[0].decode()
            time.sleep(0.1)
    finally:
        begun.kill()
        begun.communicate()


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TESSERA_")}
    return kept | {"TESSERA_HOME": str(home), "PYTHONDONTWRITEBYTECODE": ""}


def refused(result: subprocess.CompletedProcess[str], *told: str) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    errors = result.stderr.strip().splitlines()
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("error: ")
    for words in told:
        assert words in errors[0]


def test_unknown_source_lists_the_known(tmp_path: Path) -> None:
    refused(demo(tmp_path / "home", "--source", "nope"), "unknown source 'nope'", "simulator")
    assert not (tmp_path / "home").exists()


def test_malformed_spec_names_file_and_field(tmp_path: Path) -> None:
    spec = tmp_path / "shop.yaml"
    spec.write_text(SPEC.replace("event_ts: at", "event_tz: at"))
    refused(
        demo(tmp_path / "home", "--source", str(spec), "--data", str(tmp_path)), "shop.yaml", "events.columns"
    )


def test_unknown_recipe_is_refused_before_anything_runs(tmp_path: Path) -> None:
    result = demo(tmp_path / "home", TESSERA_RECIPES="transitions,nope")
    refused(result, "nope", "transitions")
    assert not (tmp_path / "home" / "lake").exists()


def test_missing_landing_files(tmp_path: Path) -> None:
    refused(demo(tmp_path / "home", "--source", "ml-100k", "--data", str(tmp_path / "void")), "void")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A home that has taken in a good day; returns spec, landing and home."""
    root = tmp_path_factory.mktemp("shop")
    spec, landing = root / "shop.yaml", root / "landing"
    landing.mkdir()
    spec.write_text(SPEC)
    day(landing, "2025-03-01")
    until_ingested(root / "home", "2025-03-01", spec, landing)
    return spec, landing, root / "home"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("truncated", ("2025-03-02.csv.gz", "Truncated")),
        ("column", ("2025-03-02.csv.gz", "'at'", "who, what, when")),
        ("empty", ("2025-03-02.csv.gz", "no rows")),
        ("gap", ("2025-03-02",)),
    ],
)
def test_bad_day_is_named_and_what_stood_stays(
    fault: str, told: tuple[str, ...], shop: tuple[Path, Path, Path]
) -> None:
    spec, landing, home = shop
    before = hash_folder(home / "lake")
    path = day(
        landing,
        "2025-03-03" if fault == "gap" else "2025-03-02",
        "who,what,when" if fault == "column" else HEADER,
        0 if fault == "empty" else 30,
    )
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    try:
        refused(demo(home, "--source", str(spec), "--data", str(landing)), "raw_events", *told)
    finally:
        path.unlink()
    assert hash_folder(home / "lake") == before


def test_full_disk_is_one_line_and_the_next_run_goes_on(shop: tuple[Path, Path, Path]) -> None:
    """A limit on file size stands in for a full disk: both surface as an OSError on write."""
    spec, landing, home = shop
    before = hash_folder(home / "lake")
    path = day(landing, "2025-03-02", rows=50)
    command = f"ulimit -f 1; exec {sys.executable} -m orchestration demo --source {spec} --data {landing}"
    try:
        result = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=environment(home), check=False
        )
    finally:
        path.unlink()
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert str(home) in result.stderr
    assert hash_folder(home / "lake") == before
    path = day(landing, "2025-03-02", rows=50)
    try:
        until_ingested(home, "2025-03-02", spec, landing)
    finally:
        path.unlink()
