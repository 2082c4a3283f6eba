"""A warehouse that grew window by window, in any order, holds what one full build makes of the same lake."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from warehouse_home import Built, Warehouse
from warehouse_lakes import START, Log, contents, write_lake

CUT = START + timedelta(days=20)
FEATURES = ("ftr_user__activity", "ftr_user__history", "ftr_item__stats")


@pytest.fixture(scope="module")
def early(full: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The log as far as it had arrived by the cut, with one day that ingestion will redo."""
    log = full.log.until(CUT)
    spurious = [
        replace(event, event_id=f"spurious {event.event_id}", source_row=10_000 + event.source_row)
        for event in log.events
        if event.arrival_date == START
    ]
    assert spurious
    warehouse = Warehouse(tmp_path_factory.mktemp("early"))
    write_lake(warehouse.home, Log(log.events, log.items))
    warehouse.dbt("run")
    marts = warehouse.export("early")
    write_lake(warehouse.home, Log([*log.events, *spurious], log.items))
    warehouse.dbt(
        "run", "--select", "fct_events", "item_daily", "user_daily", min_date=str(START), max_date=str(START)
    )
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


def test_windows_in_any_order_give_the_full_build(full: Built, early: Built) -> None:
    write_lake(early.warehouse.home, full.log)
    windows = _shuffled_windows(full.log, seed=3)
    for first, last in windows:
        early.warehouse.dbt(
            "run",
            "--select",
            "fct_events",
            "item_daily",
            "user_daily",
            min_date=str(first),
            max_date=str(last),
        )
    early.warehouse.dbt("build", "--exclude-resource-type", "unit_test", min_date=str(CUT), max_date=None)
    assert contents(early.warehouse.export("late")) == contents(full.marts)


def test_a_window_into_an_empty_warehouse_takes_everything(full: Built, tmp_path: Path) -> None:
    """Else a warehouse that was deleted would come back with one day in it, and look complete."""
    warehouse = Warehouse(tmp_path)
    write_lake(warehouse.home, full.log)
    warehouse.dbt("run", min_date=str(CUT), max_date=str(CUT))
    assert contents(warehouse.export()) == contents(full.marts)


def _shuffled_windows(log: Log, seed: int) -> list[tuple[date, date]]:
    """Cut the event dates into windows, let one overlap its neighbours, and shuffle."""
    rng = random.Random(seed)
    dates = sorted({event.event_ts.date() for event in log.events})
    cuts = [0, *sorted(rng.sample(range(1, len(dates)), 3)), len(dates)]
    windows = [(dates[a], dates[b - 1]) for a, b in itertools.pairwise(cuts)]
    windows.append((dates[cuts[1] - 1], dates[cuts[2]]))
    rng.shuffle(windows)
    assert windows != sorted(windows)
    return windows
