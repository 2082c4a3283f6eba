"""Landed files as portions of typed rows, in the order of the file, each portion parsed on a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import duckdb
import pyarrow as pa

from orchestration.ingest.errors import one_line_errors
from orchestration.ingest.fields import LINES, Opened
from orchestration.ingest.parquet import ROW_GROUP


class Parsers:
    """Threads that parse blocks of lines, each with its own connection to one DuckDB.

    A query over a block of lines has work for one thread of DuckDB, and the others only get in its way. So each
    block is parsed by the thread that asks for it, several at a time, and rows need no sorting afterwards.

    Parameters
    ----------
    connection
        The DuckDB whose memory limit holds for all.
    threads
        How many blocks are parsed at a time.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, threads: int) -> None:
        self._connection = connection
        self._threads = threads

    def __enter__(self) -> Parsers:
        self._stack = ExitStack()
        self._cursors: SimpleQueue[duckdb.DuckDBPyConnection] = SimpleQueue()
        for _ in range(self._threads):
            cursor = self._stack.enter_context(self._connection.cursor())
            cursor.execute("SET TimeZone = 'UTC'")
            self._cursors.put(cursor)
        self._pool = self._stack.enter_context(ThreadPoolExecutor(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    def portions(
        self, name: str, opened: Opened, query: str, values: Mapping[str, Any]
    ) -> Iterator[pa.Table]:
        """Yield the result of a query over a file, in the order of its rows.

        Parameters
        ----------
        name, opened
            The file.
        query
            Query over ``opened.rows``.
        values
            Values of its parameters.

        Raises
        ------
        IngestError
            If the file is cut short or corrupt.
        """
        with one_line_errors(f"cannot read {name}"):
            if opened.lines is not None:
                self._connection.execute("SET threads = 1")
                try:
                    yield from self._parsed(opened.lines.batches(), query, values)
                finally:
                    self._connection.execute(f"SET threads = {self._threads}")
                return
            for batch in self._connection.execute(query, values or None).to_arrow_reader(ROW_GROUP):
                yield pa.Table.from_batches([batch])

    def _parsed(
        self, blocks: Iterable[pa.RecordBatch], query: str, values: Mapping[str, Any]
    ) -> Iterator[pa.Table]:
        waiting: deque[Future[pa.Table]] = deque()
        for block in blocks:
            waiting.append(self._pool.submit(self._parse, block, query, values))
            if len(waiting) > self._threads:  # one block more than are at work, so that none has to wait
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _parse(self, block: pa.RecordBatch, query: str, values: Mapping[str, Any]) -> pa.Table:
        cursor = self._cursors.get()
        try:
            cursor.register(LINES, block)
            found = cursor.execute(query, values or None).to_arrow_table()
            cursor.unregister(LINES)
            return found
        finally:
            self._cursors.put(cursor)
