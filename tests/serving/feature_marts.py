"""Tiny feature marts, made from (key, event time, created time, number) rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2014, 1, 1, tzinfo=UTC)
_TIME = pa.timestamp("us", "UTC")
_ACTIVITY = [
    "events_1d",
    "events_7d",
    "interactions_7d",
    "interactions_30d",
    "views_30d",
    "carts_30d",
    "purchases_30d",
]
_STATS = ["impressions_7d", "views_7d", "interactions_7d", "interactions_30d", "purchases_30d", "users_30d"]


class Row(NamedTuple):
    key: str
    event: datetime
    created: datetime
    number: int


def day(n: float) -> datetime:
    return START + timedelta(days=n)


def row(key: str, event_day: float, number: int, created_day: float | None = None) -> Row:
    return Row(key, day(event_day), day(event_day if created_day is None else created_day), number)


def history_of(number: int) -> list[str]:
    """Return the items that a row of ``number`` holds: a few, none where it divides by seven."""
    return [f"i{number + step}" for step in range(number % 7)]


PERIOD = timedelta(days=30)


def write_activity(home: Path, rows: list[Row]) -> None:
    counts = {name: [r.number + place for r in rows] for place, name in enumerate(_ACTIVITY)}
    _write(
        home / "marts" / "ftr_user__activity",
        "user_id",
        rows,
        {name: pa.array(values, pa.int64()) for name, values in counts.items()}
        | {
            "days_since_last": pa.array([None if r.number % 2 else 0.5 for r in rows], pa.float64()),
            "tenure_days": pa.array([float(r.number) for r in rows], pa.float64()),
            "favourite_category": pa.array([None if r.number % 3 else "tea" for r in rows], pa.string()),
            "mean_price_30d": pa.array([r.number / 4 for r in rows], pa.float64()),
        },
    )


def write_history(home: Path, rows: list[Row]) -> None:
    items = [history_of(r.number) for r in rows]
    _write(
        home / "marts" / "ftr_user__history",
        "user_id",
        rows,
        {
            "recent_items": pa.array(items, pa.list_(pa.string())),
            "recent_types": pa.array([["view"] * len(i) for i in items], pa.list_(pa.string())),
            "recent_ts": pa.array([list(range(len(i))) for i in items], pa.list_(pa.int64())),
            "history_length": pa.array([r.number for r in rows], pa.int64()),
        },
    )


def write_stats(home: Path, rows: list[Row]) -> None:
    _write(
        home / "marts" / "ftr_item__stats",
        "item_id",
        rows,
        {name: pa.array([r.number + place for r in rows], pa.int64()) for place, name in enumerate(_STATS)}
        | {
            "conversion_30d": pa.array([None if r.number % 2 else 0.25 for r in rows], pa.float64()),
            "age_days": pa.array([float(r.number) for r in rows], pa.float64()),
            "price": pa.array([9.5] * len(rows), pa.float64()),
        },
    )


def write_marts(home: Path, users: list[Row], items: list[Row]) -> None:
    write_activity(home, users)
    write_history(home, users)
    write_stats(home, items)


def write_histories(home: Path, users: dict[str, list[str]]) -> None:
    """Write everything that a snapshot and the feature views need, for four items; each history ends on day 3."""
    marts = home / "marts"
    marts.mkdir()
    rows = [(user, place, item) for user, items in users.items() for place, item in enumerate(items)]
    histories: dict[str, Callable[[], pa.Array]] = {
        "user_id": lambda: pa.array([r[0] for r in rows]),
        "position": lambda: pa.array([r[1] + 1 for r in rows], pa.int32()),
        "item_id": lambda: pa.array([r[2] for r in rows]),
        "event_type": lambda: pa.array(["view"] * len(rows)),
        "event_ts": lambda: pa.array([day(r[1]) for r in rows], _TIME),
        "value": lambda: pa.array([None] * len(rows), pa.float64()),
    }
    pq.write_table(
        pa.table({name: make() for name, make in histories.items()}), marts / "user_histories.parquet"
    )
    ids = [f"i{n}" for n in range(4)]
    pq.write_table(
        pa.table({"item_id": ids, "title": [f"Tea {n}" for n in range(4)], "categories": [["tea"]] * 4}),
        marts / "dim_items.parquet",
    )
    times = pa.array([day(3)] * len(users), _TIME)
    lists = list(users.values())
    (marts / "ftr_user__history").mkdir()
    pq.write_table(
        pa.table(
            {
                "user_id": list(users),
                "event_timestamp": times,
                "created_timestamp": times,
                "recent_items": lists,
                "recent_types": [["view"] * len(items) for items in lists],
                "recent_ts": pa.array([list(range(len(items))) for items in lists], pa.list_(pa.int64())),
                "history_length": pa.array([len(items) for items in lists], pa.int64()),
            }
        ),
        marts / "ftr_user__history" / "2014-01-01.parquet",
    )
    write_activity(home, [row(user, 3, 1) for user in users])
    write_stats(home, [row(item, 3, 1) for item in ids])


def _write(folder: Path, key: str, rows: list[Row], columns: dict[str, pa.Array]) -> None:
    """Write a folder of parts, 30 days each; one empty part without rows."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    keys = {
        key: pa.array([r.key for r in rows], pa.string()),
        "event_timestamp": pa.array([r.event for r in rows], _TIME),
        "created_timestamp": pa.array([r.created for r in rows], _TIME),
    }
    table = pa.table(keys | columns)
    parts = [(r.event - START) // PERIOD for r in rows]
    for part in sorted(set(parts)):
        chosen = table.filter(pa.array([place == part for place in parts]))
        pq.write_table(chosen, folder / f"{(START + part * PERIOD).date()}.parquet")
    if not rows:
        pq.write_table(table, folder / "none.parquet")
