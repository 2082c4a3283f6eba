"""Files that are judged together: from landing files to Parquet files that wait for publication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path

import duckdb

from ml.artifacts import hash_json
from orchestration.ingest.daily import DayFiles, portion_query
from orchestration.ingest.errors import IngestError, one_line_errors
from orchestration.ingest.fields import open_file, stage_file, used_columns
from orchestration.ingest.files import LandedFile
from orchestration.ingest.gate import Fault, staged_faults
from orchestration.ingest.lake import rejected_columns
from orchestration.ingest.options import Options
from orchestration.ingest.parquet import write_days
from orchestration.ingest.portions import Parsers
from orchestration.ingest.report import ERASED, TOO_LATE, DayReport
from orchestration.ingest.shapes import Observer
from orchestration.ingest.spec import EventsSpec, SourceSpec
from orchestration.ingest.sql import literal, literals
from orchestration.ingest.staging import STAGED_EVENTS, key_columns, staged_events
from orchestration.ingest.users import Users

UNDATED = "undated"
_TABLE = "staged_events"
_ORDER = "ORDER BY day, file_no, source_row"


@dataclass(frozen=True)
class Batch:
    """Files that are staged and judged together: those of a day, or all of a source without daily files.

    An event after ``latest`` lies in the future.
    """

    files: list[LandedFile]
    day: date | None
    latest: datetime


class Ingestion:
    """What the batches of a call share, and what was seen of the shape of one of them.

    Parameters
    ----------
    spec, options
        The source, and how to go about its ingestion.
    users
        What becomes of user ids.
    folder
        Where files wait for publication.
    wanted
        Days that were asked for.
    """

    def __init__(
        self,
        spec: SourceSpec,
        options: Options | None = None,
        users: Users | None = None,
        folder: Path | None = None,
        wanted: Sequence[date] = (),
    ) -> None:
        self.spec = spec
        self.options = options or Options()
        self.users = users or Users()
        self.folder = folder or Path()
        self.wanted = wanted
        events = spec.events
        origins = [getattr(events.columns, name) for name in type(events.columns).model_fields]
        self.columns = used_columns(origins, events.filters, key_columns(events))
        self.observer = Observer(events, self.columns)
        self.spec_hash = hash_json(
            spec.model_dump(mode="json", include={"name", "start_date", "end_date", "events"})
        )


@dataclass(frozen=True)
class Judged:
    """What became of a batch."""

    rows: int
    faults: list[Fault]
    reports: dict[str, DayReport]
    filtered: int


def streamed(
    connection: duckdb.DuckDBPyConnection, parsers: Parsers, work: Ingestion, batch: Batch
) -> Judged:
    """Write a day's files from its own landed files while they are read."""
    assert batch.day is not None
    spec, events, read = work.spec, work.spec.events, 0
    connection.execute(STAGED_EVENTS)
    accepted, refused = (
        connection.execute(query).to_arrow_table().schema.remove(0)
        for query in (_accepted(spec, "false"), _rejected(spec, "false"))
    )
    lake, quarantine = (work.folder / part / f"{batch.day}.parquet" for part in ("lake", "quarantine"))
    with (
        one_line_errors("cannot write Parquet files"),
        DayFiles(batch.day, lake, quarantine, accepted, refused) as files,
    ):
        for number, file in enumerate(batch.files):
            opened = open_file(connection, file, events, work.columns, work.options.limits, work.observer)
            if opened is None:
                continue
            landed = staged_events(spec, batch.day, batch.latest, number, file.name, work.users, opened.rows)
            query = portion_query(landed, literal(spec.name))
            for portion in parsers.portions(file.name, opened, query, work.users.parameters):
                files.add(portion)
            read += opened.count if opened.lines is None else opened.lines.rows
        files.finish()
        _check_read(read, events, batch)
    report = files.report
    return Judged(report.read - report.erased, files.faults, {str(batch.day): report}, read - report.read)


def staged(connection: duckdb.DuckDBPyConnection, work: Ingestion, batch: Batch) -> Judged:
    """Write the wanted days from a staging table, for rows that have to be sorted or compared first."""
    filtered = stage(connection, work, batch)
    rows, faults = staged_faults(connection, _TABLE)
    judged = Judged(rows, faults, _counts(connection, batch, work.wanted), filtered)
    _write(connection, work, batch, judged.reports)
    return judged


def stage(connection: duckdb.DuckDBPyConnection, work: Ingestion, batch: Batch) -> int:
    """Fill the staging table from a batch; return how many rows the filters left out."""
    spec, events, read = work.spec, work.spec.events, 0
    connection.execute(STAGED_EVENTS)
    for number, file in enumerate(batch.files):
        opened = open_file(connection, file, events, work.columns, work.options.limits, work.observer)
        if opened is None:
            continue
        select = partial(staged_events, spec, batch.day, batch.latest, number, file.name, work.users)
        read += stage_file(connection, file, opened, _TABLE, select, work.users.parameters)
    _check_read(read, events, batch)
    ((kept,),) = connection.execute(f"SELECT count(*) FROM {_TABLE}").fetchall()
    return read - int(kept)


def _check_read(read: int, events: EventsSpec, batch: Batch) -> None:
    if not read and not events.allow_empty_days:
        raise IngestError(f"{', '.join(file.name for file in batch.files)}: the file holds no rows")


def _counts(
    connection: duckdb.DuckDBPyConnection, batch: Batch, wanted: Sequence[date]
) -> dict[str, DayReport]:
    """Return what was staged for each wanted partition that has rows, and for a daily file in any case."""
    reports = {} if batch.day is None else {str(batch.day): DayReport()}
    groups = connection.execute(f"""
        SELECT coalesce(CAST(day AS VARCHAR), '{UNDATED}'), reason,
            CASE WHEN reason IS NULL OR reason = '{TOO_LATE}' THEN CAST(event_ts AS DATE) END AS event_date, day, count(*)
        FROM {_TABLE} GROUP BY ALL ORDER BY ALL""").fetchall()
    kept = {UNDATED, *map(str, wanted)}
    for key, reason, event_date, day, rows in groups:
        if key not in kept:
            continue
        report = reports.setdefault(key, DayReport())
        if reason is None:
            report.add_accepted((day - event_date).days, event_date, rows)
            continue
        report.add_refused(reason, rows)
        if reason == TOO_LATE:
            report.late_days[(day - event_date).days] = rows
    if not set(reports) - {UNDATED}:
        raise IngestError(
            f"{', '.join(file.name for file in batch.files)}: no row falls on a day that was asked for"
        )
    return reports


def _write(
    connection: duckdb.DuckDBPyConnection, work: Ingestion, batch: Batch, reports: dict[str, DayReport]
) -> None:
    """Write the staged partitions of a batch."""
    days = literals(key for key in reports if key != UNDATED)
    here, folder = f"(day IS NULL OR day IN ({days}))", work.folder
    write_days(
        connection,
        _accepted(work.spec, here),
        lambda day: folder / "lake" / f"{day}.parquet",
        empty=None if batch.day is None else folder / "lake" / f"{batch.day}.parquet",
    )
    write_days(
        connection,
        _rejected(work.spec, here),
        lambda day: folder / "quarantine" / f"{day or UNDATED}.parquet",
    )


def _rejected(spec: SourceSpec, here: str) -> str:
    columns = rejected_columns(spec.name)
    return f"SELECT day, {columns} FROM {_TABLE} WHERE {here} AND reason <> '{ERASED}' {_ORDER}"


def _accepted(spec: SourceSpec, here: str) -> str:
    event_id = "event_id"
    if spec.events.repeats == "keep":
        number = "row_number() OVER (PARTITION BY day, event_id ORDER BY file_no, source_row)"
        event_id = f"CASE {number} WHEN 1 THEN event_id ELSE md5(event_id || ' ' || {number}) END AS event_id"
    return f"""
        SELECT day, {event_id}, user_id, item_id, event_type, event_ts, session_id, value, query, position,
            {literal(spec.name)} AS source, source_file, source_row, day AS arrival_date
        FROM {_TABLE} WHERE {here} AND reason IS NULL {_ORDER}"""
