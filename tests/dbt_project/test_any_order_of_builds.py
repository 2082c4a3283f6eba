"""Whatever happened to the lake and in whatever order it was built, the marts are those of one full build."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import warehouse_twins as twins
from warehouse_home import Warehouse
from warehouse_lakes import START, Event, Item, Log, random_log

TWINS: dict[str, Callable[[Log], list[dict[str, Any]]]] = {
    "user_histories": twins.user_histories,
    "item_transitions": twins.item_transitions,
    "dim_items": twins.dim_items,
    "dim_users": twins.dim_users,
    "item_daily": twins.item_daily,
    "user_daily": twins.user_daily,
    "ftr_user__activity": twins.user_activity,
    "ftr_user__history": twins.user_history,
    "ftr_item__stats": twins.item_stats,
}
MIDNIGHT = datetime.combine(START, datetime.min.time(), UTC)


class Lake:
    """A lake to which all happens that ingestion can make happen: days come, go, change, change back."""

    def __init__(self, seed: int, days: int) -> None:
        self.rng = random.Random(seed)
        self.truth = random_log(seed, days=days, users=6, items=6, n=5 * days)
        self.days = sorted({event.arrival_date for event in self.truth.events})
        self.landed = self.days[: days // 3]
        self.altered: dict[Any, list[Event]] = {}
        self.free_rows = itertools.count(10_000)
        self.items = list(self.truth.items)

    @property
    def log(self) -> Log:
        return Log([event for day in self.landed for event in self.content(day)], self.items)

    def content(self, day: Any) -> list[Event]:
        return self.altered.get(day) or [e for e in self.truth.events if e.arrival_date == day]

    def happen(self) -> str:
        """Let something happen; return what."""
        what = self.rng.choice(
            [
                "next",
                "next",
                "change",
                "change",
                "back",
                "lose",
                "return",
                "split",
                "repeat",
                "items",
                "nothing",
            ]
        )
        getattr(self, f"_{what}")()
        return what

    def _nothing(self) -> None:
        pass

    def _next(self) -> None:
        waiting = [day for day in self.days if day not in self.landed]
        self.landed = sorted([*self.landed, *waiting[: self.rng.randrange(1, 4)]])

    def _change(self) -> None:
        """Lose a third of a day's events, and find in it, early or late, events of other days."""
        day = self.rng.choice(self.landed)
        kept = [event for event in self.content(day) if self.rng.random() < 0.67]
        others = [e for e in self.truth.events if e.event_ts.date() <= day + timedelta(days=1)]
        found = self.rng.sample(others, min(len(others), 3))
        moved = [
            replace(
                event,
                arrival_date=day,
                # No two rows of a file stand in one place.
                source_row=next(self.free_rows),
                value=float(k),
                event_ts=min(event.event_ts, MIDNIGHT + timedelta(days=(day - START).days, hours=k)),
            )
            for k, event in enumerate(found)
        ]
        self.altered[day] = kept + moved

    def _back(self) -> None:
        if self.altered:
            self.altered.pop(self.rng.choice(sorted(self.altered)))

    def _lose(self) -> None:
        self.landed.remove(self.rng.choice(self.landed[1:]))

    def _return(self) -> None:
        lost = [day for day in self.days if day not in self.landed]
        if lost:
            self.landed = sorted([*self.landed, self.rng.choice(lost)])

    def _split(self) -> None:
        """Find the same events in two files, in another order."""
        day = self.rng.choice(self.landed)
        events = self.content(day)
        self.rng.shuffle(events)
        self.altered[day] = [
            replace(event, source_row=row, part=self.rng.choice(["", ".2"]))
            for row, event in enumerate(events)
        ]

    def _repeat(self) -> None:
        """Find a file twice."""
        day = self.rng.choice(self.landed)
        events = [event for event in self.content(day) if event.part != ".again"]
        self.altered[day] = events + [replace(event, part=".again") for event in events]

    def _items(self) -> None:
        """A catalogue entry is gone, one is new, one has another price."""
        self.items.remove(self.rng.choice(self.items))
        k = self.rng.randrange(len(self.items))
        self.items[k] = replace(self.items[k], price=round(self.rng.random(), 2))
        at = MIDNIGHT + timedelta(hours=self.rng.randrange(24 * len(self.days)))
        row = max(item.source_row for item in self.items) + 1
        self.items.append(
            Item(f"i{self.rng.randrange(6)}", f"new {row}", self.rng.choice(["toys", "zoo"]), 9.5, at, row)
        )


def check(warehouse: Warehouse, log: Log, told: object) -> None:
    """Assert that the marts are what their twins make of the log."""
    tables = warehouse.tables()
    assert [row["event_id"] for row in tables["fct_events"]] == [e.event_id for e in twins.events_once(log)]
    for mart, twin in TWINS.items():
        expected = twin(log)
        names = expected[0] if expected else {}
        actual = [{name: row[name] for name in names} for row in tables[mart]]
        assert len(tables[mart]) == len(expected), (mart, told)
        for got, want in zip(actual, expected, strict=True):
            near = {k: pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for k, v in want.items()}
            assert got == near, (mart, told)


def run_history(home: Path, seed: int, days: int, nights: int) -> list[str]:
    """Build night after night, a few of which die, and compare each time."""
    lake, warehouse, told = Lake(seed, days), Warehouse(home / "grown"), []
    warehouse.home.mkdir()
    plans = [warehouse.night(lake.log)]
    for _ in range(nights):
        told.append([lake.happen() for _ in range(lake.rng.choice([1, 1, 2]))])
        if lake.rng.random() < 0.3:
            stood = (list(lake.landed), dict(lake.altered), list(lake.items))
            warehouse.die(lake.log, lake.rng.choice(["fct_events", "+int_users__arrivals", "+user_daily"]))
            told.append("died")
            if lake.rng.random() < 0.7:
                lake.happen()
            else:
                lake.landed, lake.altered, lake.items = stood
        plans.append(warehouse.night(lake.log))
        check(warehouse, lake.log, told)
    assert any(not plan.full for plan in plans[1:])
    whole = Warehouse(home / "whole")
    whole.home.mkdir()
    whole.night(lake.log)
    assert warehouse.tables() == whole.tables()
    return told


def test_any_order_of_builds_gives_the_full_build(tmp_path: Path) -> None:
    run_history(tmp_path, seed=1, days=12, nights=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 112))
def test_long_histories_of_builds_give_the_full_build(tmp_path: Path, seed: int) -> None:
    run_history(tmp_path, seed, days=60, nights=20)


def test_event_that_leaves_its_first_day_counts_on_the_day_it_came_again(tmp_path: Path) -> None:
    first = Event("x", "u", "i", "view", MIDNIGHT + timedelta(days=1, hours=9), START + timedelta(days=1))
    other = Event("y", "u", "j", "view", MIDNIGHT + timedelta(hours=9), START)
    stays = replace(first, event_id="z", source_row=2)
    again = replace(
        first, event_ts=first.event_ts + timedelta(days=4), arrival_date=START + timedelta(days=5), value=1.0
    )
    warehouse = Warehouse(tmp_path)
    warehouse.night(Log([other, first, stays, again]))
    for log in (Log([other, stays, again]), Log([other, first, stays, again])):
        plan = warehouse.night(log)
        assert (plan.full, plan.changed) == (False, (str(START + timedelta(days=1)),))
        check(warehouse, log, log)
