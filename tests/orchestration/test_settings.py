from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml.artifacts import write_json
from orchestration.settings import SettingsError, get_settings


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Set through monkeypatch so that what get_settings exports is undone as well.
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_variables_win_over_what_the_home_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "settings.json", {"source": "ml-100k", "data": "/logs", "clock": "logs"})
    monkeypatch.setenv("TESSERA_SOURCE", "deskdrop")
    settings = get_settings()
    assert (settings.source, settings.landing, settings.clock) == ("deskdrop", Path("/logs"), "logs")
    assert settings.marts == tmp_path / "marts"


def test_lists_and_nested_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_RECIPES", "transitions, sasrec,")
    monkeypatch.setenv("TESSERA_SIMULATION__EVENTS", "1234")
    assert get_settings().recipes == ("transitions", "sasrec")
    assert get_settings().simulation.events == 1234


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TESSERA_TOKENIZER", "magic", "unknown tokenizer recipe 'magic'; known: "),
        ("TESSERA_BEHAVIOUR", "magic", "behaviour: Input should be 'ppmi', 'als' or 'sasrec'"),
        ("TESSERA_FUSION", "magic", "fusion: Input should be 'concatenate', 'project', 'whiten' or 'align'"),
        ("TESSERA_MAX_BAD_SHARE", "2", "max_bad_share: Input should be less than or equal to 1"),
        ("TESSERA_RECIPE", "tiger", "TESSERA_RECIPE is not a setting; known are"),
        ("TESSERA_SIMULATION__DAYS", "0", "simulation.days"),
    ],
)
def test_nonsense_is_one_line(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        get_settings()
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_clock_of_past_logs_stands_at_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2025-03-01", "2025-03-30"):
        (tmp_path / "lake" / "events" / f"day={day}").mkdir(parents=True)
    assert datetime.now(UTC) - get_settings().now() < timedelta(minutes=1)
    monkeypatch.setenv("TESSERA_CLOCK", "logs")
    get_settings.cache_clear()
    assert get_settings().now() == datetime(2025, 3, 31, tzinfo=UTC)
