from __future__ import annotations

import json
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import DAILY, MANY_DAYS, Home, event_line, land, ms, spec_of
from test_ingest_properties import fresh_home

from orchestration.ingest.report import DayReport

DAY = date(2025, 3, 10)
DAY_MS = 86_400_000


def test_an_event_may_be_as_late_as_the_bound_and_no_later(home: Home) -> None:
    start = ms("2025-03-10")
    times = [start - 2 * DAY_MS - 1, start - 2 * DAY_MS, start]
    land(home, "2025-03-10", [event_line(n, ts=ts) for n, ts in enumerate(times)])
    report = home.ingest(spec_of(DAILY, max_late_days=2), [DAY], max_bad_share=0.5)
    assert [row["source_row"] for row in home.events("2025-03-10")] == [2, 3]
    (row,) = home.rejected("2025-03-10")
    assert (row["source_row"], row["reason"]) == (1, "too_late")
    assert row["detail"] == "2025-03-07 23:59:59.999 is 3 days before 2025-03-10, 2 are allowed"
    assert report.lag_days == {0: 1, 2: 1}
    assert report.late_days == {3: 1}
    manifest = home.manifest("2025-03-10")
    assert (manifest["min_event_date"], manifest["max_event_date"]) == ("2025-03-08", "2025-03-10")


@settings(max_examples=15, deadline=None)
@given(lags=st.lists(st.integers(0, 9), min_size=1, max_size=30), bound=st.none() | st.integers(0, 9))
def test_the_lag_that_is_shown_does_not_depend_on_the_bound(lags: list[int], bound: int | None) -> None:
    start = ms("2025-03-10") + 5
    with fresh_home() as home:
        land(home, "2025-03-10", [event_line(n, ts=start - lag * DAY_MS) for n, lag in enumerate(lags)])
        report = home.ingest(spec_of(DAILY, max_late_days=bound), [DAY], max_bad_share=1)
        shown = {row.days: row.events for row in report.lag_table()}
        assert shown == {lag: lags.count(lag) for lag in sorted(set(lags))}
        kept = [lag for lag in lags if bound is None or lag <= bound]
        assert report.accepted == len(kept)
        assert report.reasons == ({"too_late": len(lags) - len(kept)} if len(kept) < len(lags) else {})
        dates = [DAY - timedelta(days=lag) for lag in kept]
        assert report.min_event_date == min(dates, default=None)


def test_the_least_bound_that_takes_in_a_share() -> None:
    report = DayReport(lag_days={0: 9_980, 1: 9}, late_days={1: 1, 7: 10})
    assert report.days_that_cover(0.998) == 0
    assert report.days_that_cover(0.999) == 1
    assert report.days_that_cover(1.0) == 7
    assert [row.cumulative for row in report.lag_table()] == [0.998, 0.999, 1.0]
    assert DayReport().days_that_cover() is None


def test_a_bound_is_for_daily_files() -> None:
    with pytest.raises(ValueError, match="max_late_days is for daily files"):
        spec_of(MANY_DAYS, max_late_days=3)


def test_a_bound_holds_where_repeats_are_kept(home: Home) -> None:
    columns = {name: origin for name, origin in DAILY["events"]["columns"].items() if name != "event_id"}
    line = event_line(0, ts=ms("2025-03-01"))
    land(home, "2025-03-10", [line, json.dumps({**json.loads(line), "ts": ms("2025-03-10")}).encode()])
    spec = spec_of(DAILY, columns=columns, repeats="keep", max_late_days=3)
    report = home.ingest(spec, [DAY], max_bad_share=1)
    assert (report.accepted, report.reasons, report.late_days) == (1, {"too_late": 1}, {9: 1})
