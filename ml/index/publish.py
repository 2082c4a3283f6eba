"""Publish an index as a version, and load it back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ml.artifacts import (
    ArtifactError,
    Manifest,
    check_made_from,
    hash_bytes,
    hash_file,
    hash_json,
    is_complete,
    package_versions,
    publish,
    read_manifest,
    set_current,
    write_manifest,
)
from ml.index.build import IndexSpec

KIND = "index"


def publish_index(
    out: Path,
    index: Any,
    spec: IndexSpec,
    vectors: NDArray[np.float32],
    inputs: dict[str, str],
    metrics: dict[str, Any],
) -> Path:
    """Write ``out/VERSION`` and return it; the version names the vectors, the setting and the inputs.

    The folder holds ``index.faiss``, the vectors it was built on (``vectors.safetensors``, ``[n_items, d]``
    float32) and the manifest. A version is made live by :func:`make_live`, once its checks have passed. One that was
    published before is written again where a file of it is damaged.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    content = _hash_vectors(vectors)
    version = index_version(spec, vectors, inputs)
    folder = out / version
    if is_complete(folder) and _is_intact(folder):
        return folder
    import faiss

    with publish(folder) as staging:
        faiss.write_index(index, str(staging / "index.faiss"))
        save_file({"vectors": vectors}, staging / "vectors.safetensors")
        write_manifest(
            staging,
            Manifest(
                kind=KIND,
                version=version,
                inputs=inputs | {"vectors": content, "index.faiss": hash_file(staging / "index.faiss")},
                recipe=spec.model_dump(),
                packages=package_versions("faiss-cpu", "numpy"),
                metrics=metrics,
            ),
        )
    return folder


def index_version(spec: IndexSpec, vectors: NDArray[np.float32], inputs: dict[str, str]) -> str:
    """Return the name that :func:`publish_index` gives to an index."""
    content = _hash_vectors(np.ascontiguousarray(vectors, dtype=np.float32))
    return hash_json({"vectors": content, "spec": spec.model_dump(), "inputs": inputs})


def make_live(folder: Path) -> None:
    """Point ``CURRENT`` at a published index."""
    set_current(folder.parent, folder.name)


def load_index(
    folder: Path, built_on: Mapping[str, str] | None = None
) -> tuple[Any, NDArray[np.float32], Manifest]:
    """Load a published index with the vectors it was built on.

    Parameters
    ----------
    folder
        What `publish_index` returned.
    built_on
        Inputs that it must have been built on, such as the model and the snapshot, where that matters.

    Raises
    ------
    ArtifactError
        If the folder is no complete index, if a file is not the one that was published, or if it was built on
        something else.
    """
    import faiss

    manifest = read_manifest(folder, KIND)
    check_made_from(folder, built_on or {})
    vectors = _read_vectors(folder, manifest)
    return faiss.read_index(str(folder / "index.faiss")), vectors, manifest


def _is_intact(folder: Path) -> bool:
    try:
        _read_vectors(folder, read_manifest(folder, KIND))
    except ArtifactError:
        return False
    return True


def _read_vectors(folder: Path, manifest: Manifest) -> NDArray[np.float32]:
    """Return the vectors of an index once both of its files are known to be those that were published."""
    index, path = folder / "index.faiss", folder / "vectors.safetensors"
    if not index.is_file() or hash_file(index) != manifest.inputs["index.faiss"]:
        raise ArtifactError(f"{index} is missing or differs from what was published")
    try:
        vectors: NDArray[np.float32] = load_file(path)["vectors"]
        intact = _hash_vectors(vectors) == manifest.inputs["vectors"]
    except (OSError, KeyError, SafetensorError):
        intact = False
    if not intact:
        raise ArtifactError(f"{path} is missing or differs from what was published")
    return vectors


def _hash_vectors(vectors: NDArray[np.float32]) -> str:
    return hash_bytes(str(vectors.shape).encode(), vectors.data.cast("B"))
