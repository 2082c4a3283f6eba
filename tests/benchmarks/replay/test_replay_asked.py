"""A replay goes on with the nights of an identical call, and with no others."""

from __future__ import annotations

import shutil
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.replay import __main__ as replay
from ml.artifacts import read_json, write_json


class Town:
    """Logs of six days, and a replay of them in which no job runs."""

    def __init__(self, root: Path) -> None:
        self.logs, self.work, self.results = root / "logs", root / "work", root / "results"
        self.lived: list[list[str]] = []
        for day in range(1, 7):
            path = self.logs / "events" / f"2025-03-0{day}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n")

    def live(self, work: Path, _: Any, first: date, days: list[date]) -> None:
        self.lived.append([str(first), *map(str, days)])
        (work / "start").mkdir(exist_ok=True)
        write_json(work / "start.json", {})

    def replay(self, **changed: Any) -> None:
        asked = {"source": "simulator", "data": self.logs, "days": 2, "until": None, "folder": self.work}
        replay.main(**asked | {"recipes": "popularity,transitions"} | changed)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    town = Town(tmp_path)
    # What `main` sets is taken back after the test.
    monkeypatch.setenv("TESSERA_RECIPES", "transitions")
    monkeypatch.setattr(replay, "live", town.live)
    monkeypatch.setattr(replay, "judged", lambda *_: {})
    monkeypatch.setattr(replay, "write_page", lambda *_: "page")
    monkeypatch.setattr(replay, "RESULTS", town.results)
    return town


def test_identical_call_goes_on_and_its_record_says_what_was_asked(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_USER_SECRET", "0123456789abcdef")
    town.replay()
    # Without `until` the last day is the log's: to name it asks for nothing else.
    town.replay(until=datetime(2025, 3, 6))
    assert town.lived == [["2025-03-01", "2025-03-05", "2025-03-06"]] * 2
    asked = read_json(town.work / "asked.json")
    assert (asked["days"], asked["settings"]["user_secret"]) == (["2025-03-05", "2025-03-06"], "**********")
    record = read_json(town.results / "replay-simulator.json")
    assert (record["recipes"], record["code"]) == (["popularity", "transitions"], asked["code"])


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"days": 3}, "days"),
        ({"until": datetime(2025, 3, 5)}, "days"),
        ({"recipes": "transitions"}, "recipes"),
        ({"data": "other"}, "data"),
        ({"code": "other"}, "code"),
        ({"seed": "7"}, "settings"),
    ],
)
def test_nights_of_another_call_are_not_gone_on_with(
    town: Town, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], differs: str
) -> None:
    town.replay()
    with monkeypatch.context() as patched:
        if "data" in changed:
            changed = {"data": shutil.copytree(town.logs, town.logs.with_name("other"))}
        if code := changed.pop("code", None):
            patched.setattr(replay, "code_of_nights", lambda: code)
        if seed := changed.pop("seed", None):
            patched.setenv("TESSERA_SEED", seed)
        with pytest.raises(SystemExit) as refused:
            town.replay(**changed)
    assert refused.value.code == (
        f"error: {town.work} holds nights of another replay, whose {differs} differed: "
        "remove that folder, or name another by --folder"
    )
    assert len(town.lived) == 1
    town.replay()
    assert len(town.lived) == 2


def test_nights_of_which_nobody_noted_what_was_asked_are_refused(town: Town) -> None:
    (town.work / "start").mkdir(parents=True)
    with pytest.raises(SystemExit, match=f"{town.work} holds nights of another replay"):
        town.replay()
    assert town.lived == []
