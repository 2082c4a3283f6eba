"""Landed event files to daily partitions of the lake."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from ml.artifacts import hash_json
from orchestration.ingest.errors import IngestError
from orchestration.ingest.fields import stage_file, used_columns
from orchestration.ingest.files import LandedFile, expected_name, find_files
from orchestration.ingest.gate import check_bad_share
from orchestration.ingest.lake import (
    publish_lake,
    publish_quarantine,
    rejected_columns,
    remove,
    workshop,
)
from orchestration.ingest.parquet import write_days
from orchestration.ingest.report import DayReport, IngestReport, total
from orchestration.ingest.spec import SourceSpec
from orchestration.ingest.sql import literal, literals
from orchestration.ingest.staging import STAGED_EVENTS, key_columns, staged_events

EVENTS = "events.parquet"
UNDATED = "undated"
_TABLE = "staged_events"
_ORDER = "ORDER BY day, file_no, source_row"
_PUBLISHERS = 8


@dataclass(frozen=True)
class _Batch:
    """Files that are staged and judged together: those of a day, or all of a source without daily files.

    An event after ``latest`` lies in the future.
    """

    files: list[LandedFile]
    day: date | None
    latest: datetime


def available_days(
    spec: SourceSpec, data_dir: Path, now: datetime | None = None, memory_limit: str = "1GB", threads: int = 2
) -> list[date]:
    """Return the days that can be ingested, in order.

    Parameters
    ----------
    spec
        The source.
    data_dir
        Folder of its files.
    now
        An event after it is in the future; the present where left out. Daily files go by their own day.
    memory_limit, threads
        What DuckDB may use.

    Returns
    -------
    list of date
        For daily files, the days in their names; else the UTC dates of the rows, found by one scan. Only days
        within the source's dates.

    Raises
    ------
    IngestError
        If there are no files, or if they cannot be read.
    """
    files = _landed(spec, data_dir)
    if spec.events.daily:
        return sorted({file.day for file in files if file.day is not None and spec.covers(file.day)})
    with (
        tempfile.TemporaryDirectory() as scratch,
        workshop(Path(scratch), memory_limit, threads) as (connection, _),
    ):
        _stage(connection, spec, _many_days(spec, files, now or datetime.now(UTC)))
        rows = connection.execute(
            f"SELECT DISTINCT day FROM {_TABLE} WHERE day IS NOT NULL ORDER BY day"
        ).fetchall()
    return [day for (day,) in rows]


def ingest_events(
    spec: SourceSpec,
    data_dir: Path,
    days: Iterable[date],
    lake: Path,
    quarantine: Path,
    max_bad_share: float = 0.05,
    now: datetime | None = None,
    memory_limit: str = "1GB",
    threads: int = 2,
) -> IngestReport:
    """Bring days of events into the lake, and their bad rows into the quarantine.

    Nothing is published before every file of the call was read and judged. Each partition appears in one step and
    depends on nothing but the files, the spec and, for files of many days, ``now``; one whose content is as it was
    is left alone.

    Parameters
    ----------
    spec
        The source.
    data_dir
        Folder of its files.
    days
        Days to ingest: arrival days of daily files, else UTC dates of events. Those outside the source's dates,
        as the first and the last month of a log may hold, are passed over.
    lake, quarantine
        Roots; partitions are ``events/day=YYYY-MM-DD`` below them. Bad rows of many-day files whose time is of no
        use are in ``events/day=undated`` of the quarantine, whatever days were asked for.
    max_bad_share
        Highest share of bad rows that passes, of a day for daily files, of everything else for files of many days.
    now
        For files of many days, an event after it is in the future; the present where left out.
    memory_limit, threads
        What DuckDB may use.

    Returns
    -------
    IngestReport
        Counts per partition and in total.

    Raises
    ------
    IngestError
        If a file is missing, empty, corrupt or lacks a column, if too many rows are bad, or if the disk refuses.
    """
    wanted = sorted({day for day in days if spec.covers(day)})
    if not wanted:
        last = spec.end_date or "today"
        raise IngestError(f"{spec.name}: no day that was asked for lies between {spec.start_date} and {last}")
    reports: dict[str, DayReport] = {}
    manifests: dict[str, dict[str, Any]] = {}
    filtered = 0
    with workshop(lake, memory_limit, threads) as (connection, folder):
        for batch in _batches(spec, data_dir, wanted, now or datetime.now(UTC)):
            filtered += _stage(connection, spec, batch)
            columns = spec.events.columns
            required = [
                columns.user_id,
                columns.event_type,
                columns.event_ts,
                columns.item_id,
                columns.event_id,
            ]
            check_bad_share(connection, _TABLE, batch.files, spec.events, required, max_bad_share)
            counts = _counts(connection, batch, wanted)
            for key, report in counts.items():
                manifests[key] = _manifest(spec, batch, key, report)
            _write(connection, spec, batch, counts, folder)
            reports |= counts
        _publish(folder, lake, quarantine, wanted, reports, manifests)
    return total(spec.name, dict(sorted(reports.items())), filtered)


def _landed(spec: SourceSpec, data_dir: Path) -> list[LandedFile]:
    files = find_files(spec.events.path, data_dir)
    if not files:
        raise IngestError(f"{data_dir / spec.events.path}: there is no such file")
    return files


def _many_days(spec: SourceSpec, files: list[LandedFile], now: datetime) -> _Batch:
    return _Batch(files, None, now + timedelta(seconds=spec.events.future_tolerance_seconds))


def _batches(spec: SourceSpec, data_dir: Path, wanted: list[date], now: datetime) -> Iterator[_Batch]:
    if not spec.events.daily:
        yield _many_days(spec, _landed(spec, data_dir), now)
        return
    landed = find_files(spec.events.path, data_dir)
    tolerance = timedelta(days=1, seconds=spec.events.future_tolerance_seconds)
    for day in wanted:
        files = [file for file in landed if file.day == day]
        if not files and not spec.events.allow_empty_days:
            raise IngestError(f"{data_dir / expected_name(spec.events.path, day)}: there is no such file")
        yield _Batch(files, day, datetime.combine(day, time(), UTC) + tolerance)


def _stage(connection: duckdb.DuckDBPyConnection, spec: SourceSpec, batch: _Batch) -> int:
    """Fill the staging table from a batch; return how many rows the filters left out."""
    events = spec.events
    origins = [getattr(events.columns, name) for name in type(events.columns).model_fields]
    columns = used_columns(origins, events.filters, key_columns(events))
    connection.execute(STAGED_EVENTS)
    read = 0
    for number, file in enumerate(batch.files):
        select = partial(staged_events, spec, batch.day, batch.latest, number, file.name)
        read += stage_file(connection, file, events, columns, _TABLE, select)
    if not read and not events.allow_empty_days:
        raise IngestError(f"{', '.join(file.name for file in batch.files)}: the file holds no rows")
    ((staged,),) = connection.execute(f"SELECT count(*) FROM {_TABLE}").fetchall()
    return read - int(staged)


def _counts(connection: duckdb.DuckDBPyConnection, batch: _Batch, wanted: list[date]) -> dict[str, DayReport]:
    """Return what was staged for each wanted partition that has rows, and for a daily file in any case."""
    reports = {} if batch.day is None else {str(batch.day): DayReport()}
    groups = connection.execute(f"""
        SELECT coalesce(CAST(day AS VARCHAR), '{UNDATED}'), reason,
            CASE WHEN reason IS NULL THEN CAST(event_ts AS DATE) END AS event_date, day, count(*)
        FROM {_TABLE} GROUP BY ALL ORDER BY ALL""").fetchall()
    kept = {UNDATED, *map(str, wanted)}
    for key, reason, event_date, day, rows in groups:
        if key not in kept:
            continue
        report = reports.setdefault(key, DayReport())
        report.read += rows
        if reason is not None:
            report.quarantined += rows
            report.reasons[reason] = rows
            continue
        report.accepted += rows
        report.lag_days[(day - event_date).days] = rows
        report.min_event_date = min(report.min_event_date or event_date, event_date)
        report.max_event_date = max(report.max_event_date or event_date, event_date)
    if not set(reports) - {UNDATED}:
        raise IngestError(
            f"{', '.join(file.name for file in batch.files)}: no row falls on a day that was asked for"
        )
    return reports


def _manifest(spec: SourceSpec, batch: _Batch, key: str, report: DayReport) -> dict[str, Any]:
    shape = spec.model_dump(mode="json", include={"name", "start_date", "end_date", "events"})
    counts = report.model_dump(
        mode="json",
        include={"read", "accepted", "quarantined", "reasons", "min_event_date", "max_event_date"},
    )
    return {
        "day": key,
        "source": spec.name,
        "spec_hash": hash_json(shape),
        "files": [{"name": file.name, "bytes": file.bytes} for file in batch.files],
        **counts,
    }


def _write(
    connection: duckdb.DuckDBPyConnection,
    spec: SourceSpec,
    batch: _Batch,
    reports: dict[str, DayReport],
    folder: Path,
) -> None:
    """Write the partitions of a batch below ``folder``."""
    days = literals(key for key in reports if key != UNDATED)
    here = f"(day IS NULL OR day IN ({days}))"
    write_days(
        connection,
        _accepted(spec, here),
        lambda day: folder / "lake" / f"{day}.parquet",
        empty=None if batch.day is None else folder / "lake" / f"{batch.day}.parquet",
    )
    write_days(
        connection,
        f"SELECT day, {rejected_columns(spec.name)} FROM {_TABLE} WHERE {here} AND reason IS NOT NULL {_ORDER}",
        lambda day: folder / "quarantine" / f"{day or UNDATED}.parquet",
    )


def _accepted(spec: SourceSpec, here: str) -> str:
    event_id = "event_id"
    if spec.events.repeats == "keep":
        number = "row_number() OVER (PARTITION BY day, event_id ORDER BY file_no, source_row)"
        event_id = f"CASE {number} WHEN 1 THEN event_id ELSE md5(event_id || ' ' || {number}) END AS event_id"
    return f"""
        SELECT day, {event_id}, user_id, item_id, event_type, event_ts, session_id, value, query, position,
            {literal(spec.name)} AS source, source_file, source_row, day AS arrival_date
        FROM {_TABLE} WHERE {here} AND reason IS NULL {_ORDER}"""


def _publish(
    folder: Path,
    lake: Path,
    quarantine: Path,
    wanted: list[date],
    reports: dict[str, DayReport],
    manifests: dict[str, dict[str, Any]],
) -> None:
    """Publish what lies below ``folder``; a day that was asked for and has no rows ends without a partition."""

    def publish_one(key: str) -> bool:
        accepted, refused = (folder / part / f"{key}.parquet" for part in ("lake", "quarantine"))
        target = lake / "events" / f"day={key}"
        changed = (
            publish_lake(accepted, target / EVENTS, manifests[key]) if accepted.is_file() else remove(target)
        )
        return changed | publish_quarantine(refused, quarantine / "events" / f"day={key}")

    keys = [*map(str, wanted), *({UNDATED} & reports.keys())]
    # Publication waits for the disk five times; the waits of neighbours share one commit of the file system.
    with ThreadPoolExecutor(_PUBLISHERS) as pool:
        for key, changed in zip(keys, pool.map(publish_one, keys), strict=True):
            if key in reports:
                reports[key].changed = changed
