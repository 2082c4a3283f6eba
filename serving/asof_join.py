"""Point-in-time joins and latest rows out of Parquet files, by DuckDB: what serving/point_in_time.py gives to Feast.

Narrow columns find the winners first: keys, times, and where the row stands. The wide columns are read for those only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

# Rows asked at a time: their lists stay below the 2^31 bytes that an Arrow array of strings can hold.
_CHUNK = 500_000
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
    times = rows[time].dt.floor("us").astype("datetime64[us, UTC]")
    with connect(config) as connection:
        for read in reads:
            chunks = []
            for start in range(0, len(rows), _CHUNK):
                entities = pa.table(
                    {f"k{n}": asked[column] for n, column in enumerate(read.keys.values())}
                    | {"t": pa.array(times)}
                ).slice(start, _CHUNK)
                ask = partial(_features, config, connection, entities, read)
                chunks.append(while_unchanged(read.pattern, ask))
            found = pa.concat_tables(chunks)
            for column, values in zip(read.columns.values(), found.columns, strict=True):
                asked = asked.append_column(column, values)
    return asked


def _features(
    config: Any, connection: duckdb.DuckDBPyConnection, entities: pa.Table, read: Read, files: list[str]
) -> pa.Table:
    """Return one row of features for each row of ``entities`` (columns k0.. and t), in their order."""
    _number(connection, entities, len(read.keys))
    _candidates(connection, files, read)
    ttl = f"WHERE c.happened + {read.ttl // _TICK} >= e.t" if read.ttl else ""
    won = connection.execute(
        "SELECT e.place, c.file, c.line FROM entities e "
        f"ASOF JOIN candidates c ON e.entity = c.entity AND e.t >= c.seen {ttl}"
    ).fetchnumpy()
    where = (np.asarray(won["file"], dtype=np.int64) << 40) | np.asarray(won["line"], dtype=np.int64)
    winners, of_winner = np.unique(where, return_inverse=True)
    rows = pa.table({"file": winners >> 40, "line": winners & (1 << 40) - 1})
    values = fetch(config, files, rows, list(read.columns))
    places = _places(len(entities), np.asarray(won["place"]), of_winner, values["id"].to_numpy())
    return _in_order(config, values.drop_columns("id"), places)


def fetch(config: Any, files: list[str], rows: pa.Table, columns: list[str]) -> pa.Table:
    """Return columns of the rows at (``file``, ``line``), in any order, with ``id``: which of ``rows`` it is.

    DuckDB turns a result into Arrow in one thread, so each thread has a database and a share of the files.
    """
    threads = config.offline_store.threads
    rows = rows.append_column("id", pa.array(np.arange(len(rows))))
    wanted = np.bincount(np.asarray(rows["file"], dtype=np.int64), minlength=len(files))
    share = np.minimum(threads * (wanted.cumsum() - wanted) // max(len(rows), 1), threads - 1)
    asked = ", ".join(f"s.{quoted(column)}" for column in columns)

    def read(thread: int) -> pa.Table:
        chosen = np.flatnonzero((share == thread) & (wanted > 0))
        # Without a row wanted, one file tells the types.
        chosen = chosen if len(chosen) else np.zeros(1, dtype=np.int64)
        numbers = pa.table({"file": chosen, "number": np.arange(len(chosen))})
        with connect(config, threads=1) as connection:
            connection.register("wanted", rows)
            connection.register("numbers", numbers)
            return connection.execute(
                f"SELECT w.id, {asked} FROM read_parquet($files) s JOIN (FROM wanted JOIN numbers USING (file)) w "
                "ON s.file_index = w.number AND s.file_row_number = w.line",
                {"files": [files[place] for place in chosen]},
            ).to_arrow_table()

    busy = sorted({int(thread) for thread in share[wanted > 0]}) or [0]
    with ThreadPoolExecutor(threads) as pool:
        return pa.concat_tables(pool.map(read, busy))


def _in_order(config: Any, values: pa.Table, places: pa.Array) -> pa.Table:
    """Return the rows of ``values`` at ``places``."""
    with ThreadPoolExecutor(config.offline_store.threads) as pool:
        # Of a column in several chunks, pyarrow takes four times as slowly.
        columns = list(pool.map(lambda column: column.take(places), values.combine_chunks().columns))
    return pa.table(columns, names=values.column_names)


def _places(
    n: int, place: NDArray[Any], of_winner: NDArray[np.int64], fetched: NDArray[np.int64]
) -> pa.Array:
    """Return int64 [n]: for each row asked, which row of the fetched ones is its own; null where there is none."""
    stands = np.empty(len(fetched), dtype=np.int64)
    stands[fetched] = np.arange(len(fetched))
    found = np.full(n, -1, dtype=np.int64)
    found[place] = stands[of_winner]
    return pa.array(found, mask=found < 0)


def _number(connection: duckdb.DuckDBPyConnection, entities: pa.Table, n_keys: int) -> None:
    """Make the tables ``numbers`` (k0.., entity) and ``entities`` (place, entity, t); sorting numbers is cheap.

    A null key has no number, as it is equal to nothing.
    """
    keys = [f"k{n}" for n in range(n_keys)]
    connection.register("asked", entities)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE numbers AS SELECT *, row_number() OVER () AS entity "
        f"FROM (SELECT DISTINCT {', '.join(keys)} FROM asked)"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE entities AS SELECT place, entity, epoch_us(t) AS t "
        f"FROM (SELECT *, row_number() OVER () - 1 AS place FROM asked) JOIN numbers USING ({', '.join(keys)})"
    )


def _candidates(connection: duckdb.DuckDBPyConnection, files: list[str], read: Read) -> None:
    """Make the table ``candidates``: of each entity, at most one row for each time from which on it counts.

    ``happened`` and ``seen`` are event time and the time from which on a row counts, ``file`` and ``line`` where it
    stands. An ASOF join takes the row that was seen last. That is the one to take only if nothing seen before it
    happened later, so rows that never become the newest are dropped first.
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
        f"epoch_us({created}) AS created, epoch_us({seen}) AS seen, s.file_index AS file, s.file_row_number AS line "
        f"FROM read_parquet($files) s JOIN numbers n ON {same} WHERE {' AND '.join(needed)}",
        {"files": files},
    )
    late, n, distinct = connection.execute(
        "SELECT count(*) FILTER (seen > happened), count(*), count(DISTINCT (entity, seen)) FROM known"
    ).fetchall()[0]
    if not late and distinct == n:
        connection.execute("CREATE OR REPLACE TEMP VIEW candidates AS FROM known")
        return
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE newest AS "
        "WITH ranked AS (SELECT *, row_number() OVER "
        "(PARTITION BY entity ORDER BY happened, created NULLS FIRST, file, line) AS rank FROM known), "
        "compared AS (SELECT *, max(rank) OVER so_far AS best, lead(seen) OVER so_far AS next_seen FROM ranked "
        "WINDOW so_far AS (PARTITION BY entity ORDER BY seen, rank)) "
        "SELECT * FROM compared WHERE rank = best AND next_seen IS DISTINCT FROM seen"
    )
    connection.execute("CREATE OR REPLACE TEMP VIEW candidates AS FROM newest")


@contextmanager
def connect(config: Any, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory, with the limits of the store's configuration."""
    store = config.offline_store
    with (
        tempfile.TemporaryDirectory(prefix="tessera-join-") as spill,
        duckdb.connect(
            config={
                "threads": threads or store.threads,
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
        except duckdb.IOException:
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
