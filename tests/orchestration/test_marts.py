"""Which parts of the exported marts are written again."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import read_manifest
from orchestration.marts import certify, dated_marts, is_unfinished, lay_out, plan_export
from orchestration.warehouse import UNFINISHED, LoadedDays

DATED = {"facts": "event_date", "features": "event_timestamp"}
START = date(2025, 3, 3)  # a Monday


def loaded(**changed: str) -> LoadedDays:
    """Return four weeks of lake days, each with events of its own date only."""
    days = [str(START + timedelta(days=n)) for n in range(28)]
    return LoadedDays(
        project="p",
        days={day: changed.get(day.replace("-", "_").replace("2025", "d"), "same") for day in days},
        event_dates={day: (day, day) for day in days},
    )


def export(marts: Path, state: LoadedDays, parts: dict[str, list[str]]) -> None:
    """Publish a mart as the asset does, with what dbt would write."""
    plan = plan_export(marts, DATED, state, "week")
    assert plan is not None
    staging = marts.with_name("staging")
    staging.mkdir()
    lay_out(plan, marts, staging)
    for name, keys in parts.items():
        for key in keys:
            pq.write_table(pa.table({"x": [key, str(state.days)]}), staging / name / f"{key}.parquet")
    pq.write_table(pa.table({"x": [1, 2, 3]}), staging / "plain.parquet")
    certify(plan, staging)
    if marts.exists():
        marts.rename(marts.with_name("old"))
    staging.rename(marts)


WEEKS = ["2025-03-03", "2025-03-10", "2025-03-17", "2025-03-24"]
ALL = {"facts": WEEKS, "features": [*WEEKS, "2025-03-31"]}


def test_first_export_writes_everything_and_counts_it(tmp_path: Path) -> None:
    plan = plan_export(tmp_path / "marts", DATED, loaded(), "week")
    assert plan is not None
    assert (plan.ranges, plan.kept, plan.folders) == ({}, {}, ("facts", "features"))
    export(tmp_path / "marts", loaded(), ALL)
    manifest = read_manifest(tmp_path / "marts", "marts")
    assert manifest.metrics["rows"] == {"facts": 8, "features": 10, "plain": 3}
    assert set(manifest.inputs) == {f"{n}/{k}" for n, keys in ALL.items() for k in keys} | {"plain"}


def test_same_state_needs_no_export(tmp_path: Path) -> None:
    export(tmp_path / "marts", loaded(), ALL)
    assert plan_export(tmp_path / "marts", DATED, loaded(), "week") is None
    assert plan_export(tmp_path / "marts", DATED, loaded(), "month") is not None


def test_a_changed_day_writes_the_parts_from_its_week_on(tmp_path: Path) -> None:
    marts = tmp_path / "marts"
    export(marts, loaded(), ALL)
    now = loaded(d_03_12="other")
    plan = plan_export(marts, DATED, now, "week")
    assert plan is not None
    assert plan.ranges == {
        "event_date": ("2025-03-12", "2025-03-30"),
        "event_timestamp": ("2025-03-13", None),
    }
    assert set(plan.kept) == {"facts/2025-03-03", "features/2025-03-03"}
    export(marts, now, {"facts": WEEKS[1:], "features": [*WEEKS[1:], "2025-03-31"]})
    old = marts.with_name("old")
    for name in plan.kept:
        assert (marts / f"{name}.parquet").samefile(old / f"{name}.parquet")
    assert not (marts / "facts" / "2025-03-10.parquet").samefile(old / "facts" / "2025-03-10.parquet")
    before, after = read_manifest(old), read_manifest(marts)
    assert before.inputs.keys() == after.inputs.keys()
    changed = {name for name in after.inputs if after.inputs[name] != before.inputs[name]}
    assert changed == set(after.inputs) - set(plan.kept) - {"plain"}


def test_a_sunday_changes_features_of_the_next_week_only(tmp_path: Path) -> None:
    export(tmp_path / "marts", loaded(), ALL)
    plan = plan_export(tmp_path / "marts", DATED, loaded(d_03_16="other"), "week")
    assert plan is not None
    assert [name for name in plan.kept if name.startswith("features")] == [
        "features/2025-03-03",
        "features/2025-03-10",
    ]


def test_an_empty_part_goes_once_there_are_rows(tmp_path: Path) -> None:
    export(tmp_path / "marts", loaded(), {"facts": ["none"], "features": ["none"]})
    plan = plan_export(tmp_path / "marts", DATED, loaded(d_03_30="other"), "week")
    assert plan is not None
    assert plan.kept == {}


def test_a_build_that_died_is_told_from_a_finished_one() -> None:
    state = loaded()
    assert not is_unfinished(state)
    assert is_unfinished(state.model_copy(update={"days": state.days | {str(START): UNFINISHED}}))
    assert is_unfinished(state.model_copy(update={"items": {"always": UNFINISHED}}))


def test_dated_marts_are_those_whose_meta_says_so(tmp_path: Path) -> None:
    nodes = {
        "a": {"name": "facts", "config": {"meta": {"part_by": "event_date"}}},
        "b": {"name": "plain", "config": {"meta": {"key": ["x"]}}},
        "c": {"name": "check", "config": {}},
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"nodes": nodes}))
    assert dated_marts(path) == {"facts": "event_date"}


@pytest.mark.parametrize(("period", "expected"), [("month", "2025-03-01"), ("year", "2025-01-01")])
def test_longer_periods_keep_what_lies_before_them(tmp_path: Path, period: str, expected: str) -> None:
    marts = tmp_path / "marts"
    plan = plan_export(marts, DATED, loaded(), period)
    assert plan is not None
    marts.mkdir()
    lay_out(plan, marts, marts)
    for part in ("2024-01-01", expected):
        pq.write_table(pa.table({"x": [part]}), marts / "facts" / f"{part}.parquet")
    certify(plan, marts)
    later = plan_export(marts, DATED, loaded(d_03_12="other"), period)
    assert later is not None
    assert list(later.kept) == ["facts/2024-01-01"]
