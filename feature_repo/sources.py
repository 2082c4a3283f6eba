"""Where features are read from: the Parquet files that the warehouse and the semantic IDs leave."""

from __future__ import annotations

import os
from pathlib import Path

from feast import FileSource

HOME = Path(os.environ.get("TESSERA_HOME", ".tessera")).absolute()


def parquet_source(home: Path, file: str) -> FileSource:
    """Return the source over one Parquet file.

    Parameters
    ----------
    home
        Absolute ``TESSERA_HOME``; Feast's DuckDB store resolves relative paths against the working directory.
    file
        Name below ``home``. The file holds ``event_timestamp`` and ``created_timestamp`` (UTC, microseconds).
    """
    return FileSource(
        name=Path(file).stem,
        path=str(home / file),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
