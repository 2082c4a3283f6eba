"""The gate between staging and publication: too many bad rows stop a partition."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from orchestration.ingest.errors import IngestError
from orchestration.ingest.fields import absent_keys, require_columns
from orchestration.ingest.files import LandedFile
from orchestration.ingest.spec import Column, FileSpec


def check_bad_share(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    files: Sequence[LandedFile],
    spec: FileSpec,
    required: Sequence[Column | None],
    max_bad_share: float,
) -> None:
    """Raise if more than a share of the staged rows is bad.

    Parameters
    ----------
    connection, table
        Where the rows are staged, with ``source_file``, ``source_row``, ``reason`` and ``detail``.
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
    (rows, bad), *_ = connection.execute(f"SELECT count(*), count(reason) FROM {table}").fetchall()
    if bad <= max_bad_share * rows:
        return
    ((name, reason, first, detail),) = connection.execute(f"""
        WITH worst AS (SELECT source_file FROM {table} WHERE reason IS NOT NULL
                       GROUP BY ALL ORDER BY count(*) DESC, source_file LIMIT 1)
        SELECT source_file, reason, min(source_row), arg_min(detail, source_row)
        FROM {table} SEMI JOIN worst USING (source_file) WHERE reason IS NOT NULL
        GROUP BY ALL ORDER BY count(*) DESC, reason LIMIT 1""").fetchall()
    if spec.format == "jsonl":
        file = next(file for file in files if file.name == name)
        columns = [o.column for o in required if o is not None and o.column is not None and o.default is None]
        absent, there = absent_keys(connection, file, spec, columns)
        require_columns(name, absent, there)
    explained = f": {detail}" if detail else ""
    raise IngestError(
        f"{name}: {bad:,} of {rows:,} rows ({bad / rows:.1%}) are bad, {max_bad_share:.1%} are allowed; "
        f"most often {reason} (first in row {first:,}{explained})"
    )
