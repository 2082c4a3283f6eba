"""Tiny lakes, written as ingestion would write them, and the marts that come of them as rows."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import MANIFEST, hash_file, write_json

START = date(2025, 3, 1)
TYPES = ("impression", "view", "cart", "purchase", "rating", "search")
HISTORY_LENGTH = 4

EVENTS = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("event_ts", pa.timestamp("us", "UTC")),
        ("session_id", pa.string()),
        ("value", pa.float64()),
        ("query", pa.string()),
        ("position", pa.int32()),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("arrival_date", pa.date32()),
    ]
)
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("brand", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("valid_from", pa.timestamp("us", "UTC")),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Event:
    """One delivery of an event."""

    event_id: str
    user_id: str
    item_id: str | None
    event_type: str
    event_ts: datetime
    arrival_date: date
    source_row: int = 1
    session_id: str | None = None
    value: float | None = None
    query: str | None = None
    position: int | None = None
    source: str = "test"
    part: str = ""

    @property
    def source_file(self) -> str:
        return f"events/{self.arrival_date}{self.part}.jsonl"


@dataclass(frozen=True)
class Item:
    """One catalogue entry."""

    item_id: str
    title: str
    category: str | None
    price: float | None
    valid_from: datetime | None
    source_row: int

    @property
    def row(self) -> dict[str, Any]:
        return {
            "item_id": self.item_id,
            "title": self.title,
            "categories": None if self.category is None else [self.category, f"{self.category}/fine"],
            "price": self.price,
            "attributes": [("colour", "red")],
            "valid_from": self.valid_from,
            "source": "test",
            "source_file": "items.jsonl",
            "source_row": self.source_row,
        }


@dataclass(frozen=True)
class Log:
    """All that a source ever sent."""

    events: list[Event] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    def until(self, day: date) -> Log:
        """Return what had arrived by the end of ``day``."""
        end = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
        return Log(
            [e for e in self.events if e.arrival_date <= day],
            [i for i in self.items if i.valid_from is None or i.valid_from < end],
        )


def write_lake(home: Path, log: Log) -> None:
    """Leave of ``log`` below ``home`` what ingestion would, and nothing else."""
    shutil.rmtree(home / "lake", ignore_errors=True)
    for day, grouped in groupby(
        sorted(log.events, key=lambda e: (e.arrival_date, e.source_file, e.source_row)),
        lambda e: e.arrival_date,
    ):
        events = list(grouped)
        dates = [str(e.event_ts.date()) for e in events]
        rows = [{name: getattr(e, name) for name in EVENTS.names} for e in events]
        _write_table(
            home / "lake" / "events" / f"day={day}" / "events.parquet",
            pa.Table.from_pylist(rows, EVENTS),
            {"min_event_date": min(dates), "max_event_date": max(dates)},
        )
    items = pa.Table.from_pylist([i.row for i in log.items], ITEMS)
    _write_table(home / "lake" / "items" / "items.parquet", items, {})


def _write_table(path: Path, table: pa.Table, manifest: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, compression="zstd")
    write_json(path.parent / MANIFEST, manifest | {"content_hash": hash_file(path)})


def random_log(seed: int, days: int = 45, users: int = 14, items: int = 9, n: int = 420) -> Log:
    """Return a log with late, repeated, re-stamped and simultaneous events, and a catalogue that changes."""
    rng = random.Random(seed)
    midnight = datetime.combine(START, datetime.min.time(), UTC)
    events: list[Event] = []
    for k in range(n):
        day = int(days * rng.random())
        # Few distinct times, so that many events are simultaneous; some on the last microsecond of a day.
        clock = rng.choice([timedelta(hours=rng.randrange(24)), timedelta(days=1, microseconds=-1)])
        late = rng.choice([0, 0, 0, 0, 1, 2, 9, 33])
        kind = rng.choice(TYPES)
        events.append(
            Event(
                event_id=f"e{k}",
                user_id=f"u{int(users * rng.random() ** 2)}",
                item_id=None if kind == "search" else f"i{int(items * rng.random() ** 2)}",
                event_type=kind,
                event_ts=midnight + timedelta(days=day) + clock,
                arrival_date=START + timedelta(days=min(day + late, days - 1)),
                session_id=rng.choice([None, "s1", "s2"]),
                value=rng.choice([None, 0.1, 0.2, 0.7, 1e9]),
            )
        )
        if rng.random() < 0.05:  # a clock that runs ahead: the event is in the file of the day before
            events[-1] = replace(events[-1], arrival_date=max(START, START + timedelta(days=day - 1)))
    for event in rng.sample(events, n // 4):
        again = event.arrival_date + timedelta(days=rng.choice([0, 0, 3, 5]))
        shift = rng.choice(
            [timedelta(0), timedelta(0), timedelta(seconds=2), timedelta(days=-3), timedelta(days=4)]
        )
        moved = max(event.event_ts + shift, midnight)
        arrival = max(min(again, START + timedelta(days=days - 1)), moved.date() - timedelta(days=1))
        events.append(replace(event, event_ts=moved, arrival_date=arrival, value=99.0))
    rng.shuffle(events)
    numbered = [replace(event, source_row=row) for row, event in enumerate(events, start=1)]
    catalogue = [
        Item(
            item_id=f"i{rng.randrange(items + 2)}",
            title=f"title {k}",
            category=rng.choice([None, "books", "toys", "garden"]),
            price=rng.choice([None, 1.25, 3.5, 10.01]),
            valid_from=rng.choice([None, midnight + timedelta(hours=rng.randrange(days * 24))]),
            source_row=k,
        )
        for k in range(1, 3 * items)
    ]
    return Log(numbered, catalogue)


def rows(marts: Path, name: str) -> list[dict[str, Any]]:
    """Return a mart as a list of rows, in file order."""
    folder = marts / name
    return pq.read_table(folder if folder.is_dir() else folder.with_suffix(".parquet")).to_pylist()


def contents(marts: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every exported mart."""
    return {name: rows(marts, name) for name in sorted(path.stem for path in marts.iterdir())}
