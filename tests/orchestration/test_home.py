from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from orchestration import home as homes
from orchestration.settings import SettingsError


def hold(home: Path, source: str) -> None:
    homes.claim(home, source)
    homes.prepare(home, {"source": source})
    (home / "belongs-to").write_text(source)


def test_another_source_sets_the_home_aside_and_its_own_comes_back(tmp_path: Path) -> None:
    home = tmp_path / ".tessera"
    for source in ("simulator", "ml-100k", "deskdrop"):
        hold(home, source)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".tessera",
        ".tessera.ml-100k",
        ".tessera.simulator",
    ]
    homes.claim(home, "simulator")
    assert (home / "belongs-to").read_text() == "simulator"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tessera", ".tessera.deskdrop", ".tessera.ml-100k"]


def test_claim_that_was_killed_between_its_renames_is_mended(tmp_path: Path) -> None:
    home = tmp_path / ".tessera"
    hold(home, "simulator")
    home.rename(tmp_path / ".tessera.simulator")
    homes.claim(home, "simulator")
    assert (home / "belongs-to").read_text() == "simulator"


def test_claim_never_overwrites(tmp_path: Path) -> None:
    home = tmp_path / ".tessera"
    hold(home, "simulator")
    (tmp_path / ".tessera.simulator").mkdir()
    with pytest.raises(SettingsError, match="move one of them away"):
        homes.claim(home, "ml-100k")
    assert (home / "belongs-to").read_text() == "simulator"


def test_instance_sends_no_telemetry_and_has_one_writer_a_pool(tmp_path: Path) -> None:
    homes.prepare(tmp_path, {"source": "simulator"})
    written = yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())
    assert written["telemetry"] == {"enabled": False}
    assert written["concurrency"]["pools"] == {"granularity": "op", "default_limit": 1}


def test_second_holder_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = pytest.raises(SettingsError, match="another demo or UI is at work")
    with homes.only_one(home), refused, homes.only_one(home):
        pass
    with homes.only_one(home):
        pass


def test_remembered_data_is_found_in_a_home_set_aside(tmp_path: Path) -> None:
    home = tmp_path / ".tessera"
    homes.prepare(home, {"source": "ml-100k", "data": "/logs"})
    homes.claim(home, "simulator")
    homes.prepare(home, {"source": "simulator", "data": None})
    assert homes.remembered_data(home, "ml-100k") == "/logs"
    assert homes.remembered_data(home, "simulator") is None


def test_other_days_are_forgotten(tmp_path: Path) -> None:
    for name in (
        "lake/events/day=2025-03-01",
        "lake/events/day=2025-03-02",
        "quarantine/events/day=2025-03-02",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "quarantine" / "events" / "day=undated").mkdir()
    homes.forget_other_days(tmp_path, [date(2025, 3, 1)])
    assert sorted(p.name for p in tmp_path.rglob("day=*")) == ["day=2025-03-01", "day=undated"]


def test_sweep_removes_unfinished_publications_alone(tmp_path: Path) -> None:
    for name in (
        ".marts.abc",
        "marts",
        "lake/events/.day=1.x",
        "lake/events/day=1",
        "models/sasrec/h/.full.x",
    ):
        (tmp_path / name).mkdir(parents=True)
    homes.sweep(tmp_path)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert left == [
        "lake",
        "lake/events",
        "lake/events/day=1",
        "marts",
        "models",
        "models/sasrec",
        "models/sasrec/h",
    ]
