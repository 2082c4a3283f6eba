"""The vectors artefact: ``vectors/NAME/VERSION/{vectors.safetensors, items.parquet, manifest.json}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ml.artifacts import (
    ArtifactError,
    Manifest,
    is_complete,
    publish,
    read_manifest,
    set_current,
    write_manifest,
)

KIND = "vectors"


def save_vectors(
    out: Path,
    manifest: Manifest,
    item_ids: list[str],
    vectors: NDArray[np.float32],
    **columns: list[str],
) -> Path:
    """Publish ``out/VERSION`` and make it the live version of ``out``.

    Parameters
    ----------
    out
        Folder of versions.
    manifest
        Birth certificate; its version names the folder.
    item_ids
        One identifier a row.
    vectors
        Float32 of shape ``[len(item_ids), width]``.
    **columns
        Further string columns of ``items.parquet``.
    """
    target = out / manifest.version
    with publish(target) as folder:
        save_file(
            {"vectors": np.ascontiguousarray(vectors, dtype=np.float32)}, folder / "vectors.safetensors"
        )
        table = {"item_id": pa.array(item_ids, pa.string())}
        table |= {name: pa.array(values, pa.string()) for name, values in columns.items()}
        pq.write_table(pa.table(table), folder / "items.parquet", compression="zstd")
        write_manifest(folder, manifest)
    set_current(out, manifest.version)
    return target


def load_vectors(folder: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read a vectors artefact.

    Returns
    -------
    item_ids
        Identifier of each row.
    vectors
        Float32 of shape ``[len(item_ids), width]``.

    Raises
    ------
    ArtifactError
        If the folder is not a complete vectors artefact, or its two files disagree.
    """
    read_manifest(folder, KIND)
    item_ids = read_column(folder, "item_id")
    vectors = load_file(folder / "vectors.safetensors")["vectors"]
    if len(item_ids) != len(vectors):
        raise ArtifactError(f"{folder} holds {len(vectors)} vectors for {len(item_ids)} items")
    return item_ids, vectors


def places(item_ids: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """Return where each of ``item_ids`` stands among the ``known``, int64 [n]; -1 where it does not."""
    place = {item: row for row, item in enumerate(known)}
    return np.array([place.get(item, -1) for item in item_ids], np.int64)


def aligned(
    item_ids: Sequence[str], known: Sequence[str], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the vectors [n, width] of ``item_ids``; zero where an item is not among the ``known``, one a row."""
    rows = places(item_ids, known)
    found = np.zeros((len(rows), vectors.shape[1]), np.float32)
    found[rows >= 0] = vectors[rows[rows >= 0]]
    return found


def if_like(folder: Path | None, **recipe: Any) -> Path | None:
    """Return a vectors artefact if it is there and was made by a recipe of these values, else None."""
    if folder is None or not is_complete(folder):
        return None
    made = read_manifest(folder, KIND).recipe
    return folder if all(made.get(name) == value for name, value in recipe.items()) else None


def turned(anchor: Path | None, item_ids: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn vectors, as a whole, onto an earlier version of them (orthogonal Procrustes: Schoenemann 1966).

    Factors and projections are only known up to a rotation, and a night's events can turn them. Their inner products
    do not change with it, but a codebook that was fitted before the turn would read them wrongly after it.

    Parameters
    ----------
    anchor
        A vectors artefact; where there is none, or it is of another width, or shares no item, nothing is turned.
    item_ids, vectors
        Identifiers and float32 [n, width].

    Returns
    -------
    NDArray[np.float32]
        ``vectors`` times the rotation that brings the shared items nearest to where they were.
    """
    if anchor is None:
        return vectors
    known, before = load_vectors(anchor)
    then = places(item_ids, known)
    shared = then >= 0
    if not shared.any() or before.shape[1] != vectors.shape[1]:
        return vectors
    left, _, right = np.linalg.svd(
        vectors[shared].astype(np.float64).T @ before[then[shared]].astype(np.float64)
    )
    result: NDArray[np.float32] = (vectors @ (left @ right)).astype(np.float32)
    # A row of zeros says that nothing is known, and must not become one of rounding errors.
    result[~vectors.any(axis=1)] = 0
    return result


def read_column(folder: Path, name: str) -> list[str]:
    """Read one string column of the artefact's ``items.parquet``."""
    values: list[str] = pq.read_table(folder / "items.parquet", columns=[name])[name].to_pylist()
    return values


def read_catalogue(dim_items: Path) -> list[str]:
    """Read the item identifiers of the ``dim_items`` mart.

    Raises
    ------
    ArtifactError
        If the file is missing or cannot be read.
    """
    with opened(dim_items) as file:
        values: list[str] = file.read(columns=["item_id"])["item_id"].to_pylist()
    return values


def opened(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises
    ------
    ArtifactError
        If the file is missing or cannot be read.
    """
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
