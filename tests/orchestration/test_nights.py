"""Faults of whole nights: what is published stays whole, is what was before or what comes after, and the next night mends."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import watchers
from night import Night, nights, until
from test_kill import TINY, contents, fill, land, small_disk, strike_by_time

from ml.artifacts import read_json
from orchestration.partitions import range_tags
from orchestration.simulate import simulate
from serving.parity import check_parity

pytestmark = pytest.mark.slow
SETTINGS = {"TESSERA_RECIPES": "popularity,transitions"}
KILLS = 20
NOW = datetime(2025, 3, 9, tzinfo=UTC)


@dataclass
class Town:
    """A home with a champion, the logs of one more day, and what an undisturbed night makes of it.

    Parameters
    ----------
    landing
        All files of the logs.
    run
        Starts a run.
    ready
        The home before the night; the files of the last day have landed.
    before, after
        What is published before and after an undisturbed night.
    calm
        What that night left, by content.
    seconds
        How long it took.
    """

    landing: Path
    run: Callable[..., Night]
    ready: Path
    before: dict[str, Any]
    after: dict[str, Any]
    calm: dict[str, Any]
    seconds: float
    day: date

    def copy(self, home: Path) -> Path:
        shutil.rmtree(home, ignore_errors=True)
        return Path(shutil.copytree(self.ready, home))

    def night(self, home: Path, **more: Any) -> Night:
        return self.run(home, [self.day], "nightly", **more)

    def assert_mended(self, home: Path) -> None:
        """One more night, and all is as if nothing had happened."""
        night = self.night(home)
        assert night.wait() == 0, night.log.read_text()[-3000:]
        # How many publications there were before it is no part of what is published.
        assert published(home) | {"publication": 0} == self.after | {"publication": 0}
        assert contents(home) == self.calm


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    root = tmp_path_factory.mktemp("town")
    simulate(TINY, root / "landing", root / "truth")
    days = sorted(date.fromisoformat(path.stem) for path in (root / "landing" / "events").glob("*.jsonl"))
    ready, calm = root / "ready", root / "calm"
    with nights(SETTINGS, root) as run:
        for day in days[:-1]:
            land(root / "landing", ready, day)
        night = run(ready, days[:-1], "backfill", "retrain")
        assert night.wait() == 0, night.log.read_text()[-3000:]
        before = published(ready)
        land(root / "landing", ready, days[-1])
        shutil.copytree(ready, calm)
        began = time.monotonic()
        night = run(calm, days[-1:], "nightly")
        assert night.wait() == 0, night.log.read_text()[-3000:]
        seconds = time.monotonic() - began
        after = published(calm)
        assert after != before
        yield Town(root / "landing", run, ready, before, after, contents(calm), seconds, days[-1])


def published(home: Path) -> dict[str, Any]:
    """Return what the service is pointed at, but for the newcomers, after loading it as the service does; each part is whole."""
    from serving.published import load_engine

    watchers.read_marts(home / "marts")
    watchers.read_days(home / "lake")
    watchers.read_versions(home)
    engine = load_engine(home)
    assert engine.most_popular(3).items
    found: dict[str, Any] = read_json(home / "champion.json")
    lists = pq.read_table(home / found["recommendations"] / "recommendations.parquet")
    assert lists.num_rows > 0
    # Named by fused vectors, whose bytes depend on which texts were encoded together.
    assert found.pop("newcomers").startswith("newcomers/")
    return found


def test_twenty_kills_at_random_moments(town: Town, tmp_path: Path) -> None:
    """Each is followed by a look; the last night ends in the tables of an undisturbed one."""
    chance = random.Random(7)
    struck: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    home = town.copy(tmp_path / "home")
    before, after = (told | {"publication": 0} for told in (town.before, town.after))
    while struck.total() < KILLS:
        night = town.night(home)
        if struck.total() % 4 == 3:
            # Publishing is soon over: chance alone would seldom meet it.
            strike_by_time(night, chance.choice(("semantic_ids", "index", "publish")), chance.uniform(0, 0.5))
        else:
            end = time.monotonic() + chance.uniform(0.05, 1.0) * town.seconds
            until(lambda end=end: time.monotonic() > end, night.is_over)  # type: ignore[misc]
        night.kill()
        if night.wait() == -signal.SIGKILL:
            struck[night.stage()] += 1
        # A kill between the record of a publication and what is live leaves a number behind, which is not given again.
        found = published(home) | {"publication": 0}
        assert found in (before, after)
        seen["after" if found == after else "before"] += 1
        if found == after:
            # The next ones have something to do again.
            town.copy(home)
    sys.stdout.write(f"kills fell in: {dict(struck)}, then stood: {dict(seen)}\n")
    assert len(struck) >= 4, struck
    assert seen["before"] >= KILLS // 2
    town.assert_mended(home)


def command(home: Path, log: Path, day: date) -> subprocess.Popen[bytes]:
    """Start a night as cron would: Dagster's own command, which knows nothing of the demo, the UI or its queue."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TESSERA_", "DAGSTER_"))}
    environment |= SETTINGS | {"TESSERA_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
    tags = json.dumps(range_tags(day.isoformat(), day.isoformat()))
    job = [
        "-m",
        "dagster",
        "job",
        "execute",
        "-m",
        "orchestration.definitions",
        "-j",
        "nightly",
        "--tags",
        tags,
    ]
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, *job], env=environment, stdout=file, stderr=file)


def test_second_night_is_refused_and_a_killed_one_frees_the_home(town: Town, tmp_path: Path) -> None:
    home = town.copy(tmp_path / "home")
    logs = [tmp_path / f"{name}.log" for name in ("first", "second")]
    first = command(home, logs[0], town.day)
    try:
        # The warehouse holds a pool then, which nobody would free.
        started = b"warehouse - STEP_START"
        assert until(lambda: started in logs[0].read_bytes(), lambda: first.poll() is not None)
        second = command(home, logs[1], town.day)
        assert second.wait() == 1
        refused = f"SettingsError: another run is at work on {home}: wait for its end"
        assert refused in logs[1].read_text()
        assert "STEP_START" not in logs[1].read_text()
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert published(home) == town.before
    town.assert_mended(home)


@pytest.mark.parametrize("stage", ["index", "publish"])
def test_full_disk_while_publishing_leaves_what_stood(town: Town, tmp_path: Path, stage: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        home = town.copy(disk / "home")
        night = town.night(home)
        assert until(lambda: night.stage() == stage, night.is_over), night.log.read_text()[-3000:]
        filler = fill(disk)
        code = night.wait()
        filler.unlink()
        # What was written already may have been all of it.
        if code:
            assert code == 1, night.log.read_text()[-3000:]
            assert len(night.error().splitlines()) == 1
        assert published(home) in (town.before, town.after)
        town.assert_mended(home)


def test_registry_and_online_store_gone(town: Town, tmp_path: Path) -> None:
    """The service and the night do not need the one; a retrain says so, and publishes nothing. The night fills the other."""
    home = town.copy(tmp_path / "home")
    registry = home / "mlflow" / "mlflow.db"
    assert registry.is_file()
    registry.write_bytes(b"not a database" * 1000)
    assert published(home) == town.before
    retrain = town.run(home, [town.day], "retrain")
    assert retrain.wait() == 1, retrain.log.read_text()[-3000:]
    assert len(retrain.error().splitlines()) == 1
    assert f"{registry} cannot be used: file is not a database" in retrain.error()
    assert published(home) == town.before
    for path in (home / "feast").glob("online.db*"):
        path.unlink()
    town.assert_mended(home)


def test_clock_jumps_for_two_nights(town: Town, tmp_path: Path) -> None:
    """Both publish what an undisturbed night does. Online are no features that are too old by the clock, or to come."""
    home = town.copy(tmp_path / "home")
    for jump, blank in (
        (timedelta(days=400), {"item_stats", "user_activity"}),
        (timedelta(days=-40), {"item_stats", "user_activity", "user_history"}),
    ):
        night = town.night(home, now=NOW + jump)
        assert night.wait() == 0, night.log.read_text()[-3000:]
        assert published(home) == town.after | {"as_of": None}
        parity = check_parity(home, sample=20)
        assert {name for name, view in parity.items() if view.unserved} == blank
        assert {view.end for view in parity.values()} == {NOW + jump}
    town.assert_mended(home)
