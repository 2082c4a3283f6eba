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
        standing = _standing(target)
        if standing is not None and _told(standing) == _told(manifest):
            if _look(standing) != _look(manifest):
                write_json(target.parent / MANIFEST, manifest)
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


def _standing(target: Path) -> dict[str, Any] | None:
    """Return the manifest of what stands at ``target``; ``None`` where the file is not the one it speaks of."""
    if not (target.parent / MANIFEST).is_file() or not target.is_file():
        return None
    try:
        standing = read_json(target.parent / MANIFEST)
    except ArtifactError:
        return None
    whole = isinstance(standing, dict) and hash_file(target) == standing.get("content_hash")
    return standing if whole else None


def _told(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of its day; a landed file that merely grew elsewhere makes no difference."""
    return {key: value for key, value in manifest.items() if key not in ("files", "shape")}


def _look(manifest: dict[str, Any]) -> Any:
    """Return the columns of the landed files with the kinds of their values, however many of each there were."""
    shape = manifest.get("shape")
    return shape and {column: sorted(kinds) for column, kinds in shape["columns"].items()}
