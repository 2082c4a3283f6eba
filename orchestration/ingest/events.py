"""Landed event files to daily partitions of the lake."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb

from orchestration.ingest.batches import UNDATED, Batch, Ingestion, Judged, stage, staged, streamed
from orchestration.ingest.drift import Change, changes
from orchestration.ingest.errors import IngestError
from orchestration.ingest.fields import absent_keys
from orchestration.ingest.files import LandedFile, expected_name, find_files
from orchestration.ingest.gate import check_bad_share
from orchestration.ingest.lake import publish_lake, publish_quarantine, remove, workshop
from orchestration.ingest.options import Options
from orchestration.ingest.portions import Parsers
from orchestration.ingest.report import DayReport, IngestReport, total
from orchestration.ingest.shapes import Shape
from orchestration.ingest.spec import SourceSpec
from orchestration.ingest.standing import Standing
from orchestration.ingest.users import Users

EVENTS = "events.parquet"
_PUBLISHERS = 8


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
        stage(connection, Ingestion(spec), _many_days(spec, files, now or datetime.now(UTC)))
        rows = connection.execute(
            "SELECT DISTINCT day FROM staged_events WHERE day IS NOT NULL ORDER BY day"
        ).fetchall()
    return [day for (day,) in rows]


def ingest_events(
    spec: SourceSpec,
    data_dir: Path,
    days: Iterable[date],
    lake: Path,
    quarantine: Path,
    now: datetime | None = None,
    options: Options | None = None,
) -> IngestReport:
    """Bring days of events into the lake, and their bad rows into the quarantine.

    Nothing is published before every file of the call was read and judged. Each partition appears in one step and
    depends on nothing but the files, the spec, the options and, for files of many days, ``now``; one whose content
    is as it was is left alone.

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
    now
        For files of many days, an event after it is in the future; the present where left out.
    options
        How to go about it, where the defaults will not do.

    Returns
    -------
    IngestReport
        Counts per partition and in total.

    Raises
    ------
    IngestError
        If a file is missing, empty, corrupt or lacks a column, if too many rows are bad, if the shape of the files
        changed, if the lake holds ids of another user secret, or if the disk refuses.
    """
    options = options or Options()
    wanted = sorted({day for day in days if spec.covers(day)})
    if not wanted:
        last = spec.end_date or "today"
        raise IngestError(f"{spec.name}: no day that was asked for lies between {spec.start_date} and {last}")
    standing = Standing(lake)
    users = Users(options.secret, options.erased)
    standing.check_secret(users.fingerprint, wanted)
    reports: dict[str, DayReport] = {}
    manifests: dict[str, dict[str, Any]] = {}
    filtered = 0
    with workshop(lake, options.memory_limit, options.threads) as (connection, folder):
        users.prepare(connection)
        with Parsers(connection, options.threads) as parsers:
            for batch in _batches(spec, data_dir, wanted, now or datetime.now(UTC)):
                work = Ingestion(spec, options, users, folder, wanted)
                streams = batch.day is not None and spec.events.repeats == "drop"
                judged = (
                    streamed(connection, parsers, work, batch) if streams else staged(connection, work, batch)
                )
                drift = _judge(connection, work, batch, judged, standing)
                for key, report in judged.reports.items():
                    report.drift = drift if key == next(iter(judged.reports)) else []
                    manifests[key] = _manifest(work, batch, key, report)
                    if batch.day is not None:
                        standing.add(batch.day, manifests[key])
                filtered += judged.filtered
                reports |= judged.reports
        _publish(folder, lake, quarantine, wanted, reports, manifests)
    return total(spec.name, dict(sorted(reports.items())), filtered)


def _landed(spec: SourceSpec, data_dir: Path) -> list[LandedFile]:
    files = find_files(spec.events.path, data_dir)
    if not files:
        raise IngestError(f"{data_dir / spec.events.path}: there is no such file")
    return files


def _many_days(spec: SourceSpec, files: list[LandedFile], now: datetime) -> Batch:
    return Batch(files, None, now + timedelta(seconds=spec.events.future_tolerance_seconds))


def _batches(spec: SourceSpec, data_dir: Path, wanted: list[date], now: datetime) -> Iterator[Batch]:
    if not spec.events.daily:
        yield _many_days(spec, _landed(spec, data_dir), now)
        return
    landed = find_files(spec.events.path, data_dir)
    tolerance = timedelta(days=1, seconds=spec.events.future_tolerance_seconds)
    for day in wanted:
        files = [file for file in landed if file.day == day]
        if not files and not spec.events.allow_empty_days:
            raise IngestError(f"{data_dir / expected_name(spec.events.path, day)}: there is no such file")
        yield Batch(files, day, datetime.combine(day, time(), UTC) + tolerance)


def _judge(
    connection: duckdb.DuckDBPyConnection,
    work: Ingestion,
    batch: Batch,
    judged: Judged,
    standing: Standing,
) -> list[str]:
    """Raise if a batch must not be published; return what else is odd about its shape."""
    events, options = work.spec.events, work.options
    before = standing.shapes(work.spec_hash, batch.day)
    found = changes(work.observer.shapes, before, events, work.columns)
    found = [change for change in found if not _merely_escaped(connection, work, batch, change)]
    if stops := [change for change in found if change.stops(options.schema_drift)]:
        more = f" (and {len(stops) - 1} more)" if len(stops) > 1 else ""
        raise IngestError(stops[0].message + more)
    columns = events.columns
    required = [columns.user_id, columns.event_type, columns.event_ts, columns.item_id, columns.event_id]
    check_bad_share(
        connection, judged.rows, judged.faults, batch.files, events, required, options.max_bad_share
    )
    return [change.message for change in found]


def _merely_escaped(
    connection: duckdb.DuckDBPyConnection, work: Ingestion, batch: Batch, change: Change
) -> bool:
    """Tell whether a column that the sample did not meet is in the files all the same; only JSON can hide one."""
    events, shapes = work.spec.events, work.observer.shapes.values()
    if change.kind != "lost" or not change.mapped or events.format != "jsonl":
        return False
    if any(change.column in shape.columns for shape in shapes):
        return False  # the sample met it, and it held nothing
    return any(not absent_keys(connection, file, events, [change.column])[0] for file in batch.files)


def _manifest(work: Ingestion, batch: Batch, key: str, report: DayReport) -> dict[str, Any]:
    counts = report.model_dump(
        mode="json",
        include={"read", "accepted", "quarantined", "reasons", "min_event_date", "max_event_date"},
    )
    odd = {"erased": report.erased or None, "user_secret": work.users.fingerprint}
    return {
        "day": key,
        "source": work.spec.name,
        "spec_hash": work.spec_hash,
        "files": [{"name": file.name, "bytes": file.bytes} for file in batch.files],
        "shape": Shape.sum(work.observer.shapes.values()).told(),
        **counts,
        **{name: value for name, value in odd.items() if value is not None},
    }


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
