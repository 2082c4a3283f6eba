"""The gate between staging and publication: too many bad rows stop a partition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from orchestration.ingest.errors import IngestError
from orchestration.ingest.fields import absent_keys, require_columns
from orchestration.ingest.files import LandedFile
from orchestration.ingest.report import ERASED
from orchestration.ingest.spec import Column, FileSpec


@dataclass(frozen=True)
class Fault:
    """Rows of one file that were refused for one reason.

    Parameters
    ----------
    file, reason, rows
        The file's name, the reason, and how many they are.
    first, detail
        Number of the first of them, and what was said about it.
    """

    file: str
    reason: str
    rows: int
    first: int
    detail: str | None


def staged_faults(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[int, list[Fault]]:
    """Return how many rows a staging table holds, and which were refused; erased ones are neither."""
    ((rows,),) = connection.execute(
        f"SELECT count(*) FROM {table} WHERE reason IS DISTINCT FROM '{ERASED}'"
    ).fetchall()
    found = connection.execute(f"""
        SELECT source_file, reason, count(*), min(source_row), arg_min(detail, source_row)
        FROM {table} WHERE reason <> '{ERASED}' GROUP BY ALL ORDER BY ALL""").fetchall()
    return int(rows), [Fault(*fault) for fault in found]


def check_bad_share(
    connection: duckdb.DuckDBPyConnection,
    rows: int,
    faults: Sequence[Fault],
    files: Sequence[LandedFile],
    spec: FileSpec,
    required: Sequence[Column | None],
    max_bad_share: float,
) -> None:
    """Raise if more than a share of the rows is bad.

    Parameters
    ----------
    connection
        What reads the worst file once more.
    rows, faults
        How many rows there are, and which of them are bad.
    files, spec
        Where they came from. If a required column is in no row of the worst file, that is the cause to name.
    required
        Origins that every row should have.
    max_bad_share
        Highest share that passes, 0 to 1.

    Raises
    ------
    IngestError
        Naming the file with the most bad rows, the share and the most frequent reason.
    """
    bad = sum(fault.rows for fault in faults)
    if bad <= max_bad_share * rows:
        return
    by_file: Counter[str] = Counter()
    for fault in faults:
        by_file[fault.file] += fault.rows
    name = min(by_file, key=lambda file: (-by_file[file], file))
    worst = min((f for f in faults if f.file == name), key=lambda fault: (-fault.rows, fault.reason))
    if spec.format == "jsonl":
        file = next(file for file in files if file.name == name)
        columns = [o.column for o in required if o is not None and o.column is not None and o.default is None]
        absent, there = absent_keys(connection, file, spec, columns)
        require_columns(name, absent, there)
    explained = f": {worst.detail}" if worst.detail else ""
    raise IngestError(
        f"{name}: {bad:,} of {rows:,} rows ({bad / rows:.1%}) are bad, {max_bad_share:.1%} are allowed; "
        f"most often {worst.reason} (first in row {worst.first:,}{explained})"
    )
