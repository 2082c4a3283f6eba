"""Sources that know little: no catalogue, no values, no sessions; and what the data tests are there to find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from warehouse_home import Warehouse
from warehouse_lakes import START, Event, Log, rows, write_lake

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


def test_a_log_without_catalogue_values_and_sessions(warehouse: Warehouse) -> None:
    view = Event("e1", "u", "i", "view", NOON, START)
    search = Event("e2", "v", None, "search", NOON, START, source_row=2)
    write_lake(warehouse.home, Log([view, search]))
    warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    marts = warehouse.export()

    [item] = rows(marts, "dim_items")
    assert not item["has_metadata"]
    assert (item["title"], item["categories"], item["price"]) == (None, None, None)
    assert rows(marts, "item_transitions") == []
    [stats] = rows(marts, "ftr_item__stats")
    assert (stats["price"], stats["age_days"], stats["conversion_30d"]) == (None, 0.5, 0.0)
    with_item, without = rows(marts, "ftr_user__history")
    assert with_item["recent_items"] == ["i"]
    assert (without["recent_items"], without["recent_ts"], without["history_length"]) == ([], [], 0)
    with_item, without = rows(marts, "ftr_user__activity")
    assert with_item["days_since_last"] == 0.5
    assert (without["days_since_last"], without["tenure_days"]) == (None, 0.5)
    assert with_item["favourite_category"] is with_item["mean_price_30d"] is None
    assert [row["sessions"] for row in rows(marts, "user_daily")] == [0, 0]

    # Days before it happened is no clock that runs ahead; and a type that ingestion does not know.
    early = Event("e3", "u", "i", "view", NOON + timedelta(days=2), START, source_row=3)
    odd = Event("e4", "u", "i", "teleport", NOON, START, source_row=4)
    write_lake(warehouse.home, Log([view, search, early, odd]))
    failed = warehouse.dbt("build", "--select", "fct_events", succeeds=False)
    assert [name.split(".")[2].split("_event_type")[0] for name in sorted(failed)] == [
        "accepted_values_fct_events",
        "events_do_not_arrive_days_before_they_happen",
    ]
