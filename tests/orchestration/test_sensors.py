from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from ml.artifacts import write_json
from orchestration.defs import sensors
from orchestration.ingest.spec import load_spec
from orchestration.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = Settings(home=tmp_path, data=tmp_path / "landing")
    monkeypatch.setattr(sensors, "get_settings", lambda: settings)
    (tmp_path / "landing" / "events").mkdir(parents=True)
    return tmp_path


def land(home: Path, day: str, content: str) -> None:
    (home / "landing" / "events" / f"{day}.jsonl").write_text(content)


def requested(home: Path) -> dict[str, str]:
    result = sensors.landing_files(dg.build_sensor_context())
    if isinstance(result, dg.SkipReason):
        return {}
    return {request.partition_key: request.run_key for request in result.run_requests}


def test_each_new_day_is_asked_for_until_it_is_read(home: Path) -> None:
    land(home, "2025-03-01", "a")
    land(home, "2025-03-02", "b")
    assert sorted(requested(home)) == ["2025-03-01", "2025-03-02"]
    manifest = {"files": [{"name": "events/2025-03-01.jsonl", "bytes": 1}]}
    write_json(home / "lake" / "events" / "day=2025-03-01" / "manifest.json", manifest)
    assert sorted(requested(home)) == ["2025-03-02"]


def test_mended_file_is_asked_for_again_under_a_new_key(home: Path) -> None:
    land(home, "2025-03-01", "bad")
    before = requested(home)["2025-03-01"]
    assert requested(home)["2025-03-01"] == before
    land(home, "2025-03-01", "mended")
    assert requested(home)["2025-03-01"] != before


def test_nothing_to_do_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = sensors.landing_files(dg.build_sensor_context())
    assert isinstance(skipped, dg.SkipReason)
    assert "nothing new" in skipped.skip_message
    monkeypatch.setattr(sensors, "source_spec", lambda: load_spec("ml-100k"))
    skipped = sensors.landing_files(dg.build_sensor_context())
    assert isinstance(skipped, dg.SkipReason)
    assert "by hand" in skipped.skip_message
