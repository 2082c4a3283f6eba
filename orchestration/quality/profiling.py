"""Profiles of lake days, of the catalogue and of the parts of a mart, each from one pass of DuckDB over few columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pyarrow.types as pt

from ml.artifacts import MANIFEST, read_json
from orchestration.quality.profiles import (
    ALL,
    Engine,
    Profile,
    bucket,
    keep_profile,
    keep_profiles,
    read_profile,
    read_profiles,
    tally,
)

# Days are profiled together up to so many rows: a query over many small days costs as much as one over one.
_ROWS_TOGETHER = 2_000_000
_FILES_TOGETHER = 400
_COLUMNS = ("item_id", "session_id", "value", "query", "position")


def event_profiles(lake: Path, kept: Path, days: Sequence[str], engine: Engine) -> dict[str, Profile]:
    """Return the profiles of lake days, made where they are missing.

    Parameters
    ----------
    lake
        Folder with ``events/day=D/events.parquet`` and its manifest.
    kept
        Folder of ``D.json``.
    days
        Days of the lake, ``YYYY-MM-DD``; those that it does not have are left out.
    engine
        What DuckDB may use.
    """
    found: dict[str, Profile] = {}
    missing: list[tuple[str, str, int]] = []
    for day in sorted(days):
        manifest = lake / "events" / f"day={day}" / MANIFEST
        if not manifest.is_file():
            continue
        record = read_json(manifest)
        profile = read_profile(kept / f"{day}.json", record["content_hash"])
        if profile is None:
            missing.append((day, record["content_hash"], int(record["accepted"])))
        else:
            found[day] = profile
    for together in _chunks(missing):
        paths = {day: lake / "events" / f"day={day}" / "events.parquet" for day, _, _ in together}
        with engine.connect() as connection:
            made = _profile_events(connection, {day: content for day, content, _ in together}, paths)
        for day, profile in made.items():
            keep_profile(kept / f"{day}.json", profile)
        found |= made
    return dict(sorted(found.items()))


def item_profile(path: Path, content: str, engine: Engine) -> Profile:
    """Return the profile of a catalogue.

    Parameters
    ----------
    path
        The lake's item table.
    content
        Its hash.
    engine
        What DuckDB may use.
    """
    columns = ("title", "description", "brand", "categories", "price", "valid_from")
    nulls = ", ".join(f"count(*) - count({column})" for column in columns)
    with engine.connect() as connection:
        connection.execute(f"CREATE VIEW items AS SELECT * FROM {_parquet([path])}")
        rows, items, *missing = _one(
            connection, f"SELECT count(*), count(DISTINCT item_id), {nulls} FROM items"
        )
        prices = connection.execute(
            f"SELECT 0, '', {bucket('price')}, count(*) FROM items WHERE price IS NOT NULL GROUP BY ALL"
        ).fetchall()
        categories = connection.execute(
            "SELECT categories[1], count(*) FROM items WHERE len(categories) > 0 GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    labels = {name: place for place, (name, _) in enumerate(categories)}
    histograms = {
        "price": tally(prices).get(0, {}),
        "category": {ALL: {labels[name]: count for name, count in categories}},
    }
    return Profile(
        content=content,
        rows={ALL: rows},
        distinct={"items": items},
        nulls={ALL: dict(zip(columns, missing, strict=True))},
        histograms=histograms,
        labels={"category": labels},
    )


def part_profiles(
    parts: Mapping[str, Path], hashes: Mapping[str, str], kept: Path, engine: Engine
) -> dict[str, Profile]:
    """Return the profiles of the days that parts of a feature mart hold, made where they are missing.

    Parameters
    ----------
    parts
        Part to its file.
    hashes
        Part to the hash of its content.
    kept
        Folder of ``PART.json``.
    engine
        What DuckDB may use.

    Returns
    -------
    dict of str to Profile
        By the day that a feature row was known at the end of, in order.
    """
    days: dict[str, Profile] = {}
    missing = []
    for part in sorted(parts):
        profiles = read_profiles(kept / f"{part}.json", hashes[part])
        if profiles is None:
            missing.append(part)
        else:
            days |= profiles
    if missing:
        with engine.connect() as connection:
            for part in missing:
                made = _profile_part(connection, parts[part], hashes[part])
                keep_profiles(kept / f"{part}.json", hashes[part], made)
                days |= made
    return dict(sorted(days.items()))


def _profile_events(
    connection: duckdb.DuckDBPyConnection, contents: Mapping[str, str], paths: Mapping[str, Path]
) -> dict[str, Profile]:
    source = _parquet([paths[day] for day in contents])
    connection.execute(
        f"CREATE VIEW events AS SELECT * REPLACE (CAST(arrival_date AS VARCHAR) AS arrival_date) FROM {source}"
    )
    profiles = {day: Profile(content=content) for day, content in contents.items()}
    nulls = ", ".join(f"count(*) - count({column})" for column in _COLUMNS)
    for day, kind, rows, *missing in connection.execute(
        f"SELECT arrival_date, event_type, count(*), {nulls} FROM events GROUP BY ALL"
    ).fetchall():
        profiles[day].rows[kind] = rows
        profiles[day].nulls[kind] = dict(zip(_COLUMNS, missing, strict=True))
    found = {name: tally(connection.execute(query).fetchall()) for name, query in _HISTOGRAMS.items()}
    for name, key in (("users", "user_id"), ("items", "item_id")):
        for day, count in connection.execute(
            f"SELECT arrival_date, count(DISTINCT {key}) FROM events GROUP BY ALL"
        ).fetchall():
            profiles[day].distinct[name] = count
    for day, profile in profiles.items():
        profile.rows = dict(sorted(profile.rows.items()))
        for name, by_day in found.items():
            groups = by_day.get(day, {})
            profile.histograms[name] = {
                group: dict(sorted(groups[group].items())) for group in sorted(groups)
            }
    return profiles


def _repeats(key: str) -> str:
    """Return a query for how many events those have that share a key on a day."""
    return f"""
        WITH keys AS (SELECT arrival_date, count(*) AS n FROM events WHERE {key} IS NOT NULL GROUP BY arrival_date, {key})
        SELECT arrival_date, '', {bucket("n")}, count(*) FROM keys GROUP BY ALL"""


# The tenth of a day's items that have most of its events, the next four tenths, and the rest.
_POPULARITY = """
    WITH keys AS (
        SELECT arrival_date, count(*) AS n FROM events WHERE item_id IS NOT NULL GROUP BY arrival_date, item_id
    ),
    ranked AS (
        SELECT arrival_date, n, row_number() OVER (PARTITION BY arrival_date ORDER BY n DESC) AS place,
            count(*) OVER (PARTITION BY arrival_date) AS items
        FROM keys
    )
    SELECT arrival_date, '',
        CASE WHEN place <= ceil(0.1 * items) THEN 0 WHEN place <= ceil(0.5 * items) THEN 1 ELSE 2 END, sum(n)
    FROM ranked GROUP BY ALL"""
_HISTOGRAMS = {
    # Users and not events, since an hour holds most of a session: its events are no independent draws.
    "hour": "SELECT arrival_date, '', hour(event_ts), count(DISTINCT user_id) FROM events GROUP BY ALL",
    **{
        name: f"SELECT arrival_date, event_type, {bucket(name)}, count(*) FROM events WHERE {name} IS NOT NULL GROUP BY ALL"
        for name in ("value", "position")
    },
    "popularity": _POPULARITY,
    "per_user": _repeats("user_id"),
    "per_session": _repeats("session_id"),
    "days_late": """
        SELECT arrival_date, '', greatest(0, least(30, CAST(arrival_date AS DATE) - CAST(event_ts AS DATE))), count(*)
        FROM events GROUP BY ALL""",
}


def _profile_part(connection: duckdb.DuckDBPyConnection, path: Path, content: str) -> dict[str, Profile]:
    schema = pq.read_schema(path)
    names = [field.name for field in schema]
    numbers = [field.name for field in schema if pt.is_integer(field.type) or pt.is_floating(field.type)]
    # A feature row stands at the midnight after its day.
    source = (
        f"(SELECT *, CAST(CAST(event_timestamp AS DATE) - 1 AS VARCHAR) AS known_day FROM {_parquet([path])})"
    )
    counts = ", ".join(f'count(*) - count("{name}")' for name in names)
    days = {
        day: Profile(content=content, rows={ALL: rows}, nulls={ALL: dict(zip(names, missing, strict=True))})
        for day, rows, *missing in connection.execute(
            f"SELECT known_day, count(*), {counts} FROM {source} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    }
    for name in numbers:
        column = f'"{name}"'
        found = connection.execute(
            f"SELECT known_day, '', {bucket(column)}, count(*) FROM {source} WHERE {column} IS NOT NULL GROUP BY ALL"
        ).fetchall()
        for day, groups in tally(found).items():
            days[day].histograms[name] = groups
    return days


def _chunks(days: list[tuple[str, str, int]]) -> Iterator[list[tuple[str, str, int]]]:
    """Yield days together, up to a number of rows and files."""
    together: list[tuple[str, str, int]] = []
    rows = 0
    for day in days:
        if together and (rows + day[2] > _ROWS_TOGETHER or len(together) >= _FILES_TOGETHER):
            yield together
            together, rows = [], 0
        together.append(day)
        rows += day[2]
    if together:
        yield together


def _parquet(paths: Sequence[Path]) -> str:
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false)"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
