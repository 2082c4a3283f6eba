"""What the data tests of a night read: what was redone, and of all else what may contradict it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from warehouse_home import WAREHOUSE, Warehouse
from warehouse_lakes import START, Event, Log

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def test_a_night_tests_what_it_redid_and_promises_to_all_days(tmp_path: Path) -> None:
    old = Event("old", "u", "i", "view", NOON, START)
    new = replace(
        old, event_id="new", event_ts=NOON + timedelta(days=5), arrival_date=START + timedelta(days=5)
    )
    warehouse = Warehouse(tmp_path)
    warehouse.night(Log([old]))
    plan = warehouse.night(Log([old, new]))
    assert not plan.full

    def failing(*statements: str, **variables: str | None) -> set[str]:
        with duckdb.connect(str(tmp_path / WAREHOUSE)) as connection:
            for statement in statements:
                connection.execute(statement)
        command = ["test", "--exclude-resource-type", "unit_test"]
        failed = warehouse.dbt(*command, succeeds=not statements, **variables)
        return {name.split(".")[2] for name in failed}

    assert failing(**plan.variables) == set()
    # An old row: its own tests read it no more, sums over all days do.
    broken = "insert into main_marts.fct_events (event_id, event_type, event_ts, event_date) values "
    assert failing(broken + "('other', 'view', now(), date '2025-03-01')", **plan.variables) == {
        "user_days_add_up_to_the_events"
    }
    # An old row with the id of a new one.
    again = "insert into main_marts.fct_events (event_id, event_date) values ('new', date '2025-03-01')"
    assert "unique_key_fct_events_event_id" in failing(again, **plan.variables)
    # Without a window all rows are read.
    assert "not_null_fct_events_user_id" in failing("select 1")
    assert "not_null_fct_events_user_id" not in failing("select 1", **plan.variables)
