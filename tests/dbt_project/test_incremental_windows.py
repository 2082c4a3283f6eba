"""A warehouse that grew window by window, in any order, holds what one full build makes of the same lake."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from warehouse_home import Built, Warehouse
from warehouse_lakes import START, Log, contents, write_lake

CUT = START + timedelta(days=20)
REDONE = START + timedelta(days=2)
FEATURES = ("ftr_user__activity", "ftr_user__history", "ftr_item__stats")


@pytest.fixture(scope="module")
def early(full: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The log as far as it had arrived by the cut, then with a day that ingestion will redo."""
    log = full.log.until(CUT)
    spurious = [
        replace(event, event_id=f"spurious {event.event_id}", source_row=10_000 + event.source_row)
        for event in log.events
        if event.arrival_date == REDONE
    ]
    assert spurious
    warehouse = Warehouse(tmp_path_factory.mktemp("early"))
    assert warehouse.night(log).full
    marts = warehouse.export("early")
    assert warehouse.night(Log([*log.events, *spurious], log.items)).changed == (str(REDONE),)
    return Built(log, warehouse, marts)


def test_features_do_not_change_when_the_future_arrives(full: Built, early: Built) -> None:
    """The leak test: the full log is the early one with a future planted behind it."""
    planted = {e.event_id for e in full.log.events} - {e.event_id for e in early.log.events}
    assert planted
    midnight = CUT + timedelta(days=1)
    then, now = contents(early.marts), contents(full.marts)
    for name in FEATURES:
        known = [row for row in now[name] if row["event_timestamp"].date() <= midnight]
        assert known
        assert known == [row for row in then[name] if row["event_timestamp"].date() <= midnight]
        assert len(now[name]) > len(known)


def test_nights_in_any_order_give_the_full_build(full: Built, early: Built) -> None:
    plan = early.warehouse.night(full.log, "build", "--exclude-resource-type", "unit_test")
    assert not plan.full
    assert contents(early.warehouse.export("late")) == contents(full.marts)
    for since in (CUT, REDONE, CUT + timedelta(days=3)):  # redone for nothing
        early.warehouse.dbt("run", arrived_from=str(since), known_from=str(since), min_date=str(START))
    assert early.warehouse.tables() == full.warehouse.tables()


def test_a_window_into_an_empty_warehouse_takes_everything(full: Built, tmp_path: Path) -> None:
    """Else a warehouse that was deleted would come back with one day in it, and look complete."""
    warehouse = Warehouse(tmp_path)
    write_lake(warehouse.home, full.log)
    cut = str(CUT)
    warehouse.dbt("run", arrived_from=cut, known_from=cut, min_date=cut, max_date=cut)
    assert contents(warehouse.export()) == contents(full.marts)
