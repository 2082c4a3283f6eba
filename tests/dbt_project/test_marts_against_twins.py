"""What one full build makes of a random log is what the contract, read literally, makes of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import warehouse_twins as twins
from warehouse_home import Built
from warehouse_lakes import HISTORY_LENGTH, rows


def test_fct_events_keeps_the_first_delivery_of_every_event(full: Built) -> None:
    expected = [
        asdict(e) | {"source_file": e.source_file, "event_date": e.event_ts.date()}
        for e in twins.events_once(full.log)
    ]
    for row in expected:
        del row["part"]
    assert len(expected) < len(full.log.events)  # the log does hold duplicates
    assert full.warehouse.tables()["fct_events"] == expected


@pytest.mark.parametrize(
    ("mart", "twin"),
    [
        ("user_histories", twins.user_histories),
        ("item_transitions", twins.item_transitions),
        ("dim_items", twins.dim_items),
        ("dim_users", twins.dim_users),
        ("item_daily", twins.item_daily),
        ("user_daily", twins.user_daily),
        ("ftr_user__activity", twins.user_activity),
        ("ftr_user__history", twins.user_history),
        ("ftr_item__stats", twins.item_stats),
    ],
)
def test_mart_equals_its_twin(full: Built, mart: str, twin: Any) -> None:
    expected = twin(full.log)
    actual = [{name: row[name] for name in expected[0]} for row in full.warehouse.tables()[mart]]
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        assert got == {k: pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for k, v in want.items()}


def test_the_log_holds_the_cases_that_matter(full: Built) -> None:
    """Else the comparison above could pass for want of anything hard."""
    once = twins.events_once(full.log)
    late_takeovers = [
        row
        for row in rows(full.marts, "ftr_user__history")
        if set(row["recent_items"]) and row["history_length"] > HISTORY_LENGTH
    ]
    assert late_takeovers
    assert any(e.arrival_date > e.event_ts.date() for e in once)
    assert any(e.arrival_date < e.event_ts.date() for e in once)
    ids = {e.event_id: {d.event_ts.date() for d in full.log.events if d.event_id == e.event_id} for e in once}
    assert any(len(dates) > 1 for dates in ids.values())
    assert any(row["history_length"] == 0 for row in rows(full.marts, "ftr_user__history"))
    assert any(row["favourite_category"] is None for row in rows(full.marts, "ftr_user__activity"))
