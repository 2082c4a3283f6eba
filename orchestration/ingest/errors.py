"""What ingestion tells a user who made a mistake, or whose disk or files failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa


class IngestError(Exception):
    """Ingestion cannot go on; the message is one line that names the file and the cause."""


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def one_line_errors(action: str) -> Iterator[None]:
    """Turn what the disk, DuckDB or Arrow raise within the block into an :class:`IngestError`.

    Parameters
    ----------
    action
        What was being done and to which file, for example ``"cannot write lake/events"``.
    """
    try:
        yield
    except (OSError, duckdb.Error, pa.ArrowException) as error:
        raise IngestError(f"{action}: {one_line(error)}") from error
