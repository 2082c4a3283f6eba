"""Point-in-time joins and latest rows out of Parquet files: what serving/point_in_time.py gives to Feast.

DuckDB finds the winners in narrow columns: keys, times, and where the row stands. Of the wide columns, only their rows
outlive the decoding of a row group.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

# Rows asked at a time: their lists stay below the 2^31 bytes that an Arrow array of strings can hold.
_CHUNK = 500_000
_LINE_BITS = 40
STANDS = f"(file_index::BIGINT << {_LINE_BITS} | file_row_number)"
"""SQL for where a row stands among the files that are read, as one number: by file, then by line."""
_ATTEMPTS = 3
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Read:
    """What is read of one view.

    Parameters
    ----------
    pattern
        Its Parquet files.
    keys
        Column of the files to column of the asked rows.
    time, created
        Columns of the files; ``created`` is None where it takes no part.
    visible
        Whether a row counts from ``created`` on only.
    columns
        Column of the files to column of the result.
    ttl
        Longest age, or None.
    """

    pattern: str
    keys: dict[str, str]
    time: str
    created: str | None
    visible: bool
    columns: dict[str, str]
    ttl: timedelta | None


def join(config: Any, rows: pd.DataFrame, time: str, reads: list[Read]) -> pa.Table:
    """Return the rows asked for, with the columns of every view beside them."""
    asked = pa.Table.from_pandas(rows, preserve_index=False)
    times = pa.array(rows[time].dt.floor("us").astype("datetime64[us, UTC]"))
    with connect(config) as connection:
        return pa.concat_tables(
            _joined(config, connection, asked.slice(start, _CHUNK), times.slice(start, _CHUNK), reads)
            for start in range(0, len(rows), _CHUNK)
        )


def _joined(
    config: Any, connection: duckdb.DuckDBPyConnection, asked: pa.Table, times: pa.Array, reads: list[Read]
) -> pa.Table:
    found: dict[str, pa.ChunkedArray] = {}
    # Views of the same entity share its numbers.
    for keys, of_keys in groupby(sorted(reads, key=_asked_keys), _asked_keys):
        _number(connection, pa.table({f"k{n}": asked[key] for n, key in enumerate(keys)} | {"t": times}))
        for read in of_keys:
            values = while_unchanged(read.pattern, partial(_features, config, connection, len(asked), read))
            found |= dict(zip(read.columns.values(), values.columns, strict=True))
    for column in (column for read in reads for column in read.columns.values()):
        asked = asked.append_column(column, found[column])
    return asked


def _asked_keys(read: Read) -> list[str]:
    return list(read.keys.values())


def _features(
    config: Any, connection: duckdb.DuckDBPyConnection, n: int, read: Read, files: list[str]
) -> pa.Table:
    """Return one row of features for each of the ``n`` rows of the table ``entities``, in their order."""
    _candidates(connection, files, read)
    ttl = f"WHERE c.happened + {read.ttl // _TICK} >= e.t" if read.ttl else ""
    won = connection.execute(
        "SELECT e.place, c.stands FROM entities e "
        f"ASOF JOIN candidates c ON e.entity = c.entity AND e.t >= c.seen {ttl}"
    ).fetchnumpy()
    winners, of_winner = np.unique(np.asarray(won["stands"], dtype=np.int64), return_inverse=True)
    places = np.full(n, -1, dtype=np.int64)
    places[won["place"]] = of_winner
    return fetch(config, files, winners, list(read.columns), pa.array(places, mask=places < 0))


def fetch(
    config: Any, files: list[str], rows: NDArray[np.int64], columns: list[str], places: pa.Array | None = None
) -> pa.Table:
    """Return columns of the rows that stand at ``rows`` (see ``STANDS``), ascending, or of these the ``places``.

    Each thread decodes one row group at a time. Strings stay numbers of a dictionary until their rows are chosen.
    """
    stored = pq.read_schema(files[0])
    types = pa.schema([(column, stored.field(column).type) for column in columns])
    strings = {
        field.name for field in types if pa.string() in (field.type, getattr(field.type, "value_type", None))
    }

    def chosen(group: _Group) -> pa.Table:
        leaves = map(group.metadata.schema.column, range(group.metadata.num_columns))
        coded = [leaf.path for leaf in leaves if leaf.path.partition(".")[0] in strings]
        with pq.ParquetFile(group.file, metadata=group.metadata, read_dictionary=coded) as file:
            return file.read_row_group(group.number, columns, use_threads=False).take(group.lines)

    def finished(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
        # Of a column in several chunks, pyarrow takes four times as slowly.
        return (column if places is None else column.combine_chunks().take(places)).cast(type_)

    with ThreadPoolExecutor(config.offline_store.threads) as pool:
        found = list(pool.map(chosen, _groups(files, rows)))
        table = pa.concat_tables(found) if found else types.empty_table()
        return pa.table(list(pool.map(finished, table.select(columns).columns, types.types)), schema=types)


class _Group(NamedTuple):
    """A row group with the rows of it that are wanted, counted from its first."""

    file: str
    metadata: pq.FileMetaData
    number: int
    lines: NDArray[np.int64]


def _groups(files: list[str], rows: NDArray[np.int64]) -> Iterator[_Group]:
    """Yield the row groups that hold any of the rows."""
    starts = np.searchsorted(rows, np.arange(len(files)) << _LINE_BITS)
    for place, (file, lines) in enumerate(zip(files, np.split(rows, starts[1:]), strict=True)):
        if not len(lines):
            continue
        metadata = pq.read_metadata(file)
        begin = place << _LINE_BITS
        for number in range(metadata.num_row_groups):
            end = begin + metadata.row_group(number).num_rows
            within = lines[slice(*np.searchsorted(lines, (begin, end)))]
            if len(within):
                yield _Group(file, metadata, number, within - begin)
            begin = end


def _number(connection: duckdb.DuckDBPyConnection, asked: pa.Table) -> None:
    """Make the tables ``numbers`` (k0.., entity) and ``entities`` (place, entity, t) of rows with k0.. and t.

    Numbers are cheaper to sort than keys. A null key has none, as it is equal to nothing.
    """
    keys = ", ".join(name for name in asked.column_names if name != "t")
    connection.register("asked", asked)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE numbers AS SELECT *, (row_number() OVER ())::UINTEGER AS entity "
        f"FROM (SELECT DISTINCT {keys} FROM asked)"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE entities AS SELECT place, entity, epoch_us(t) AS t "
        f"FROM (SELECT *, row_number() OVER () - 1 AS place FROM asked) JOIN numbers USING ({keys})"
    )


def _candidates(connection: duckdb.DuckDBPyConnection, files: list[str], read: Read) -> None:
    """Make the table ``candidates``: of each entity, at most one row for each time from which on it counts.

    ``happened`` and ``seen`` are event time and the time from which on a row counts. An ASOF join takes the row that
    was seen last. That is the one to take only if nothing seen before it happened later, so rows that never become the
    newest are dropped first.
    """
    time = f"CAST(s.{quoted(read.time)} AS TIMESTAMPTZ)"
    created = f"CAST(s.{quoted(read.created)} AS TIMESTAMPTZ)" if read.created else "NULL::TIMESTAMPTZ"
    seen = f"greatest({time}, {created})" if read.visible else time
    needed = [f"s.{quoted(read.time)} IS NOT NULL", *([f"{created} IS NOT NULL"] if read.visible else [])]
    first, last = connection.execute("SELECT min(t), max(t) FROM entities").fetchall()[0]
    # Whole files and row groups are skipped by their statistics.
    if last is not None:
        needed.append(f"{time} <= make_timestamptz({last})")
        if read.ttl:
            needed.append(f"{time} >= make_timestamptz({first - read.ttl // _TICK})")
    same = " AND ".join(f"s.{quoted(key)} = n.k{place}" for place, key in enumerate(read.keys))
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known AS SELECT n.entity, epoch_us({time}) AS happened, "
        f"epoch_us({created}) AS created, epoch_us({seen}) AS seen, {STANDS} AS stands "
        f"FROM read_parquet($files) s JOIN numbers n ON {same} WHERE {' AND '.join(needed)}",
        {"files": files},
    )
    # Hashes are counted faster than pairs; two that are equal by chance only cost the longer way.
    late, n, distinct = connection.execute(
        "SELECT count(*) FILTER (seen > happened), count(*), count(DISTINCT hash(entity, seen)) FROM known"
    ).fetchall()[0]
    if not late and distinct == n:
        connection.execute("CREATE OR REPLACE TEMP VIEW candidates AS FROM known")
        return
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE newest AS "
        "WITH ranked AS (SELECT *, row_number() OVER "
        "(PARTITION BY entity ORDER BY happened, created NULLS FIRST, stands) AS rank FROM known), "
        "compared AS (SELECT *, max(rank) OVER so_far AS best, lead(seen) OVER so_far AS next_seen FROM ranked "
        "WINDOW so_far AS (PARTITION BY entity ORDER BY seen, rank)) "
        "SELECT * FROM compared WHERE rank = best AND next_seen IS DISTINCT FROM seen"
    )
    connection.execute("CREATE OR REPLACE TEMP VIEW candidates AS FROM newest")


@contextmanager
def connect(config: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory, with the limits of the store's configuration."""
    store = config.offline_store
    with (
        tempfile.TemporaryDirectory(prefix="tessera-join-") as spill,
        duckdb.connect(
            config={
                "threads": store.threads,
                "memory_limit": store.memory,
                "temp_directory": spill,
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        ) as connection,
    ):
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def while_unchanged(pattern: str, ask: Callable[[list[str]], pa.Table]) -> pa.Table:
    """Return what ``ask`` answers over the files of a pattern; ask again if they were replaced meanwhile.

    Marts are replaced as a whole at night. A join reads a file twice, and both readings must be of the same one.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(pattern)
        if not before:
            raise FileNotFoundError(f"{pattern} does not exist")
        try:
            answer = ask([path for path, *_ in before])
        except (duckdb.IOException, pa.ArrowException, OSError):
            if _identity(pattern) == before:
                raise
            continue
        if _identity(pattern) == before:
            return answer
    raise RuntimeError(f"{pattern} was replaced {_ATTEMPTS} times while it was read")


def _identity(pattern: str) -> list[tuple[str, int, int, int]]:
    found = []
    for path in sorted(Path(pattern).parent.glob(Path(pattern).name)):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((str(path), status.st_ino, status.st_mtime_ns, status.st_size))
    return found


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def identifiers(names: list[str]) -> str:
    """Return columns' names as SQL, with commas between them."""
    return ", ".join(quoted(name) for name in names)
