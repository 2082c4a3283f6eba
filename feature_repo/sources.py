"""Where features come from: Parquet that the warehouse and the semantic IDs leave, and pushes between two nights."""

from __future__ import annotations

import os
from pathlib import Path

from feast import FileSource, PushSource

HOME = Path(os.environ.get("TESSERA_HOME", ".tessera")).absolute()


def parquet_source(home: Path, files: str) -> FileSource:
    """Return the source over Parquet files.

    Parameters
    ----------
    home
        Absolute ``TESSERA_HOME``; Feast's DuckDB store resolves relative paths against the working directory.
    files
        One file below ``home``, or ``FOLDER/*.parquet``. The files hold ``event_timestamp`` and ``created_timestamp``
        (UTC, microseconds).
    """
    path = Path(files)
    return FileSource(
        name=path.parent.name if path.stem == "*" else path.stem,
        path=str(home / path),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def pushed(source: FileSource) -> PushSource:
    """Return a source that rows can be pushed to, and that is otherwise read from ``source``."""
    return PushSource(name=f"{source.name}__push", batch_source=source)
