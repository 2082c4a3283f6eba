"""A small shop for checks: weeks of events with a catalogue, and marts of features, with nothing wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import MANIFEST, hash_file, read_json, write_json

START = date(2025, 1, 6)
TIME = pa.timestamp("us", "UTC")
TYPES = np.array(["view", "impression", "search", "cart", "purchase"])
_SHARES = [0.55, 0.2, 0.1, 0.1, 0.05]
_HOURS = np.array([1, 1, 1, 1, 1, 2, 4, 6, 8, 8, 8, 8, 9, 9, 8, 8, 9, 10, 12, 14, 14, 10, 6, 3], dtype=float)
_ITEMS = 200

Change = Callable[[pa.Table, np.random.Generator], pa.Table]


def day_name(number: int) -> str:
    return (START + timedelta(days=number)).isoformat()


def events(number: int, seed: int, rows: int = 1000) -> pa.Table:
    """Return a day of events, fewer on weekends."""
    rng = np.random.default_rng([seed, number])
    day = START + timedelta(days=number)
    n = rng.poisson(rows * (0.7 if day.weekday() >= 5 else 1.0) * np.exp(rng.normal(0, 0.05)))
    kinds = rng.choice(TYPES, n, p=_SHARES)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    hours = rng.choice(24, n, p=_HOURS / _HOURS.sum())
    late = rng.choice([0, 1, 2], n, p=[0.96, 0.03, 0.01])
    seconds = midnight + hours * 3600.0 + rng.uniform(0, 3600, n) - late * 86400.0
    items = np.minimum((rng.pareto(1.2, n) * 6).astype(int), _ITEMS - 1)
    users = rng.integers(0, max(n // 4, 1), n)
    paid = np.isin(kinds, ["cart", "purchase"])
    none = kinds == "search"
    return pa.table(
        {
            "event_id": [f"{number}-{k}" for k in range(n)],
            "user_id": pa.array([f"u{k}" for k in users]),
            "item_id": pa.array([f"i{k}" for k in items], mask=none),
            "event_type": pa.array(kinds.astype(object), pa.string()),
            "event_ts": pa.array((seconds * 1e6).astype(np.int64), pa.int64()).cast(TIME),
            "session_id": pa.array([f"s{k}-{h // 6}" for k, h in zip(users, hours, strict=True)]),
            "value": pa.array(np.round(np.exp(rng.normal(3, 0.6, n)), 2), mask=~paid),
            "query": pa.array(["tea"] * n, mask=~none),
            "position": pa.array(rng.integers(0, 20, n).astype(np.int32), mask=kinds != "impression"),
            "source": ["shop"] * n,
            "source_file": [f"events/{day}.jsonl"] * n,
            "source_row": pa.array(np.arange(1, n + 1)),
            "arrival_date": pa.array([day] * n, pa.date32()),
        }
    )


def write_day(lake: Path, number: int, table: pa.Table) -> str:
    """Publish a day of the lake; return its name."""
    folder = lake / "events" / f"day={day_name(number)}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "events.parquet")
    write_json(
        folder / MANIFEST,
        {"content_hash": hash_file(folder / "events.parquet"), "accepted": table.num_rows},
    )
    return day_name(number)


def write_lake(lake: Path, seed: int, days: int = 36, rows: int = 1000) -> list[str]:
    """Write weeks of events and a catalogue; return the days."""
    write_items(lake, items(seed))
    return [write_day(lake, number, events(number, seed, rows)) for number in range(days)]


def items(seed: int) -> pa.Table:
    rng = np.random.default_rng([seed, 999])
    return pa.table(
        {
            "item_id": [f"i{k}" for k in range(_ITEMS)],
            "title": [f"Tea {k}" for k in range(_ITEMS)],
            "description": pa.array([None] * _ITEMS, pa.string()),
            "brand": ["leaf"] * _ITEMS,
            "categories": [["drinks" if k % 3 else "food", "tea"] for k in range(_ITEMS)],
            "price": np.round(np.exp(rng.normal(3, 0.6, _ITEMS)), 2),
            "valid_from": pa.array([None] * _ITEMS, TIME),
            "source": ["shop"] * _ITEMS,
            "source_file": ["items.jsonl"] * _ITEMS,
            "source_row": pa.array(range(1, _ITEMS + 1), pa.int64()),
        }
    )


def write_items(lake: Path, table: pa.Table) -> None:
    (lake / "items").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, lake / "items" / "items.parquet")
    write_json(lake / "items" / MANIFEST, {"content_hash": hash_file(lake / "items" / "items.parquet")})


def features(first: int, last: int, seed: int, entities: int = 150) -> pa.Table:
    """Return item features of the days from ``first`` up to, not including, ``last``."""
    parts = []
    for number in range(first, last):
        rng = np.random.default_rng([seed, number, 7])
        known = [f"i{k}" for k in sorted(rng.choice(_ITEMS, entities, replace=False))]
        at = START + timedelta(days=number + 1)
        times = pa.array([datetime(at.year, at.month, at.day, tzinfo=UTC)] * entities, TIME)
        views = rng.poisson(20, entities)
        week = rng.poisson(6, entities)
        month = week + rng.poisson(18, entities)
        parts.append(
            pa.table(
                {
                    "item_id": known,
                    "event_timestamp": times,
                    "created_timestamp": times,
                    "impressions_7d": pa.array(rng.poisson(40, entities), pa.int64()),
                    "views_7d": pa.array(views, pa.int64()),
                    "interactions_7d": pa.array(week, pa.int64()),
                    "interactions_30d": pa.array(month, pa.int64()),
                    "purchases_30d": pa.array(rng.poisson(2, entities), pa.int64()),
                    "users_30d": pa.array((month * 0.8).astype(np.int64), pa.int64()),
                    "conversion_30d": rng.beta(2, 20, entities),
                    "age_days": np.full(entities, float(number)),
                    "price": np.round(np.exp(rng.normal(3, 0.6, entities)), 2),
                }
            )
        )
    return pa.concat_tables(parts)


def write_part(marts: Path, name: str, part: str, table: pa.Table) -> None:
    """Publish a part of a mart, ``all`` of an undated one, and its hash in the manifest of the marts."""
    path, key = marts / name / f"{part}.parquet", f"{name}/{part}"
    if part == "all":
        path, key = marts / f"{name}.parquet", name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    manifest = marts / MANIFEST
    inputs = read_json(manifest)["inputs"] if manifest.is_file() else {}
    write_json(manifest, {"inputs": inputs | {key: hash_file(path)}})


def write_marts(marts: Path, seed: int, weeks: int = 11) -> list[str]:
    """Write weekly parts of item features and of events, and the items; return the parts."""
    names = [day_name(7 * week) for week in range(weeks)]
    for week, name in enumerate(names):
        write_part(marts, "ftr_item__stats", name, features(7 * week, 7 * week + 7, seed))
        found = pa.concat_tables([events(7 * week + n, seed, 50) for n in range(7)])
        write_part(marts, "fct_events", name, found.select(["event_id", "user_id", "item_id", "event_ts"]))
    seen = datetime(2025, 1, 6, tzinfo=UTC)
    dim = pa.table(
        {
            "item_id": [f"i{k}" for k in range(_ITEMS)],
            "has_metadata": [True] * _ITEMS,
            "first_event_ts": pa.array([seen if k % 2 else None for k in range(_ITEMS)], TIME),
        }
    )
    write_part(marts, "dim_items", "all", dim)
    return names


def replaced(table: pa.Table, column: str, values: object) -> pa.Table:
    """Return the table with other values in a column."""
    field = table.schema.field(column)
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)
    return table.set_column(table.column_names.index(column), column, array.cast(field.type))
