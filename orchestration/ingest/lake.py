"""Partitions of the lake and of the quarantine: written beside, compared, and published atomically."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from ml.artifacts import MANIFEST, ArtifactError, hash_file, publish, read_json, write_json
from orchestration.ingest.errors import one_line_errors
from orchestration.ingest.sql import literal

REJECTED = "rejected.parquet"


@contextmanager
def workshop(lake: Path, memory_limit: str, threads: int) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Yield an in-memory DuckDB connection and an empty folder in the lake, both gone afterwards.

    Parameters
    ----------
    lake
        Root of the lake; what is published moves there from the folder by renaming.
    memory_limit
        What DuckDB may hold in memory before it spills into the folder, for example ``"1GB"``.
    threads
        Threads that DuckDB uses; results do not depend on it.

    Raises
    ------
    IngestError
        If the lake cannot be written.
    """
    with one_line_errors(f"cannot write {lake}"):
        lake.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=lake, prefix=".ingest."))
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        "threads": threads,
        "temp_directory": str(folder / "spill"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with one_line_errors(f"cannot ingest into {lake}"), duckdb.connect(config=config) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rejected_columns(source: str) -> str:
    """Return the columns of a quarantine file, as SQL over a staging table."""
    return f"{literal(source)} AS source, source_file, source_row, reason, detail, raw"


def publish_lake(staged: Path, target: Path, manifest: dict[str, Any]) -> bool:
    """Publish a folder with one Parquet file and its manifest, unless the same content stands there already.

    Parameters
    ----------
    staged
        The file as written.
    target
        The file as published; its folder is the partition.
    manifest
        What goes into the manifest; the hash of the file is added.

    Returns
    -------
    bool
        Whether anything changed.

    Raises
    ------
    IngestError
        If the disk refuses; what stood in the folder is untouched then.
    """
    with one_line_errors(f"cannot write {target.parent}"):
        manifest = manifest | {"content_hash": hash_file(staged)}
        if _stands(target, manifest):
            return False
        with publish(target.parent) as folder:
            shutil.move(staged, folder / target.name)
            write_json(folder / MANIFEST, manifest)
        return True


def publish_quarantine(staged: Path, target: Path) -> bool:
    """Publish a folder with a file of rejected rows; where none was written, what stood at ``target`` goes.

    Returns
    -------
    bool
        Whether anything changed.

    Raises
    ------
    IngestError
        If the disk refuses.
    """
    with one_line_errors(f"cannot write {target}"):
        if not staged.is_file():
            return remove(target)
        standing = target / REJECTED
        if standing.is_file() and hash_file(standing) == hash_file(staged):
            return False
        with publish(target) as folder:
            shutil.move(staged, folder / REJECTED)
        return True


def remove(target: Path) -> bool:
    """Take a partition away in one step; tell whether there was one."""
    if not target.exists():
        return False
    doomed = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    target.rename(doomed / target.name)
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def _stands(target: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether ``target`` holds this content; a landed file that merely grew elsewhere makes no difference."""
    if not (target.parent / MANIFEST).is_file() or not target.is_file():
        return False
    try:
        standing = read_json(target.parent / MANIFEST)
    except ArtifactError:
        return False
    same = all(standing.get(key) == value for key, value in manifest.items() if key != "files")
    return same and hash_file(target) == manifest["content_hash"]
