"""Several vectors of an item as one, each having the same say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import Manifest, hash_inputs, hash_json, is_complete, package_versions, set_current
from ml.vectors.store import KIND, load_vectors, read_catalogue, save_vectors

__all__ = ["fuse", "load_vectors", "update_fused_vectors"]


def fuse(
    item_ids: Sequence[str], blocks: Sequence[tuple[Sequence[str], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """Lay blocks of vectors side by side for a catalogue.

    Every block is standardised per column over the rows it knows, then divided by the square root of its width: a
    block's rows have mean squared length 1 however wide it is, so 384 columns of text do not drown 64 of behaviour.

    Parameters
    ----------
    item_ids
        The catalogue, in the order of the result's rows.
    blocks
        Pairs of item identifiers and their vectors ``[n, d]``. Items outside the catalogue are passed over.

    Returns
    -------
    NDArray[np.float32]
        ``[len(item_ids), sum of widths]``; zero, which is a block's mean, where a block does not know the item.
    """
    place = {item: row for row, item in enumerate(item_ids)}
    fused = [np.zeros((len(item_ids), 0), np.float32)]
    for ids, vectors in blocks:
        pairs = [(place[item], row) for row, item in enumerate(ids) if item in place]
        block = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
        if pairs:
            target, source = np.array(pairs).T
            block[target] = _standardise(vectors[source]) / np.sqrt(vectors.shape[1])
        fused.append(block)
    return np.concatenate(fused, axis=1)


def update_fused_vectors(dim_items: Path, sources: Mapping[str, Path], out: Path) -> Path:
    """Fuse vectors artefacts for the whole catalogue and make the result live.

    Parameters
    ----------
    dim_items
        The ``dim_items`` mart.
    sources
        Name to folder of each vectors artefact; laid side by side in order of name.
    out
        Folder of versions, for example ``vectors/fused``.

    Returns
    -------
    Path
        ``out/VERSION``, with a row for every item of the catalogue, sorted by identifier.
    """
    item_ids = sorted(read_catalogue(dim_items))
    names = sorted(sources)
    inputs = hash_inputs({name: sources[name] for name in names})
    version = hash_json(["fused", inputs, hash_json(item_ids)])
    if is_complete(out / version):
        set_current(out, version)
        return out / version
    vectors = fuse(item_ids, [load_vectors(sources[name]) for name in names])
    manifest = Manifest(
        kind=KIND,
        version=version,
        inputs=inputs,
        recipe={"name": "fused", "blocks": names, "width": vectors.shape[1]},
        packages=package_versions("numpy"),
        metrics={"rows": len(item_ids), "unknown": int((~vectors.any(axis=1)).sum())},
    )
    return save_vectors(out, manifest, item_ids, vectors)


def _standardise(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return columns of mean 0 and variance 1; constant columns become 0."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    flat = deviation < 1e-9
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))
