"""Items that came after the champion's snapshot, beside the catalogue that the champion was trained on."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ml.artifacts import CURRENT, ArtifactError, current, read_manifest

if TYPE_CHECKING:
    from ml.snapshot import Catalogue, Snapshot

KIND = "newcomers"
_log = logging.getLogger(__name__)


def with_newcomers(home: Path, snapshot: Snapshot) -> tuple[Catalogue, str | None]:
    """Return a snapshot's catalogue with the published newcomers behind its items, and their version.

    Newcomers have no semantic ID, and may lack text or fused vectors: rows of zeros. Those that were published beside
    another snapshot are passed over, as are damaged ones, which the log tells of.
    """
    try:
        if not (home / KIND / CURRENT).is_file():
            return snapshot.catalogue, None
        folder = current(home / KIND)
        manifest = read_manifest(folder, KIND)
        if manifest.inputs.get("snapshot") != snapshot.manifest.version or not manifest.metrics["items"]:
            return snapshot.catalogue, None
        return _extended(snapshot.catalogue, folder), f"{KIND}/{folder.name}"
    except (ArtifactError, OSError, KeyError, SafetensorError, pa.ArrowInvalid) as error:
        _log.error("serving without newcomers: %s", str(error).splitlines()[0])
        return snapshot.catalogue, None


def _extended(catalogue: Catalogue, folder: Path) -> Catalogue:
    items = pq.read_table(folder / "items.parquet")
    arrays = load_file(folder / "vectors.safetensors")
    new = len(items)
    vectors, text = _below(catalogue.vectors, arrays["vectors"]), _below(catalogue.text, arrays["text"])
    if len(vectors) != len(catalogue) + new or len(text) != len(catalogue) + new:
        raise ArtifactError(f"{folder} holds other vectors than items")
    return replace(
        catalogue,
        item_ids=[*catalogue.item_ids, *items["item_id"].to_pylist()],
        titles=[*catalogue.titles, *items["title"].to_pylist()],
        categories=[*catalogue.categories, *items["categories"].to_pylist()],
        vectors=vectors,
        text=text,
        codes=np.pad(catalogue.codes, ((0, new), (0, 0)), constant_values=-1),
        more_codes=catalogue.more_codes[:0],
    )


def _below(known: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put new rows below those of the catalogue; zeros where they are of another width."""
    if new.shape[1] != known.shape[1]:
        new = np.zeros((len(new), known.shape[1]), np.float32)
    return np.concatenate([known, new])
