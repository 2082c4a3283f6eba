"""Several vectors of an item as one, each having the same say: side by side, projected, or aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import Manifest, hash_inputs, hash_json, is_complete, package_versions, set_current
from ml.vectors.store import KIND, if_like, load_vectors, places, read_catalogue, save_vectors, turned

__all__ = ["align", "fuse", "load_vectors", "project", "update_fused_vectors"]

Fusion = Literal["concatenate", "project", "whiten", "align"]
#: Item identifiers, and a vector [n, d] for each.
Block = tuple[Sequence[str], NDArray[np.float32]]
_PENALTIES = 10.0 ** np.arange(-4, 4.5, 0.5)


def fuse(item_ids: Sequence[str], blocks: Sequence[Block]) -> NDArray[np.float32]:
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
    return _side_by_side(len(item_ids), [rows for rows, _ in _laid(item_ids, blocks)])


def project(
    vectors: NDArray[np.float32], dim: int, whiten: bool = False
) -> tuple[NDArray[np.float32], float]:
    """Project onto the directions of largest variance (PCA), about zero.

    Parameters
    ----------
    vectors
        ``[n, d]`` of columns with mean zero, as :func:`fuse` gives them; a row of zeros stays one.
    dim
        Directions to keep; at most as many as there are.
    whiten
        Give every direction the same variance (Su et al., "Whitening Sentence Representations for Better Semantics
        and Faster Retrieval", arXiv:2103.15316), so that the rows' mean squared length is 1.

    Returns
    -------
    projected
        ``[n, min(dim, d)]``, strongest direction first, each with its largest coefficient positive.
    explained
        Share of the variance that is kept.
    """
    gram = _gram(vectors, vectors)
    variance, directions = np.linalg.eigh(gram / max(len(vectors), 1))
    total = max(float(variance.sum()), 1e-12)
    variance, directions = variance[::-1][:dim], directions[:, ::-1][:, :dim]
    real = variance > 1e-9 * total
    variance, directions = np.where(real, variance, 0.0), np.where(real, directions, 0.0)
    if directions.size:
        peak = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
        directions = directions * np.where(peak < 0, -1.0, 1.0)
    if whiten:
        directions = directions / np.sqrt(np.where(real, variance, 1.0) * max(int(real.sum()), 1))
    return (vectors @ directions.astype(np.float32)), float(variance.sum()) / total


def align(
    item_ids: Sequence[str], blocks: Sequence[Block]
) -> tuple[NDArray[np.float32], list[dict[str, float]]]:
    """Lay blocks side by side, and predict what a block does not know of an item from what the others do.

    The prediction is a linear map of the other blocks into the block's space, fitted by ridge regression to the
    items known to both, with the penalty of least generalised cross-validation (Golub, Heath and Wahba 1979). So an
    item that nobody has met yet gets the behaviour that its text lets expect (Gantner et al., "Learning
    Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010).

    Parameters
    ----------
    item_ids, blocks
        As in :func:`fuse`.

    Returns
    -------
    fused
        As :func:`fuse` gives it; zero only where no other block knows the item either.
    reports
        For each block ``predicted`` (rows), ``penalty``, and ``r2``, the share of variance that cross-validation
        expects to be predicted; ``r2`` is 0 where there is nothing to learn from.
    """
    laid = _laid(item_ids, blocks)
    filled, reports = [], []
    for n, (rows, known) in enumerate(laid):
        others = _side_by_side(len(rows), [block for m, (block, _) in enumerate(laid) if m != n])
        seen = np.zeros(len(rows), bool)
        for m, (_, also) in enumerate(laid):
            seen |= also & (m != n)
        both, asked = known & seen, ~known & seen
        report = {"predicted": 0.0, "penalty": 0.0, "r2": 0.0}
        if both.sum() > 1 and rows.shape[1]:
            weights, shift, penalty, r2 = _ridge(others[both], rows[both])
            rows = rows.copy()
            rows[asked] = others[asked] @ weights + shift
            report = {"predicted": float(asked.sum()), "penalty": penalty, "r2": r2}
        filled.append(rows)
        reports.append(report)
    return _side_by_side(len(item_ids), filled), reports


def update_fused_vectors(
    dim_items: Path,
    sources: Mapping[str, Path],
    out: Path,
    fusion: Fusion = "concatenate",
    dim: int = 128,
    anchor: Path | None = None,
) -> Path:
    """Fuse vectors artefacts for the whole catalogue and make the result live.

    Parameters
    ----------
    dim_items
        The ``dim_items`` mart.
    sources
        Name to folder of each vectors artefact; laid side by side in order of name.
    out
        Folder of versions, for example ``vectors/fused``.
    fusion
        ``concatenate`` (:func:`fuse`), ``project`` or ``whiten`` (:func:`project` after it), ``align``
        (:func:`align`).
    dim
        Width of ``project`` and ``whiten``.
    anchor
        A version of ``out`` to turn a projection onto if it is of the same kind and width
        (`ml.vectors.store.turned`): what the live tokenizer was fitted to.

    Returns
    -------
    Path
        ``out/VERSION``, with a row for every item of the catalogue, sorted by identifier.
    """
    item_ids = sorted(read_catalogue(dim_items))
    names = sorted(sources)
    inputs = hash_inputs({name: sources[name] for name in names})
    versions = {name: sources[name].name for name in names}
    recipe: dict[str, Any] = {"name": "fused", "fusion": fusion, "blocks": names}
    if fusion in ("project", "whiten"):
        recipe["dim"] = dim
    recipe["fused"] = hash_json([recipe, inputs, hash_json(item_ids)])
    anchor = if_like(anchor, fusion=fusion, dim=dim)
    recipe["turned_to"] = anchor.name if anchor else None
    same = if_like(anchor, fused=recipe["fused"])
    version = same.name if same else hash_json(recipe)
    if is_complete(out / version):
        set_current(out, version)
        return out / version
    blocks = [load_vectors(sources[name]) for name in names]
    metrics: dict[str, Any] = {"rows": len(item_ids)}
    if fusion == "align":
        vectors, reports = align(item_ids, blocks)
        metrics["align"] = dict(zip(names, reports, strict=True))
    else:
        vectors = fuse(item_ids, blocks)
    if fusion in ("project", "whiten"):
        vectors, metrics["explained"] = project(vectors, dim, whiten=fusion == "whiten")
        vectors = turned(anchor, item_ids, vectors)
    manifest = Manifest(
        kind=KIND,
        version=version,
        inputs=inputs,
        recipe=recipe | {"width": vectors.shape[1], "versions": versions},
        packages=package_versions("numpy"),
        metrics=metrics | {"unknown": int((~vectors.any(axis=1)).sum())},
    )
    return save_vectors(out, manifest, item_ids, vectors)


def _laid(
    item_ids: Sequence[str], blocks: Sequence[Block]
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Bring blocks into catalogue order, each having the same say; and tell which rows each knows."""
    laid = []
    for ids, vectors in blocks:
        source = places(item_ids, ids)
        known = source >= 0
        rows = np.zeros((len(item_ids), vectors.shape[1]), np.float32)
        if known.any():
            rows[known] = _standardise(vectors[source[known]]) / np.sqrt(vectors.shape[1])
        laid.append((rows, known))
    return laid


def _side_by_side(n: int, blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((n, 0), np.float32), *blocks], axis=1)


def _standardise(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return columns of mean 0 and variance 1; constant columns become 0."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    flat = deviation < 1e-9
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def _gram(left: NDArray[np.float32], right: NDArray[np.float32], rows: int = 65_536) -> NDArray[np.float64]:
    """Return ``left.T @ right`` summed in float64, without a float64 copy of either."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), rows):
        part = slice(start, start + rows)
        total += left[part].astype(np.float64).T @ right[part].astype(np.float64)
    return total


def _ridge(
    x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float, float]:
    """Fit ``y = x @ weights + shift``; return both, the penalty that was chosen, and the R2 it is expected to have.

    All penalties are judged from one eigendecomposition of ``x.T @ x``: no row is left out in turn.
    """
    n = len(x)
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    scale, basis = np.linalg.eigh(_gram(x, x) - n * np.outer(mean_x, mean_x))
    scale = np.maximum(scale, 0.0)
    moment = basis.T @ (_gram(x, y) - n * np.outer(mean_x, mean_y))
    spread = float((y.astype(np.float64) ** 2).sum() - n * (mean_y**2).sum())
    power = (moment**2).sum(axis=1)
    penalties = _PENALTIES * max(float(scale.mean()), 1e-12)
    errors = []
    for penalty in penalties:
        residual = spread - (power * (scale + 2 * penalty) / (scale + penalty) ** 2).sum()
        # One degree of freedom goes to the shift.
        free = max(n - 1 - (scale / (scale + penalty)).sum(), 1e-9)
        errors.append(n * max(residual, 0.0) / free**2)
    best = int(np.argmin(errors))
    weights = basis @ (moment / (scale + penalties[best])[:, None])
    r2 = 1 - errors[best] * n / spread if spread > 0 else 0.0
    shift = mean_y - mean_x @ weights
    return weights.astype(np.float32), shift.astype(np.float32), float(penalties[best]), max(float(r2), 0.0)
