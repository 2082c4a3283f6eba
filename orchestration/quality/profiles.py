"""Profiles: what a day, a catalogue or a part of a mart looked like, in a few kilobytes.

A comparison with the weeks before reads their profiles and never their rows. A profile belongs to the content hash of
what it was made from, and is made again only where that has changed; it may be deleted at any time.

Values are counted in fine buckets that are the same on every day, eight to each power of two, and joined to quantile
groups of the reference only when two days are compared: so nothing has to be known beforehand.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from pydantic import BaseModel, ValidationError

FORMAT = 1
ALL = ""
Counts = dict[int, int]


class Profile(BaseModel):
    """What was counted.

    Parameters
    ----------
    format
        Raised by whoever changes what a profile holds.
    content
        Hash of what it was made from.
    rows
        By group: the event type, or ``""`` where rows are of one kind.
    distinct
        Distinct users, items.
    nulls
        Null values by group and column.
    histograms
        By name and group: rows by bucket. Buckets are numbers that rise with the value.
    labels
        By histogram whose buckets are words: bucket of each word.
    """

    format: int = FORMAT
    content: str
    rows: dict[str, int] = {}
    distinct: dict[str, int] = {}
    nulls: dict[str, dict[str, int]] = {}
    histograms: dict[str, dict[str, Counts]] = {}
    labels: dict[str, dict[str, int]] = {}

    @property
    def total(self) -> int:
        """Rows of all groups."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class Engine:
    """What DuckDB may use."""

    memory_limit: str = "1GB"
    threads: int = 2

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield an in-memory connection in UTC that spills into a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="tessera-quality-") as spill:
            config: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": self.memory_limit,
                "threads": self.threads,
                "temp_directory": spill,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
            with duckdb.connect(config=config) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                yield connection


def bucket(value: str) -> str:
    """Return SQL for the fine bucket of a number: eight to each power of two, 0 for zero and for what is no number.

    Parameters
    ----------
    value
        SQL of the number, not null.
    """
    magnitude = f"CAST(floor(log2(abs(CAST({value} AS DOUBLE))) * 8) AS INTEGER) + 10000"
    return (
        f"CASE WHEN {value} = 0 OR NOT isfinite(CAST({value} AS DOUBLE)) THEN 0 "
        f"WHEN {value} < 0 THEN -({magnitude}) ELSE {magnitude} END"
    )


def read_profile(path: Path, content: str) -> Profile | None:
    """Return a kept profile, unless it is of other content, of an old format, or unreadable."""
    try:
        profile = Profile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return profile if (profile.format, profile.content) == (FORMAT, content) else None


def keep_profile(path: Path, profile: Profile) -> None:
    """Keep a profile."""
    _keep(path, profile)


def read_profiles(path: Path, content: str) -> dict[str, Profile] | None:
    """Return the kept profiles of a part by day, under the same conditions as a single one."""
    try:
        part = _Part.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return part.days if (part.format, part.content) == (FORMAT, content) else None


def keep_profiles(path: Path, content: str, days: dict[str, Profile]) -> None:
    """Keep the profiles of the days of a part."""
    _keep(path, _Part(content=content, days=days))


class _Part(BaseModel):
    format: int = FORMAT
    content: str
    days: dict[str, Profile]


def _keep(path: Path, record: BaseModel) -> None:
    """Write in one step, but unsynced: a profile that a power cut spoils is made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, 0o644)
            file.write(record.model_dump_json())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def tally(rows: list[tuple[Any, ...]]) -> dict[Any, dict[str, Counts]]:
    """Return ``(key, group, bucket, count)`` rows by key and group."""
    found: dict[Any, dict[str, Counts]] = {}
    for key, group, place, count in rows:
        found.setdefault(key, {}).setdefault(group, {})[int(place)] = int(count)
    return found
