"""A day's own files, straight to Parquet: rows are in order as they come, and all of them belong to the day."""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from orchestration.ingest.gate import Fault
from orchestration.ingest.parquet import ParquetFile
from orchestration.ingest.report import ERASED, TOO_LATE, DayReport

_ALIASES = (
    "day, event_id, user_id, item_id, event_type, event_ts, session_id, value, query, position, source_file, "
    "source_row, file_no, reason, detail, raw"
)


def portion_query(staged: str, source: str) -> str:
    """Return the query of a portion: the columns of both kinds of files over a query of staged rows.

    Parameters
    ----------
    staged
        Query whose columns are those of the staging table.
    source
        SQL of the source's name.
    """
    return f"SELECT *, {source} AS source, day AS arrival_date FROM ({staged}) AS rows({_ALIASES})"


class DayFiles:
    """The two files of one day, written while they are read, and the count of what went into them.

    Parameters
    ----------
    day
        The day of arrival.
    accepted, refused
        Paths of the files. The second one appears with the first refused row.
    accepted_schema, refused_schema
        Their columns.

    Attributes
    ----------
    report
        Counts of the rows so far.
    """

    def __init__(
        self, day: date, accepted: Path, refused: Path, accepted_schema: pa.Schema, refused_schema: pa.Schema
    ) -> None:
        self.report = DayReport()
        self._day = day
        self._paths = accepted, refused
        self._schemas = accepted_schema, refused_schema
        self._faults: dict[tuple[str, str], Fault] = {}

    def __enter__(self) -> DayFiles:
        self._stack = ExitStack()
        self._accepted = self._stack.enter_context(closing(ParquetFile(self._paths[0], self._schemas[0])))
        self._refused: ParquetFile | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def faults(self) -> list[Fault]:
        """What was refused, by file and reason."""
        return list(self._faults.values())

    def add(self, rows: pa.Table) -> None:
        """Write a portion, the next one in order."""
        reason = rows["reason"]
        if reason.null_count == rows.num_rows:
            self._accept(rows.select(self._schemas[0].names))
            return
        good = pc.is_null(reason)
        self._accept(rows.select(self._schemas[0].names).filter(good))
        bad = rows.filter(pc.invert(good))
        erased = pc.sum(pc.equal(bad["reason"], ERASED)).as_py()
        if erased:
            self.report.add_refused(ERASED, erased)
            bad = bad.filter(pc.not_equal(bad["reason"], ERASED))
        if bad.num_rows:
            self._refuse(bad)

    def finish(self) -> None:
        """Write what is left of both files."""
        self._accepted.finish()
        if self._refused is not None:
            self._refused.finish()

    def _accept(self, rows: pa.Table) -> None:
        self._accepted.add(rows)
        for event_date, n in _dates(rows):
            self.report.add_accepted((self._day - event_date).days, event_date, n)

    def _refuse(self, rows: pa.Table) -> None:
        if self._refused is None:
            self._refused = self._stack.enter_context(closing(ParquetFile(self._paths[1], self._schemas[1])))
        self._refused.add(rows.select(self._schemas[1].names))
        groups = rows.group_by(["source_file", "reason"], use_threads=False).aggregate(
            [("source_row", "count"), ("source_row", "first"), ("detail", "first")]
        )
        for found in groups.to_pylist():
            key, n = (found["source_file"], found["reason"]), found["source_row_count"]
            old = self._faults.get(key)
            first, detail = found["source_row_first"], found["detail_first"]
            self._faults[key] = (
                Fault(*key, n, first, detail)
                if old is None
                else Fault(*key, old.rows + n, old.first, old.detail)
            )
            self.report.add_refused(found["reason"], n)
        for event_date, n in _dates(rows.filter(pc.equal(rows["reason"], TOO_LATE))):
            days_late = (self._day - event_date).days
            self.report.late_days[days_late] = self.report.late_days.get(days_late, 0) + n


def _dates(rows: pa.Table) -> list[tuple[date, int]]:
    """Return the UTC dates of events with their numbers, in order."""
    found = pc.value_counts(rows["event_ts"].cast(pa.date32()))
    return sorted((pair["values"], pair["counts"]) for pair in found.to_pylist())
