"""Runs that are killed anywhere and run again end where undisturbed ones do, and no reader sees anything half done."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import watchers
from night import Night, nights, until

from ml.artifacts import MANIFEST, current, hash_file, read_json
from ml.vectors.fused import load_vectors
from orchestration.simulate import simulate
from orchestration.simulate.config import SimulationConfig

DEMO = {"DAYS": "5", "EVENTS": "8000", "ITEMS": "300", "USERS": "250"}
DEMO_KILLS = 8
TINY = SimulationConfig(days=8, events=6000, items=150, users=120)
LOADED = 3  # days that the second storm finds in the home
# What a stage writes, below the home.
WRITES = {
    "ingest": ("lake", "quarantine"),
    "dbt": ("warehouse.*",),
    "export": (".marts.*", "marts"),
    "materialize": ("feast",),
}
# What is made read-only, so that a stage cannot write; root may write wherever a mode says no.
PLACES = {
    "ingest": "lake/events",
    "dbt": "warehouse.duckdb",
    "export": "marts",
    "materialize": "feast/online.db",
}
DISK_MB = 64
FIRST_LOAD = {"ingest": 4, "dbt": 4, "export": 2, "materialize": 2}
MORE_DAYS = {"ingest": 5, "dbt": 6, "export": 4, "materialize": 4}


def start(home: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {f"TESSERA_SIMULATION__{name}": value for name, value in DEMO.items()}
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
    for _ in range(DEMO_KILLS):
        process = start(tmp_path / "stormy")
        try:
            process.wait(timeout=moments.uniform(0.02, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert start(tmp_path / "stormy").wait() == 0
    assert state(tmp_path / "stormy") == state(tmp_path / "calm")


@dataclass
class World:
    """Logs, a way to run ``backfill`` on them, and what undisturbed runs left.

    Parameters
    ----------
    landing
        All files of the logs.
    run
        Starts a run.
    loaded
        A home with the first days.
    calm
        What one undisturbed run over all days left.
    spans
        Seconds of each stage in that run.
    """

    landing: Path
    run: Callable[..., Night]
    loaded: Path
    calm: dict[str, Any]
    spans: dict[str, float]
    days: list[date] = field(default_factory=list)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    simulate(TINY, root / "landing", root / "truth")
    days = sorted(date.fromisoformat(path.stem) for path in (root / "landing" / "events").glob("*.jsonl"))
    with nights({}, root) as run:
        for name, some in (("calm", days), ("loaded", days[:LOADED])):
            for day in some:
                land(root / "landing", root / name, day)
            night = run(root / name, some)
            assert night.wait() == 0, night.log.read_text()[-3000:]
            if name == "calm":
                spans = night.spans()
        yield World(root / "landing", run, root / "loaded", contents(root / "calm"), spans, days)


def land(landing: Path, home: Path, day: date, share: float = 1.0) -> None:
    """Let the files of a day appear in a home, or the first part of them."""
    for kind in ("events", "items"):
        file = landing / kind / f"{day}.jsonl"
        if file.is_file():
            lines = file.read_bytes().splitlines(keepends=True)
            target = home / "landing" / kind / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = lines[: int(share * len(lines))] if kind == "events" else lines
            target.with_suffix(".part").write_bytes(b"".join(kept))
            target.with_suffix(".part").replace(target)


def contents(home: Path) -> dict[str, Any]:
    """What ``backfill`` leaves, by content: lake, quarantine, every part of every mart, the online store, vectors.

    Fused vectors are named by the bytes of text vectors, and these depend on which texts were encoded together.
    """
    from serving.features import FeatureLookup

    lookup = FeatureLookup(home, clock=lambda: watchers.NOW)
    users = pq.read_table(home / "marts" / "dim_users.parquet", columns=["user_id"])["user_id"].to_pylist()
    items = pq.read_table(home / "marts" / "dim_items.parquet", columns=["item_id"])["item_id"].to_pylist()
    return {
        "lake": watchers.read_days(home / "lake"),
        "catalogue": hash_file(home / "lake" / "items" / "items.parquet"),
        "quarantine": {
            path.parent.name: hash_file(path) for path in (home / "quarantine").rglob("rejected.parquet")
        },
        "marts": watchers.read_marts(home / "marts"),
        "users": [lookup.user(user) for user in users],
        "items": lookup.items(items),
        "vectors": {
            name: version
            for name, version in watchers.read_versions(home).items()
            if name in ("vectors/text", "vectors/behaviour")
        },
    }


def storm(world: World, home: Path, kills: dict[str, int], seed: int) -> Counter[str]:
    """Run and kill, while days land and files are replaced by longer ones; return in which stages kills fell."""
    chance = random.Random(seed)
    targets = [stage for stage, times in kills.items() for _ in range(times)]
    chance.shuffle(targets)
    landed = len(list((home / "landing" / "events").glob("*.jsonl")))
    struck: Counter[str] = Counter()
    alone = []
    planned = len(targets)
    for number in range(2 * planned):
        if not targets:
            break
        stage = targets.pop(0)
        # The other days land in the course of the storm: some of them first a part, then all of it.
        due = LOADED + (len(world.days) - LOADED) * min(number + 1, planned) // planned
        for day in world.days[landed:due]:
            land(world.landing, home, day, chance.choice((0.9, 1.0)))
        if chance.random() < 0.5:
            land(world.landing, home, world.days[chance.randrange(due)])
        landed = due
        night = world.run(home, world.days[:landed])
        if chance.random() < 0.5:
            strike_by_time(night, stage, chance.uniform(0, 0.6 * world.spans[stage]))
        else:
            strike_by_writes(night, home, stage, chance.randint(1, 8))
        group = chance.random() < 0.8
        with contextlib.suppress(ProcessLookupError):
            night.kill(group)
        code = night.wait()
        assert code in (0, -signal.SIGKILL), night.log.read_text()[-3000:]
        if code:
            struck[night.stage()] += 1
            alone += [] if group else [night]
        if not code or night.stage() != stage:
            targets.append(stage)  # it was over too soon
    for day in world.days:
        land(world.landing, home, day)
    night = world.run(home, world.days)
    assert night.wait() == 0, night.log.read_text()[-3000:]
    for other in alone:  # dbt that outlived its run
        with contextlib.suppress(ProcessLookupError):
            other.kill()
    return struck


def strike_by_time(night: Night, stage: str, seconds: float) -> None:
    if until(lambda: night.stage() == stage, night.is_over):
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end, lambda: night.is_over() or night.stage() != stage)


def strike_by_writes(night: Night, home: Path, stage: str, changes: int) -> None:
    """Return after the stage has written so many times."""
    until(lambda: night.stage() == stage, night.is_over)
    before, seen = written(home, stage), 0

    def enough() -> bool:
        nonlocal before, seen
        now = written(home, stage)
        seen += now != before
        before = now
        return seen >= changes

    until(enough, lambda: night.is_over() or night.stage() != stage)


def written(home: Path, stage: str) -> list[tuple[str, int, int]]:
    """Return every file that a stage writes, with size and time."""
    files = []
    for pattern in WRITES[stage]:
        for top in home.glob(pattern):
            for folder, _, names in os.walk(top):
                for name in [".", *names]:
                    with contextlib.suppress(FileNotFoundError):
                        stat = (Path(folder) / name).stat()
                        files.append((f"{folder}/{name}", stat.st_size, stat.st_mtime_ns))
            with contextlib.suppress(FileNotFoundError):
                files.append((str(top), top.stat().st_size, top.stat().st_mtime_ns))
    return sorted(files)


@contextlib.contextmanager
def watched(home: Path, found: Path, users: list[str]) -> Iterator[None]:
    """Let a reader read all the while; fail if it saw anything that it should not have."""
    reader = subprocess.Popen([sys.executable, watchers.__file__, str(home), str(found), *users])
    try:
        yield
    finally:
        reader.kill()
        reader.wait()
    lines = found.read_text().splitlines()
    faults = [line for line in lines if line.startswith("fault")]
    assert not faults, faults[0]
    assert len(lines) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "seed", "loaded"),
    [(FIRST_LOAD, 1, False), (MORE_DAYS, 2, True)],
    ids=["first load", "more days on top"],
)
def test_killed_runs_end_where_undisturbed_ones_do(
    world: World, tmp_path: Path, kills: dict[str, int], seed: int, loaded: bool
) -> None:
    home = tmp_path / "home"
    if loaded:
        shutil.copytree(world.loaded, home)
    else:
        for day in world.days[:LOADED]:
            land(world.landing, home, day)
    users = [features.user_id for features in world.calm["users"][::12]]
    with watched(home, tmp_path / "found", users):
        struck = storm(world, home, kills, seed)
    sys.stdout.write(f"kills fell in: {dict(struck)}\n")
    assert struck.total() >= sum(kills.values())
    assert all(struck[stage] >= 2 for stage in kills), struck
    assert contents(home) == world.calm
    ids, vectors = load_vectors(current(home / "vectors" / "fused"))
    calm_ids, calm_vectors = load_vectors(current(world.loaded.parent / "calm" / "vectors" / "fused"))
    assert ids == calm_ids
    np.testing.assert_allclose(vectors, calm_vectors, atol=1e-3)


def test_thirty_kills_are_planned() -> None:
    assert sum(FIRST_LOAD.values()) + sum(MORE_DAYS.values()) >= 30


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of its own, or skip where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tessera-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk: mounting one takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler


def assert_stands_and_mends(world: World, home: Path, night: Night) -> None:
    """The run failed and said why in a line; what stood is whole. ``next`` mends."""
    assert night.wait() == 1, night.log.read_text()[-3000:]
    assert len(night.error().splitlines()) == 1
    watchers.read_marts(home / "marts")
    watchers.read_days(home / "lake")
    watchers.read_versions(home)
    user = world.calm["users"][0].user_id
    assert watchers.OnlineReader(home, [user]).read() in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("stage", WRITES)
def test_full_disk_in_any_stage_is_one_line_and_the_next_run_mends(
    world: World, tmp_path: Path, stage: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        home = Path(shutil.copytree(world.loaded, disk / "home"))
        for day in world.days:
            land(world.landing, home, day)
        night = world.run(home, world.days)
        assert until(lambda: night.stage() == stage, night.is_over)
        filler = fill(disk)
        assert_stands_and_mends(world, home, night)
        filler.unlink()
        again = world.run(home, world.days)
        assert again.wait() == 0, again.log.read_text()[-3000:]
        assert contents(home) == world.calm


@pytest.mark.slow
@pytest.mark.parametrize("stage", PLACES)
def test_read_only_place_is_one_line_and_the_next_run_mends(world: World, tmp_path: Path, stage: str) -> None:
    home = Path(shutil.copytree(world.loaded, tmp_path / "home"))
    for day in world.days:
        land(world.landing, home, day)
    place = str(home / PLACES[stage])
    if subprocess.run(["chattr", "+i", place], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be made read-only here: chattr takes root, and a file system that knows it")
    try:
        night = world.run(home, world.days)
        assert_stands_and_mends(world, home, night)
    finally:
        subprocess.run(["chattr", "-i", place], check=True)
    again = world.run(home, world.days)
    assert again.wait() == 0, again.log.read_text()[-3000:]
    assert contents(home) == world.calm
