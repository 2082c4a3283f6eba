"""The vectors artefact: ``vectors/NAME/VERSION/{vectors.safetensors, items.parquet, manifest.json}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ml.artifacts import ArtifactError, Manifest, publish, read_manifest, set_current, write_manifest

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


def aligned(
    item_ids: Sequence[str], known: Sequence[str], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the vectors [n, width] of ``item_ids``; zero where an item is not among the ``known``, one a row."""
    place = {item: row for row, item in enumerate(known)}
    rows = np.array([place.get(item, -1) for item in item_ids], np.int64)
    found = np.zeros((len(rows), vectors.shape[1]), np.float32)
    found[rows >= 0] = vectors[rows[rows >= 0]]
    return found


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
