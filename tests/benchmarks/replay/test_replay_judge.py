from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.replay import judge
from benchmarks.replay.judge import Lists, Meetings

DAY = date(2025, 3, 10)


def meetings(*told: tuple[str, str, date]) -> Meetings:
    """First meetings, ordered by day."""
    told = tuple(sorted(told, key=lambda one: one[2]))
    users, items, days = zip(*told, strict=True)
    return Meetings(
        list(users), list(items), np.array([(day - date(1970, 1, 1)).days for day in days], np.int64)
    )


def lists(users: dict[str, list[str]], popular: list[str] | None = None) -> Lists:
    return Lists(users, popular or [], {})


def write_day(lake: Path, day: date, rows: list[tuple[str, str | None, str, datetime]]) -> None:
    folder = lake / "events" / f"day={day}"
    folder.mkdir(parents=True)
    users, items, types, times = (list(column) for column in zip(*rows, strict=True))
    table = {"user_id": users, "item_id": pa.array(items, pa.string()), "event_type": types}
    stamp = pa.array(times, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table(table | {"event_ts": stamp}), folder / "events.parquet")


def test_a_late_event_is_a_meeting_of_the_day_it_happened(tmp_path: Path) -> None:
    noon = datetime(2025, 3, 10, 12, tzinfo=UTC)
    next_day = DAY + timedelta(days=1)
    write_day(
        tmp_path, DAY, [("u", "a", "view", noon), ("u", None, "search", noon), ("v", "a", "skip", noon)]
    )
    write_day(
        tmp_path,
        next_day,
        [("u", "a", "view", noon + timedelta(days=1)), ("u", "b", "cart", noon - timedelta(hours=1))],
    )
    found = judge.read_meetings(tmp_path, ["view", "cart"])
    assert (found.users, found.items) == (["u", "u"], ["b", "a"])
    assert found.on(DAY) == slice(0, 2)
    assert found.on(next_day) == slice(2, 2)


def test_a_rank_is_the_place_in_last_nights_list() -> None:
    met = meetings(("u", "old", DAY - timedelta(days=1)), ("u", "b", DAY), ("u", "x", DAY), ("v", "p2", DAY))
    shown = lists({"u": ["a", "b"]}, popular=["p1", "p2"])
    # v has no list and is shown what is popular.
    assert judge.ranks_on(DAY, shown, met).tolist() == [2, 0, 2]


def test_popular_items_that_a_user_met_before_are_passed_over() -> None:
    met = meetings(("v", "p1", DAY - timedelta(days=3)), ("v", "p2", DAY))
    assert judge.ranks_on(DAY, lists({}, ["p1", "p2"]), met).tolist() == [1]


def test_a_meeting_of_the_same_day_hides_nothing() -> None:
    met = meetings(("v", "p1", DAY), ("v", "p2", DAY))
    assert judge.ranks_on(DAY, lists({}, ["p1", "p2"]), met).tolist() == [1, 2]


def test_popularity_asks_no_list() -> None:
    met = meetings(("u", "a", DAY))
    shown = lists({"u": ["a"]}, popular=["b", "a"])
    assert judge.ranks_on(DAY, shown, met, popular_only=True).tolist() == [2]


def test_churn_counts_places_and_ids_that_changed() -> None:
    before = Lists({"u": ["a", "b"], "gone": ["a"]}, [], {"a": "1-2", "b": "1-3", "old": "0-0"})
    after = Lists({"u": ["b", "c"], "new": ["a"]}, [], {"a": "1-2", "b": "9-9", "new": "0-1"})
    assert judge.churn(after, before) == {"lists": 0.5, "semantic_ids": 0.5}
    assert judge.churn(before, before) == {"lists": 0.0, "semantic_ids": 0.0}


def test_newcomers_are_those_nobody_heard_of_before_the_start() -> None:
    start = DAY - timedelta(days=1)
    met = meetings(("u", "a", start - timedelta(days=1)), ("w", "b", start), ("u", "b", DAY), ("w", "a", DAY))
    assert judge.newcomers_on(DAY, met, start) == {"new_users": 0.5, "new_items": 0.5}


def many(day: date, items: list[str], rng: np.random.Generator, n: int) -> list[tuple[str, str, date]]:
    return [(f"u{k}-{day}", items[int(rng.integers(len(items)))], day) for k in range(n)]


@pytest.mark.parametrize(("moved", "drifts"), [(False, False), (True, True)])
def test_drift_is_above_chance_only_where_items_change(moved: bool, drifts: bool) -> None:
    rng = np.random.default_rng(0)
    items = [f"i{k}" for k in range(50)]
    told = [one for n in range(7) for one in many(DAY - timedelta(days=n + 1), items, rng, 400)]
    told += many(DAY, items[:10] if moved else items, rng, 400)
    found = judge.drift_on(DAY, meetings(*told), DAY)
    assert (found["psi"] > found["psi_by_chance"]) == drifts


def test_items_that_nobody_met_before_are_drift() -> None:
    rng = np.random.default_rng(0)
    told = many(DAY - timedelta(days=1), ["a", "b", "c"], rng, 300) + many(DAY, ["new"], rng, 300)
    found = judge.drift_on(DAY, meetings(*told), DAY)
    assert found["psi"] > 1 > found["psi_by_chance"]
