"""Tokenizers and semantic IDs as versions: fitted once, appended every night, never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ml.artifacts import (
    ArtifactError,
    Manifest,
    hash_bytes,
    hash_json,
    is_complete,
    package_versions,
    publish,
    read_json,
    read_manifest,
    set_current,
    write_json,
    write_manifest,
)
from ml.tokenizers import build, report, tokenizer_class
from ml.tokenizers.base import CONFIG
from ml.tokenizers.collisions import assign_new
from ml.tokenizers.items import ItemData

if TYPE_CHECKING:
    from ml.tokenizers.base import Tokenizer

TOKENIZER = "tokenizer"
SEMANTIC_IDS = "semantic_ids"
_PACKAGES = ("numpy", "scipy", "torch")


@dataclass(frozen=True)
class SemanticIds:
    """Semantic IDs in memory.

    Parameters
    ----------
    item_ids
        Item of each row.
    codes
        int32 [n, levels + 1]; the last code tells apart items that share the others.
    code_sizes
        Exclusive upper bound of each column.
    tokenizer
        Version of the tokenizer that gave them.
    """

    item_ids: list[str]
    codes: NDArray[np.int32]
    code_sizes: tuple[int, ...]
    tokenizer: str


def fit_tokenizer(
    items: ItemData,
    kind: str,
    params: dict[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    out: Path,
) -> Path:
    """Fit a tokenizer, publish it and make it live.

    Parameters
    ----------
    items
        What the kind needs of them; items that its input does not know take no part.
    kind, params
        As in `ml.tokenizers.build`.
    seed
        Seed of every random choice.
    inputs
        Name to content hash of what the vectors were made from.
    out
        Folder of versions, ``tokenizers``.

    Returns
    -------
    Path
        ``out/VERSION``; one of the same items, parameters and seed is used as it is.

    Raises
    ------
    ArtifactError
        If kind or parameters are unknown, or if the items cannot be fitted.
    """
    tokenizer = build(kind, params)
    recipe = {"kind": kind, "params": tokenizer.params.model_dump(mode="json")}
    version = hash_json([recipe, seed, items.hash])
    if not is_complete(out / version):
        metrics = tokenizer.fit(items, seed)
        with publish(out / version) as folder:
            tokenizer.save(folder)
            manifest = Manifest(
                kind=TOKENIZER,
                version=version,
                inputs=dict(inputs),
                recipe=recipe,
                seed=seed,
                packages=package_versions(*_PACKAGES),
                metrics=metrics,
            )
            write_manifest(folder, manifest)
    set_current(out, version)
    return out / version


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a fitted tokenizer of any kind.

    Raises
    ------
    ArtifactError
        If the folder holds none.
    """
    read_manifest(folder, TOKENIZER)
    return tokenizer_class(read_json(folder / CONFIG).get("kind")).load(folder)


def assign_semantic_ids(
    tokenizer_dir: Path,
    items: ItemData,
    previous: Path | None,
    out: Path,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """Give every item a semantic ID, publish them with a report, and make them live.

    Parameters
    ----------
    tokenizer_dir
        A version written by `fit_tokenizer`.
    items
        The catalogue, with all that is known of it: the report compares neighbours in its spaces ``text`` and
        ``behaviour``, and prefixes with its categories, where they are given.
    previous
        The version that stood before. Made by the same tokenizer version, its IDs are frozen: an item keeps its own
        even where its vector has moved, an item that left keeps its row so that nobody inherits its ID, and only new
        items are given one. Made by another, it only serves to report churn.
    out
        Folder of versions, ``semantic_ids``.
    inputs
        Name to content hash of what the vectors were made from.

    Returns
    -------
    Path
        ``out/VERSION`` with ``codes.safetensors``, ``items.parquet``, ``report.json`` and the manifest, whose recipe
        names the tokenizer's version and the code sizes.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    tokenizer_version = read_manifest(tokenizer_dir, TOKENIZER).version
    before = load_semantic_ids(previous) if previous is not None else None
    base = tokenizer.encode(items)
    frozen = before if before is not None and before.tokenizer == tokenizer_version else None
    all_ids, codes = _append(frozen, list(items.item_ids), base)
    sizes = _code_sizes(tokenizer, codes, frozen)
    version = hash_json([tokenizer_version, hash_json(all_ids), hash_bytes(codes.tobytes()), sizes])
    if not is_complete(out / version):
        figures = _figures(tokenizer, items, base, all_ids, codes)
        figures["churn"] = report.churn(before.item_ids, before.codes, all_ids, codes) if before else None
        manifest = Manifest(
            kind=SEMANTIC_IDS,
            version=version,
            inputs={**(inputs or {}), "tokenizer": tokenizer_version},
            recipe={"tokenizer": tokenizer_version, "code_sizes": sizes},
            packages=package_versions(*_PACKAGES),
            metrics={"items": len(all_ids), "new": len(all_ids) - (len(frozen.item_ids) if frozen else 0)},
        )
        _write(out / version, manifest, all_ids, codes, figures)
    set_current(out, version)
    return out / version


def load_semantic_ids(folder: Path, tokenizer: str | None = None) -> SemanticIds:
    """Read semantic IDs.

    Parameters
    ----------
    folder
        A version written by `assign_semantic_ids`.
    tokenizer
        The tokenizer version that they must come from, where that matters.

    Raises
    ------
    ArtifactError
        If the folder holds none, or if they come from another tokenizer version.
    """
    manifest = read_manifest(folder, SEMANTIC_IDS)
    made_by = manifest.recipe["tokenizer"]
    if tokenizer is not None and made_by != tokenizer:
        raise ArtifactError(f"{folder} was made by tokenizer {made_by}, not by {tokenizer}")
    item_ids = pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    codes = load_file(folder / "codes.safetensors")["codes"]
    return SemanticIds(item_ids, codes, tuple(manifest.recipe["code_sizes"]), made_by)


def _append(
    frozen: SemanticIds | None, item_ids: list[str], base: NDArray[np.int32]
) -> tuple[list[str], NDArray[np.int32]]:
    """Return all items that have or had an ID, oldest first, and their codes."""
    if frozen is None:
        return item_ids, assign_new(np.zeros((0, base.shape[1] + 1), np.int32), base)
    known = set(frozen.item_ids)
    new = [row for row, item in enumerate(item_ids) if item not in known]
    added = assign_new(frozen.codes, base[new])
    return frozen.item_ids + [item_ids[row] for row in new], np.concatenate([frozen.codes, added])


def _code_sizes(tokenizer: Tokenizer, codes: NDArray[np.int32], frozen: SemanticIds | None) -> list[int]:
    """State each level's size; the last has room to double, so that a model trained today knows tomorrow's codes."""
    needed = int(codes[:, -1].max(initial=0)) + 1
    if frozen is not None and needed <= frozen.code_sizes[-1]:
        return list(frozen.code_sizes)
    room = 1 << (2 * needed - 1).bit_length()
    return [*tokenizer.code_sizes, max(room, 16)]


def _figures(
    tokenizer: Tokenizer,
    items: ItemData,
    base: NDArray[np.int32],
    all_ids: Sequence[str],
    codes: NDArray[np.int32],
) -> dict[str, Any]:
    given = dict(zip(all_ids, codes[:, :-1], strict=True))
    moved = [not np.array_equal(given[item], row) for item, row in zip(items.item_ids, base, strict=True)]
    return {
        **report.describe(tokenizer, items, base),
        "full_ids": report.uniqueness(codes),
        # Items whose vector has moved on since their ID was frozen: when this grows, it is time to refit.
        "share_outdated": float(np.mean(moved)) if moved else 0.0,
    }


def _write(
    target: Path, manifest: Manifest, item_ids: list[str], codes: NDArray[np.int32], figures: dict[str, Any]
) -> None:
    columns = {
        "item_id": pa.array(item_ids, pa.string()),
        "semantic_id": pa.array(["-".join(map(str, row)) for row in codes.tolist()], pa.string()),
    }
    columns |= {f"c{level}": pa.array(column, pa.int32()) for level, column in enumerate(codes.T)}
    with publish(target) as folder:
        save_file({"codes": np.ascontiguousarray(codes)}, folder / "codes.safetensors")
        pq.write_table(pa.table(columns), folder / "items.parquet", compression="zstd")
        write_json(folder / "report.json", figures)
        write_manifest(folder, manifest)
