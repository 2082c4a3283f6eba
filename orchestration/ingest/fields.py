"""From a landed file to a relation of rows, each with its values as text or with what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from orchestration.ingest.errors import IngestError, one_line_errors
from orchestration.ingest.files import LandedFile
from orchestration.ingest.lines import Limits, LineFile, header_names
from orchestration.ingest.shapes import Observer
from orchestration.ingest.spec import Column, Condition, FileSpec, ListColumn
from orchestration.ingest.sql import glob_literal, identifier, json_pointer, literal, literals

LINES = "landed_lines"
_LINE_END = "chr(13) || chr(10)"
_NESTED = ("STRUCT", "MAP", "UNION")
_SHOWN_COLUMNS = 30


@dataclass(frozen=True)
class Rows:
    """A relation over one file.

    Parameters
    ----------
    query
        Yields ``row BIGINT`` (the first one is 1), ``size BIGINT`` (bytes, an upper bound of any field's),
        ``flaw VARCHAR`` (why the row cannot be read, NULL where it can), ``trouble VARCHAR`` (the same in more
        words), and what the expressions below refer to.
    raw
        SQL of the row's text as it landed.
    f
        SQL of each source column's value, as text.
    """

    query: str
    raw: str
    f: dict[str, str]


def used_columns(
    origins: Iterable[Column | ListColumn | None], filters: Iterable[Condition], others: Iterable[str] = ()
) -> list[str]:
    """Return the source columns that a spec reads, each once, in a fixed order."""
    names: list[str] = []
    for origin in origins:
        if origin is not None and origin.column is not None:
            names.append(origin.column)
        if isinstance(origin, Column) and origin.when is not None:
            names.append(origin.when.column)
    return list(dict.fromkeys([*names, *(test.column for test in filters), *others]))


@dataclass(frozen=True)
class Opened:
    """A file that is about to be read.

    Parameters
    ----------
    rows
        The relation over it. Of a text file it reads whatever is registered as :data:`LINES`.
    lines
        The lines of a text file; ``None`` for Parquet.
    count
        Rows of a Parquet file; those of a text file are counted as they are read.
    """

    rows: Rows
    lines: LineFile | None
    count: int = 0


def open_file(
    connection: duckdb.DuckDBPyConnection,
    file: LandedFile,
    spec: FileSpec,
    columns: Sequence[str],
    limits: Limits | None = None,
    observer: Observer | None = None,
) -> Opened | None:
    """Open a landed file, or return ``None`` where it holds nothing at all, not even its header.

    Parameters
    ----------
    connection
        What reads the schema of Parquet.
    file, spec
        The file and how to read it.
    columns
        Source columns that are needed.
    limits
        How much it may grow in memory.
    observer
        What takes note of the file's shape.

    Raises
    ------
    IngestError
        If the file is missing or corrupt, or if a column is not there.
    """
    if spec.format == "parquet":
        with one_line_errors(f"cannot read {file.name}"):
            (limits or Limits()).check_parquet(file.path, file.name)
            return _open_parquet(connection, file, spec, columns, observer)
    lines = LineFile(
        file.path,
        file.name,
        header=spec.format != "jsonl" and spec.header is None,
        max_line_bytes=spec.max_line_bytes,
        limits=limits,
    )
    header: Sequence[str] | None = None
    if spec.format == "jsonl":
        rows = _json_rows(spec, columns)
    elif lines.header_line == "":
        return None
    else:
        header = spec.header or header_names(lines.header_line or "", spec.separator, spec.quoted)
        require_columns(file.name, columns, header)
        rows = _separated_rows(spec, columns, header)
    if observer is not None:
        lines.watch = observer.of_lines(file.name, header)
    return Opened(rows, lines)


def stage_file(
    connection: duckdb.DuckDBPyConnection,
    file: LandedFile,
    opened: Opened,
    table: str,
    select: Callable[[Rows], str],
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Insert a file's rows into a table, in one pass.

    Parameters
    ----------
    connection
        Connection that holds ``table``.
    file, opened
        The file.
    table
        Name of the table to insert into.
    select
        Makes the query whose result is inserted.
    parameters
        Values of the query's parameters.

    Returns
    -------
    int
        Rows that the file holds; blank lines are none.

    Raises
    ------
    IngestError
        If the file is cut short or corrupt.
    """
    insert = f"INSERT INTO {table} {select(opened.rows)}"
    if opened.lines is None:
        with one_line_errors(f"cannot read {file.name}"):
            connection.execute(insert, parameters or None)
        return opened.count
    connection.register(LINES, opened.lines.reader())
    try:
        with one_line_errors(f"cannot read {file.name}"):
            connection.execute(insert, parameters or None)
    except IngestError as error:
        # What stopped the reading says more than what DuckDB and Arrow made of it on the way.
        raise opened.lines.failure or error from None
    finally:
        connection.unregister(LINES)
    return opened.lines.rows


def require_columns(name: str, needed: Iterable[str], there: Sequence[str]) -> None:
    """Raise an :class:`IngestError` if a file lacks a column, or holds one twice."""
    for column in needed:
        if there.count(column) == 1:
            continue
        what = "no column" if column not in there else "more than one column"
        shown = ", ".join(name[:40] for name in there[:_SHOWN_COLUMNS])
        more = ", ..." if len(there) > _SHOWN_COLUMNS else ""
        raise IngestError(f"{name}: {what} {column!r}; the columns are {shown}{more}")


def _decoded(spec: FileSpec) -> str:
    return f"""
        SELECT row, size, line, text,
            CASE WHEN size > {spec.max_line_bytes} THEN 'oversized_line'
                 WHEN text IS NULL THEN 'bad_utf8' END AS flaw,
            CASE flaw WHEN 'oversized_line' THEN size || ' bytes, the limit is {spec.max_line_bytes}'
                      WHEN 'bad_utf8' THEN 'not UTF-8; raw shows other bytes as \\xNN' END AS trouble
        FROM {LINES}"""


def _raw_line(spec: FileSpec) -> str:
    bytes_as_text = f"CAST(line[:{spec.max_line_bytes}] AS VARCHAR)"
    return f"coalesce(rtrim(text, {_LINE_END}), {bytes_as_text})"


def _json_rows(spec: FileSpec, columns: Sequence[str]) -> Rows:
    pointers = literals(json_pointer(column) for column in columns)
    query = f"""
        SELECT row, size, line, text, f,
            CASE WHEN flaw IS NOT NULL THEN flaw WHEN f IS NULL THEN 'malformed_json' END AS flaw,
            CASE WHEN flaw IS NOT NULL THEN trouble WHEN f IS NULL THEN 'not a JSON object' END AS trouble
        FROM (
            SELECT *, CASE WHEN (starts_with(text, '{{') OR starts_with(ltrim(text, ' ' || chr(9) || {_LINE_END}), '{{'))
                    AND json_valid(text)
                THEN json_extract_string(text, [{pointers}]) END AS f
            FROM ({_decoded(spec)}))"""
    return Rows(query, _raw_line(spec), {column: f"f[{i}]" for i, column in enumerate(columns, 1)})


def _separated_rows(spec: FileSpec, columns: Sequence[str], header: Sequence[str]) -> Rows:
    separator = literal(spec.separator)
    cells = f"string_split(text, {separator})"
    if spec.quoted:
        # RE2 knows \x{...}, which spares the escaping of separators that mean something in a pattern.
        code = rf"\x{{{ord(spec.separator):x}}}"
        cell = rf'(?:"(?:[^"]|"")*"|[^"{code}]*)'
        line = f"rtrim(text, {_LINE_END})"
        cells = f"""CASE
            WHEN NOT contains(text, '"') THEN {cells}
            WHEN regexp_full_match({line}, '{cell}(?:{code}{cell})*', 's') THEN
                [CASE WHEN starts_with(x, '"') THEN replace(x[2:-2], '""', '"') ELSE x END
                 FOR x IN regexp_extract_all({line} || {separator}, '({cell}){code}', 1, 's')] END"""
    count = len(header)
    query = f"""
        SELECT row, size, line, text,
            CASE WHEN len(cells) = {count} THEN cells END AS f,
            CASE WHEN flaw IS NOT NULL THEN flaw
                 WHEN cells IS NULL THEN 'malformed_csv'
                 WHEN len(cells) <> {count} THEN 'wrong_column_count' END AS flaw,
            CASE WHEN flaw IS NOT NULL THEN trouble
                 WHEN cells IS NULL THEN 'a double quote is left open or stands inside a bare field'
                 WHEN len(cells) <> {count} THEN len(cells) || ' columns, the header has {count}' END AS trouble
        FROM (SELECT row, size, line, text, flaw, trouble, {cells} AS cells
              FROM ({_decoded(spec)}))"""
    f = {column: f"f[{header.index(column) + 1}]" for column in columns}
    if header[-1] in f:  # the line's end is still on its last cell
        f[header[-1]] = f"rtrim(f[{count}], {_LINE_END})"
    return Rows(query, _raw_line(spec), f)


def _open_parquet(
    connection: duckdb.DuckDBPyConnection,
    file: LandedFile,
    spec: FileSpec,
    columns: Sequence[str],
    observer: Observer | None,
) -> Opened:
    path = glob_literal(str(file.path))
    described = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()
    types = {str(name): str(kind) for name, kind, *_ in described}
    require_columns(file.name, columns, list(types))
    ((count,),) = connection.execute(f"SELECT count(*) FROM read_parquet({path})").fetchall()
    if observer is not None:
        observer.of_types(file.name, types, int(count))
    return Opened(_parquet_rows(path, types, spec, columns), None, int(count))


def _parquet_rows(path: str, types: Mapping[str, str], spec: FileSpec, columns: Sequence[str]) -> Rows:
    values = [
        f"CAST(to_json({identifier(c)}) AS VARCHAR)"
        if types[c].endswith("]") or types[c].startswith(_NESTED)
        else f"CAST({identifier(c)} AS VARCHAR)"
        for c in columns
    ]
    query = f"""
        SELECT file_row_number + 1 AS row, {spec.max_field_bytes} + 1 AS size,
            CAST(NULL AS VARCHAR) AS flaw, CAST(NULL AS VARCHAR) AS trouble, [{", ".join(values)}] AS f
        FROM read_parquet({path}, file_row_number=true)"""
    pairs = ", ".join(f"{literal(column)}, f[{i}]" for i, column in enumerate(columns, 1))
    return Rows(
        query,
        f"CAST(json_object({pairs}) AS VARCHAR)",
        {column: f"f[{i}]" for i, column in enumerate(columns, 1)},
    )


def absent_keys(
    connection: duckdb.DuckDBPyConnection, file: LandedFile, spec: FileSpec, columns: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns that no line of a JSON-lines file has, and the keys that are there.

    The file was read before, within its limits. Nothing is absent from one without a readable line.
    """
    limits = Limits(decompressed_bytes=1 << 62, ratio=1e9)
    lines = LineFile(file.path, file.name, header=False, max_line_bytes=spec.max_line_bytes, limits=limits)
    found = ", ".join(f"coalesce(bool_or(f[{i}]), true)" for i in range(1, len(columns) + 1)) or "true"
    exists = ", ".join(f"json_exists(text, {literal(json_pointer(column))})" for column in columns) or "true"
    connection.register(LINES, lines.reader())
    try:
        with one_line_errors(f"cannot read {file.name}"):
            ((present, keys),) = connection.execute(f"""
                SELECT [{found}], list_sort(list_distinct(flatten(list(keys))))
                FROM (SELECT [{exists}] AS f, json_keys(text) AS keys
                      FROM ({_json_rows(spec, []).query}) WHERE flaw IS NULL)""").fetchall()
    finally:
        connection.unregister(LINES)
    return [column for column, there in zip(columns, present, strict=False) if not there], list(keys or [])
