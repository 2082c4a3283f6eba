"""The index: newest verdicts, their colours and curves, and nothing that names a user."""

from __future__ import annotations

from pathlib import Path

import lakes
import numpy as np
import pyarrow as pa
import pytest

from orchestration.quality import failed_rows, load_thresholds, pages
from orchestration.quality.checks import Checker
from orchestration.quality.trends import merged, sparkline, trend_table


def test_index_has_verdicts_of_both_levels_and_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker = Checker(tmp_path / "quality", load_thresholds())
    days = lakes.write_lake(tmp_path / "lake", 1, 12, 200)
    checker.events_history(tmp_path / "lake", days[:-1])
    lakes.write_day(tmp_path / "lake", 11, lakes.events(11, 1, 20))
    checker.events_history(tmp_path / "lake", days[-1:])
    table = lakes.events(11, 1, 20)
    lakes.write_day(tmp_path / "lake", 11, lakes.replaced(table, "event_type", ["?"] * table.num_rows))
    checker.events(tmp_path / "lake", days[-1:])
    index = (tmp_path / "quality" / "index.html").read_text(encoding="utf-8")
    assert '<td class="failed">failed</td>' in index
    assert '<td class="warned">passed with warnings</td>' in index
    assert '<span class="warned">rows are at least as many as usual</span>' in index
    # The curve of rows has a point a day, of two verdicts, and marks the day that is outside.
    assert index.count('aria-label="12 days"') == 1
    rows = index[index.index("<td>rows</td>") :]
    assert rows[: rows.index("</tr>")].count("<circle") == 1
    assert "<script" not in index
    assert "src=" not in index

    monkeypatch.setattr(pages, "_LISTED", 1)
    short = pages.index_page(tmp_path / "quality")
    assert f"{days[-1]}.html" in short
    assert "1 older ones are not listed" in short


def test_pages_and_results_name_no_user(tmp_path: Path) -> None:
    checker = Checker(tmp_path / "quality", load_thresholds())
    table = lakes.events(0, 1, 60)
    users = [f"someone-{k}" + ("x" * 300 if k % 2 else "") for k in range(table.num_rows)]
    day = lakes.write_day(tmp_path / "lake", 0, lakes.replaced(table, "user_id", users))
    report = checker.events(tmp_path / "lake", [day])
    checker.events_history(tmp_path / "lake", [day])
    assert report is not None
    assert [f.rule for f in report.errors] == ["user_id has 1 to 256 characters"]
    for path in (tmp_path / "quality").rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            assert b"someone" not in path.read_bytes(), path
    kept = failed_rows(tmp_path / "quality", "events", day)["user_id has 1 to 256 characters"]
    assert kept["user_id"].to_pylist() == users[1::2]


def test_trend_of_several_verdicts() -> None:
    old = {"trend": {"users": {"b": [3.0, 1.0, 5.0]}, "rows": {"a": [1.0, None, None], "b": [9.0, 1.0, 5.0]}}}
    new = {"trend": {"rows": {"b": [2.0, 1.0, 5.0], "c": [7.0, 1.0, 5.0]}}}
    trend = merged([old, new])
    assert list(trend) == ["rows", "users"]
    assert trend["rows"] == {"a": [1.0, None, None], "b": [2.0, 1.0, 5.0], "c": [7.0, 1.0, 5.0]}
    table = trend_table(trend)
    assert '<td class="warned">7</td><td>1 to 5</td>' in table
    assert '<td class="passed">3</td>' in table
    assert trend_table({}) == ""


def test_sparkline_stays_inside_its_picture() -> None:
    values = np.random.default_rng(0).normal(0, 5, 40).tolist()
    picture = sparkline([[value, -8.0, 8.0] for value in values])
    points = picture.split('points="')[1].split('"')[0].split()
    places = pa.array([float(part) for point in points for part in point.split(",")])
    assert len(points) == 40
    assert min(places.to_pylist()) >= 0
    assert max(places.to_pylist()[1::2]) <= 36
    assert picture.count("<circle") == sum(abs(value) > 8 for value in values)
    assert sparkline([[1.0, None, None]]).count("circle") == 0
