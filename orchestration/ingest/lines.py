"""Text files as Arrow batches of raw lines, in order, with their numbers.

DuckDB's own text readers cannot say which line of which file a row came from once bad lines were skipped, stop at
bad UTF-8, and read a ``.gz`` that is cut inside its trailer, or whose checksum is wrong, without a word. So the
bytes are split here, a block at a time and without a Python step per line, and DuckDB parses the lines.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestration.ingest.errors import IngestError, one_line_errors

SCHEMA = pa.schema([("row", pa.int64()), ("size", pa.int64()), ("line", pa.binary())])
_BLOCK = 1 << 24
_BOM = b"\xef\xbb\xbf"
_NEWLINE = 10
_CODECS = {".gz": "gzip", ".zst": "zstd"}


class LineFile:
    """The lines of one text file, read once from start to end.

    A line is what stands between two line feeds. Empty lines are not rows but count in the numbering.

    Parameters
    ----------
    path
        The file; ``.gz`` and ``.zst`` are decompressed, and their checksums verified.
    name
        How messages call it.
    header
        Whether the first line is a header.
    max_line_bytes
        A longer line keeps this many bytes and one more; ``size`` tells how long it was.
    block
        Bytes read at a time.

    Attributes
    ----------
    rows
        Lines handed out so far.
    failure
        What stopped the reading, where something did.
    """

    def __init__(
        self, path: Path, name: str, *, header: bool, max_line_bytes: int, block: int = _BLOCK
    ) -> None:
        self.name = name
        self.rows = 0
        self.failure: IngestError | None = None
        self._keep = max_line_bytes + 1
        self._block = block
        self._number = 0
        with one_line_errors(f"cannot read {name}"):
            self._stream = pa.input_stream(path, compression=_CODECS.get(path.suffix))
        self._head = self._read().removeprefix(_BOM)
        self.header_line = self._take_header() if header else None

    def reader(self) -> pa.RecordBatchReader:
        """Return the remaining lines as a stream of ``(row int64, size int64, line binary)``.

        ``row`` starts at 1 after the header. Reading raises whatever Arrow makes of a failure; the reason in
        plain words is then in :attr:`failure`.
        """
        return pa.RecordBatchReader.from_batches(SCHEMA, self._batches())

    def _read(self) -> bytes:
        try:
            with one_line_errors(f"cannot read {self.name}"):
                block: bytes = self._stream.read(self._block)
                return block
        except IngestError as error:
            self.failure = error
            raise

    def _take_header(self) -> str:
        while b"\n" not in self._head and len(self._head) < self._keep and (more := self._read()):
            self._head += more
        line, _, self._head = self._head.partition(b"\n")
        try:
            return line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError:
            raise IngestError(f"{self.name}: the header is not UTF-8") from None

    def _batches(self) -> Iterator[pa.RecordBatch]:
        carry, dropped = b"", 0
        block, self._head = self._head, b""
        while block or (block := self._read()):
            cut = block.rfind(b"\n") + 1
            if cut:
                yield from self._split(carry + block[:cut], dropped)
                carry, dropped = block[cut:], 0
            else:
                carry += block
            if len(carry) > self._keep:  # a line without end must not fill the memory
                dropped += len(carry) - self._keep
                carry = carry[: self._keep]
            block = b""
        if carry:
            yield from self._split(carry + b"\n", dropped)

    def _split(self, data: bytes, dropped: int) -> Iterator[pa.RecordBatch]:
        """Yield the lines of ``data``, whose first one lost ``dropped`` bytes before its end."""
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
        starts = np.concatenate(([0], ends[:-1] + 1))
        numbers = np.arange(self._number + 1, self._number + 1 + len(ends), dtype=np.int64)
        self._number += len(ends)
        sizes = ends - starts
        sizes[0] += dropped
        # Offsets run over whole lines, feed included; the feed goes in SQL, where text is trimmed anyway.
        offsets = np.concatenate(([0], ends + 1)).astype(np.int32)
        lines = pa.Array.from_buffers(
            pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )
        batch = pa.record_batch([pa.array(numbers), pa.array(sizes), lines], schema=SCHEMA)
        empty = _is_empty(data, starts, sizes)
        if empty.any():
            batch = batch.filter(pa.array(~empty))
        self.rows += batch.num_rows
        yield batch


def header_names(line: str, separator: str, quoted: bool) -> tuple[str, ...]:
    """Return the column names of a header line."""
    if not line:
        return ()
    if not quoted:
        return tuple(line.split(separator))
    return tuple(next(csv.reader([line], delimiter=separator)))


def _is_empty(data: bytes, starts: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.bool_]:
    first = np.frombuffer(data, np.uint8)[starts]
    return (sizes == 0) | ((sizes == 1) & (first == ord("\r")))
