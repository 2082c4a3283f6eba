"""A Feast offline store whose point-in-time join is DuckDB's ASOF join.

Feast's own DuckDB store joins each row with everything that was known before it, wide columns included, and then keeps
the latest. Here narrow columns find the winners first (keys, times, and where the row stands), and the wide columns are
read for the winners only.

What is returned is what Feast's store returns: of the rows with ``event_timestamp`` (and, with
``filter_by_created_timestamp``, ``created_timestamp``) not later than the asked time, the one with the latest
``event_timestamp``, then the latest ``created_timestamp``; nothing if it is older than the view's TTL (a row exactly as
old as the TTL counts). Two differences: rows come back in the order asked, and of rows with the same key and times the
last one wins, by file name and place in the file, where Feast takes any.

Imported by Feast, which is told the class by its full name in ``feature_store.yaml``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from numpy.typing import NDArray
from pydantic import StrictStr

# Rows asked at a time: their lists stay below the 2^31 bytes that an Arrow array of strings can hold.
_CHUNK = 500_000
_ATTEMPTS = 3
_TICK = timedelta(microseconds=1)


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Configuration of :class:`AsofOfflineStore`.

    Parameters
    ----------
    threads
        Threads of DuckDB.
    memory
        What DuckDB may hold before it spills, as DuckDB writes sizes.
    """

    type: StrictStr = "serving.point_in_time.AsofOfflineStore"
    threads: int = 2
    memory: StrictStr = "2GB"


class AsofOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store with an ASOF join and filters that Parquet files can be skipped by.

    What this store does not know (sources that are not local Parquet files, views without entities, transformations in
    substrait) is left to Feast's.
    """

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Return the job that joins features to ``entity_df``; see the module for what it returns."""
        transformations = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        known = isinstance(entity_df, pd.DataFrame) and all(
            _parquet_pattern(view.batch_source) and _join_keys(view).keys() for view in feature_views
        )
        if not known or any(view.mode == "substrait" for view in transformations):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        assert isinstance(entity_df, pd.DataFrame)
        rows, time = _utc(entity_df)
        reads = [
            _Read.of(view, feature_refs, full_feature_names, filter_by_created_timestamp)
            for view in feature_views
        ]
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in rows.columns if name != time],
            min_event_timestamp=rows[time].min().to_pydatetime(),
            max_event_timestamp=rows[time].max().to_pydatetime(),
        )
        return _AsofJob(
            config, lambda: _join(config, rows, time, reads), transformations, full_feature_names, metadata
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return the job that finds each key's latest row of the window, both ends included.

        Feast's store casts the time before it compares, so that it reads every row of every file.
        """
        pattern = _parquet_pattern(data_source)
        if pattern is None:
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config,
                data_source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column,
                start_date,
                end_date,
            )
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        order = [timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)
            order.append(created_timestamp_column)

        def ask(connection: duckdb.DuckDBPyConnection, files: list[str]) -> pa.Table:
            newest = ", ".join(f"{_quoted(name)} DESC NULLS LAST" for name in order)
            won = connection.execute(
                "SELECT file_index AS file, file_row_number AS line FROM read_parquet($files) "
                f"WHERE {_quoted(timestamp_field)} BETWEEN $start AND $end QUALIFY row_number() OVER ("
                f"PARTITION BY {_identifiers(join_key_columns)} ORDER BY {newest}, file DESC, line DESC) = 1",
                {"files": files, "start": start_date.astimezone(UTC), "end": end_date.astimezone(UTC)},
            ).to_arrow_table()
            return _fetch(config, files, won, columns).drop_columns("id")

        def latest() -> pa.Table:
            with _duckdb(config) as connection:
                return _while_unchanged(pattern, lambda files: ask(connection, files))

        return _AsofJob(config, latest, [], False, None)


class _AsofJob(IbisRetrievalJob):
    """A retrieval that runs when its result is asked for."""

    def __init__(
        self,
        config: Any,
        run: Callable[[], pa.Table],
        transformations: list[Any],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
    ) -> None:
        store = config.offline_store
        super().__init__(
            None,
            transformations,
            full_feature_names,
            metadata,
            _write_data_source,
            store.staging_location,
            store.staging_location_endpoint_override,
            str(config.repo_path),
        )
        self._run = run

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        self.table = ibis.memtable(self._run())
        super().persist(storage, allow_overwrite, timeout)

    def to_remote_storage(self) -> list[str]:
        self.table = ibis.memtable(self._run())
        remote: list[str] = super().to_remote_storage()
        return remote


@dataclass(frozen=True)
class _Read:
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

    @classmethod
    def of(cls, view: Any, refs: list[str], full_names: bool, by_created: bool) -> _Read:
        source = view.batch_source
        name = view.projection.name_to_use()
        shown = view.projection.name_alias or view.name
        features = [ref.split(":")[1] for ref in refs if ref.startswith(f"{name}:")]
        stored = {new: old for old, new in source.field_mapping.items()}
        pattern = _parquet_pattern(source)
        assert pattern is not None
        return cls(
            pattern=pattern,
            keys={stored.get(key, key): asked for key, asked in _join_keys(view).items()},
            time=stored.get(source.timestamp_field, source.timestamp_field),
            created=source.created_timestamp_column or None,
            visible=by_created and bool(source.created_timestamp_column),
            columns={
                stored.get(feature, feature): f"{shown}__{feature}" if full_names else feature
                for feature in features
            },
            ttl=view.ttl or None,
        )


def _join(config: Any, rows: pd.DataFrame, time: str, reads: list[_Read]) -> pa.Table:
    """Return the rows asked for, with the columns of every view beside them."""
    asked = pa.Table.from_pandas(rows, preserve_index=False)
    times = rows[time].dt.floor("us").astype("datetime64[us, UTC]")
    with _duckdb(config) as connection:
        for read in reads:
            chunks = []
            for start in range(0, len(rows), _CHUNK):
                entities = pa.table(
                    {f"k{n}": asked[column] for n, column in enumerate(read.keys.values())}
                    | {"t": pa.array(times)}
                ).slice(start, _CHUNK)
                chunks.append(
                    _while_unchanged(
                        read.pattern,
                        lambda files, e=entities, r=read: _features(config, connection, files, e, r),
                    )
                )
            found = pa.concat_tables(chunks)
            for column, values in zip(read.columns.values(), found.columns, strict=True):
                asked = asked.append_column(column, values)
    return asked


def _features(
    config: Any, connection: duckdb.DuckDBPyConnection, files: list[str], entities: pa.Table, read: _Read
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
    values = _fetch(config, files, rows, list(read.columns))
    places = _places(len(entities), np.asarray(won["place"]), of_winner, values["id"].to_numpy())
    return _in_order(config, values.drop_columns("id"), places)


def _fetch(config: Any, files: list[str], rows: pa.Table, columns: list[str]) -> pa.Table:
    """Return columns of the rows at (``file``, ``line``), in any order, with ``id``: which of ``rows`` it is.

    DuckDB turns a result into Arrow in one thread, so each thread has a database and a share of the files.
    """
    threads = config.offline_store.threads
    rows = rows.append_column("id", pa.array(np.arange(len(rows))))
    wanted = np.bincount(np.asarray(rows["file"], dtype=np.int64), minlength=len(files))
    share = np.minimum(threads * (wanted.cumsum() - wanted) // max(len(rows), 1), threads - 1)
    asked = ", ".join(f"s.{_quoted(column)}" for column in columns)

    def read(thread: int) -> pa.Table:
        chosen = np.flatnonzero((share == thread) & (wanted > 0))
        # Without a row wanted, one file tells the types.
        chosen = chosen if len(chosen) else np.zeros(1, dtype=np.int64)
        numbers = pa.table({"file": chosen, "number": np.arange(len(chosen))})
        with _duckdb(config, threads=1) as connection:
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


def _candidates(connection: duckdb.DuckDBPyConnection, files: list[str], read: _Read) -> None:
    """Make the table ``candidates``: of each entity, at most one row for each time from which on it counts.

    ``happened`` and ``seen`` are event time and the time from which on a row counts, ``file`` and ``line`` where it
    stands. An ASOF join takes the row that was seen last. That is the one to take only if nothing seen before it
    happened later, so rows that never become the newest are dropped first.
    """
    time = f"CAST(s.{_quoted(read.time)} AS TIMESTAMPTZ)"
    created = f"CAST(s.{_quoted(read.created)} AS TIMESTAMPTZ)" if read.created else "NULL::TIMESTAMPTZ"
    seen = f"greatest({time}, {created})" if read.visible else time
    needed = [f"s.{_quoted(read.time)} IS NOT NULL", *([f"{created} IS NOT NULL"] if read.visible else [])]
    first, last = connection.execute("SELECT min(t), max(t) FROM entities").fetchall()[0]
    # Whole files and row groups are skipped by their statistics.
    if last is not None:
        needed.append(f"{time} <= make_timestamptz({last})")
        if read.ttl:
            needed.append(f"{time} >= make_timestamptz({first - read.ttl // _TICK})")
    same = " AND ".join(f"s.{_quoted(key)} = n.k{place}" for place, key in enumerate(read.keys))
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
def _duckdb(config: Any, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
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


def _while_unchanged(pattern: str, ask: Callable[[list[str]], pa.Table]) -> pa.Table:
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


def _parquet_pattern(source: Any) -> str | None:
    """Return the local Parquet files that a source reads, or None for another kind of source."""
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        return None
    path = str(source.path)
    return path if path.endswith(".parquet") and "://" not in path else None


def _join_keys(view: Any) -> dict[str, str]:
    keys: dict[str, str] = view.projection.join_key_map or {e.name: e.name for e in view.entity_columns}
    return keys


def _utc(entity_df: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows asked for with their times in UTC, and the name of that column."""
    time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
    return entity_df.assign(**{time: pd.to_datetime(entity_df[time], utc=True)}), time


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _identifiers(names: list[str]) -> str:
    return ", ".join(_quoted(name) for name in names)
