"""Text files as Arrow batches of raw lines, in order, with their numbers.

DuckDB's own text readers cannot say which line of which file a row came from once bad lines were skipped, stop at
bad UTF-8, and read a ``.gz`` that is cut inside its trailer, or whose checksum is wrong, without a word. So the
bytes are split here, a block at a time and without a Python step per line, and DuckDB parses the lines.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestration.ingest.errors import IngestError, one_line_errors

SCHEMA = pa.schema([("row", pa.int64()), ("size", pa.int64()), ("line", pa.binary()), ("text", pa.string())])
_BLOCK = 1 << 23
_WINDOW = 1 << 16
_UNSUSPICIOUS = 1 << 28  # bytes: what a file may decompress to, however small it is
_BOM = b"\xef\xbb\xbf"
_NEWLINE = 10
_CODECS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Limits:
    """How much a compressed file may grow.

    Parameters
    ----------
    decompressed_bytes
        Most bytes that a file may decompress to.
    ratio
        Most bytes for each byte on disk; a file that stays below 256 MB in all is never suspicious.
    """

    decompressed_bytes: int = 50 * 10**9
    ratio: float = 200.0

    def allowed(self, size: int) -> int:
        """Return how many bytes a file of ``size`` bytes on disk may decompress to."""
        return min(self.decompressed_bytes, max(_UNSUSPICIOUS, int(size * self.ratio)))

    def check_parquet(self, path: Path, name: str) -> None:
        """Raise an :class:`IngestError` if a Parquet file says that it decompresses to more than it may."""
        told = pq.read_metadata(path)
        declared = sum(told.row_group(n).total_byte_size for n in range(told.num_row_groups))
        if declared > self.decompressed_bytes or declared < 0:
            raise IngestError(
                f"{name}: says that it decompresses to {declared:,} bytes, {self.decompressed_bytes:,} are allowed "
                "(TESSERA_MAX_DECOMPRESSED_BYTES)"
            )


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
    limits
        How much a compressed file may grow.

    Attributes
    ----------
    rows
        Lines handed out so far.
    failure
        What stopped the reading, where something did.
    watch
        Called with each batch, where it is set.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        header: bool,
        max_line_bytes: int,
        block: int = _BLOCK,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.rows = 0
        self.failure: IngestError | None = None
        self.watch: Callable[[pa.RecordBatch], None] | None = None
        self._keep = max_line_bytes + 1
        self._block = block
        self._number = 0
        self._bytes = 0
        with one_line_errors(f"cannot read {name}"):
            codec = _CODECS.get(path.suffix)
            self._allowed = (limits or Limits()).allowed(path.stat().st_size) if codec else None
            self._stream = pa.input_stream(path, compression=codec)
        self._head = self._read().removeprefix(_BOM)
        self.header_line = self._take_header() if header else None

    def reader(self) -> pa.RecordBatchReader:
        """Return :meth:`batches` as one Arrow stream.

        Reading raises whatever Arrow makes of a failure; the reason in plain words is then in :attr:`failure`.
        """
        return pa.RecordBatchReader.from_batches(SCHEMA, self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the remaining lines, once, as ``(row int64, size int64, line binary, text string)``.

        ``row`` starts at 1 after the header. ``line`` and ``text`` share their bytes, line feed included; ``text``
        is NULL where the line is too long or not UTF-8.

        Raises
        ------
        IngestError
            If the file is cut short or corrupt, or grows beyond its limits.
        """
        carry, dropped = b"", 0
        block, self._head = self._head, b""
        while block or (block := self._read()):
            cut = block.rfind(b"\n") + 1
            if cut:
                yield self._split(carry + block[:cut], dropped)
                carry, dropped = block[cut:], 0
            else:
                carry += block
            if len(carry) > self._keep:  # a line without end must not fill the memory
                dropped += len(carry) - self._keep
                carry = carry[: self._keep]
            block = b""
        if carry:
            yield self._split(carry + b"\n", dropped)

    def _read(self) -> bytes:
        try:
            with one_line_errors(f"cannot read {self.name}"):
                block: bytes = self._stream.read(self._block)
            self._bytes += len(block)
            if self._allowed is not None and self._bytes > self._allowed:
                raise IngestError(
                    f"{self.name}: decompresses to more than {self._allowed:,} bytes and is taken for a bomb; if it "
                    "is none, raise TESSERA_MAX_DECOMPRESSED_BYTES or TESSERA_MAX_COMPRESSION_RATIO"
                )
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

    def _split(self, data: bytes, dropped: int) -> pa.RecordBatch:
        """Return the lines of ``data``, whose first one lost ``dropped`` bytes before its end."""
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
        starts = np.concatenate(([0], ends[:-1] + 1))
        numbers = np.arange(self._number + 1, self._number + 1 + len(ends), dtype=np.int64)
        self._number += len(ends)
        sizes = ends - starts
        sizes[0] += dropped
        # Offsets run over whole lines, feed included; the feed goes in SQL, where text is trimmed anyway.
        offsets = pa.py_buffer(np.concatenate(([0], ends + 1)).astype(np.int32))
        content = pa.py_buffer(data)
        readable = sizes < self._keep
        readable[_not_utf8(data, ends)] = False
        bits = None if readable.all() else pa.py_buffer(np.packbits(readable, bitorder="little"))
        lines = pa.Array.from_buffers(pa.binary(), len(ends), [None, offsets, content])
        texts = pa.Array.from_buffers(pa.string(), len(ends), [bits, offsets, content])
        batch = pa.record_batch([pa.array(numbers), pa.array(sizes), lines, texts], schema=SCHEMA)
        empty = _is_empty(data, starts, sizes)
        if empty.any():
            batch = batch.filter(pa.array(~empty))
        self.rows += batch.num_rows
        if self.watch is not None:
            self.watch(batch)
        return batch


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


def _not_utf8(data: bytes, ends: NDArray[Any]) -> list[int]:
    """Return the indices of the lines of ``data`` that are not UTF-8; ``ends`` are the places of the line feeds."""
    if data.isascii():
        return []
    bad: list[int] = []
    view, start = memoryview(data), 0
    while start < len(data):
        # In windows, for the decoder makes room for all that it is given before it stops at the first fault.
        last = min(int(np.searchsorted(ends, start + _WINDOW)), len(ends) - 1)
        end = int(ends[last]) + 1
        try:
            codecs.utf_8_decode(view[start:end], "strict", True)
            start = end
        except UnicodeDecodeError as error:
            bad.append(int(np.searchsorted(ends, start + error.start)))
            start = int(ends[bad[-1]]) + 1
    return bad
