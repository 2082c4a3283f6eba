"""Query results as Parquet files, one per day, whose bytes depend on the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import date
from itertools import groupby
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestration.ingest.errors import one_line_errors

ROW_GROUP = 122_880
_NO_DAY = date.min


def write_days(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    path_of: Callable[[date | None], Path],
    empty: Path | None = None,
) -> None:
    """Write the rows of a query, one file per day.

    DuckDB's own COPY costs four times as much per file where files are small, and its partitioned form loses the
    order of rows as soon as it has two threads.

    Parameters
    ----------
    connection
        Where the query runs.
    query
        Its first column is the day, which takes no part in the files; rows come ordered by it.
    path_of
        Path of a day's file; ``None`` stands for rows without a day.
    empty
        File to write, without rows, if the query yields none.

    Raises
    ------
    IngestError
        If the disk refuses.
    """
    with one_line_errors("cannot write Parquet files"):
        reader = connection.execute(query).to_arrow_reader(ROW_GROUP)
        schema = reader.schema.remove(0)
        for day, runs in groupby(_runs(reader), key=lambda run: run[0]):
            empty = None
            write_file(path_of(day), schema, (rows for _, rows in runs))
        if empty is not None:
            write_file(empty, schema, ())


def _runs(reader: pa.RecordBatchReader) -> Iterator[tuple[date | None, pa.RecordBatch]]:
    """Yield each stretch of rows of one day, without the day column."""
    for batch in reader:
        days = pc.run_end_encode(pc.fill_null(batch.column(0), _NO_DAY))  # no two NULLs are one run
        rows = pa.record_batch(batch.columns[1:], schema=batch.schema.remove(0))
        start = 0
        for day, end in zip(days.values.to_pylist(), days.run_ends.to_pylist(), strict=True):
            yield None if day == _NO_DAY else day, rows.slice(start, end - start)
            start = end


class ParquetFile:
    """One file, written in whatever portions its rows come; row groups are cut by count.

    Parameters
    ----------
    path, schema
        The file and its columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)
        self._rest = schema.empty_table()

    def add(self, rows: pa.Table) -> None:
        """Append rows, of the file's columns."""
        rest = pa.concat_tables([self._rest, rows])
        while rest.num_rows >= ROW_GROUP:
            self._writer.write_table(rest.slice(0, ROW_GROUP).combine_chunks(), ROW_GROUP)
            rest = rest.slice(ROW_GROUP)
        self._rest = rest

    def finish(self) -> None:
        """Write what is left."""
        if self._rest.num_rows:
            self._writer.write_table(self._rest.combine_chunks(), ROW_GROUP)
        self._rest = self._rest.slice(0, 0)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._writer.close()


def write_file(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches to one file, in the row groups and with the compression that all files of the lake have."""
    with closing(ParquetFile(path, schema)) as file:
        for batch in batches:
            file.add(pa.Table.from_batches([batch]))
        file.finish()
