"""Tokenizers and semantic IDs as versions: fitted once, appended every night, never mixed."""

from __future__ import annotations

import time
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
    check_made_from,
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
from ml.tokenizers.base import CONFIG, MultiIdentifier
from ml.tokenizers.collisions import assign_new
from ml.tokenizers.items import ItemData, WatchedItems

if TYPE_CHECKING:
    from ml.tokenizers.base import Tokenizer

TOKENIZER = "tokenizer"
SEMANTIC_IDS = "semantic_ids"
IDENTIFIERS = "identifiers.safetensors"
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
    ordered
        Whether a prefix of the codes means something.
    identifiers
        int32 [identifiers, n, levels + 1] where the tokenizer knows several IDs of an item, each without twins; None
        otherwise.
    """

    item_ids: list[str]
    codes: NDArray[np.int32]
    code_sizes: tuple[int, ...]
    tokenizer: str
    ordered: bool = True
    identifiers: NDArray[np.int32] | None = None


def fit_tokenizer(
    items: ItemData,
    kind: str,
    params: dict[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    out: Path,
    start: Path | None = None,
) -> Path:
    """Fit a tokenizer and publish it; `make_live` is for the caller, once it is found good.

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
    start
        A fitted version to begin from, so that few items change their codes. One of another kind, of other parameters
        or of vectors of another width is passed over; one of the same items and seed is the result itself.

    Returns
    -------
    Path
        ``out/VERSION``; one of the same items, parameters, seed and start is used as it is. The manifest's recipe
        names the ``start`` that was begun from, and what the codes ``reads`` of the items: spaces of vectors,
        ``pairs``, ``first_seen``.

    Raises
    ------
    ArtifactError
        If kind or parameters are unknown, or if the items cannot be fitted.
    """
    tokenizer = build(kind, params)
    recipe = {"kind": kind, "params": tokenizer.params.model_dump(mode="json")}
    content = items.hash
    if start is not None and _is_of(start, recipe, seed, content):
        return start
    warm = _start(start, recipe, items) if start is not None else None
    recipe["start"] = start.name if start is not None and warm is not None else None
    version = hash_json([recipe, seed, content])
    if not is_complete(out / version):
        began = time.perf_counter()
        watched = WatchedItems.of(items)
        metrics = tokenizer.fit(watched, seed, warm)
        seconds = time.perf_counter() - began
        with publish(out / version) as folder:
            tokenizer.save(folder)
            recipe["reads"] = _reads(watched, start if warm is not None else None)
            manifest = Manifest(
                kind=TOKENIZER,
                version=version,
                inputs={**inputs, "items": content},
                recipe=recipe,
                seed=seed,
                packages=package_versions(*_PACKAGES),
                metrics={**metrics, "training_seconds": round(seconds, 3)},
            )
            write_manifest(folder, manifest)
    return out / version


def make_live(folder: Path) -> None:
    """Point ``CURRENT`` at a version of a tokenizer or of semantic IDs."""
    set_current(folder.parent, folder.name)


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
    """Give every item a semantic ID and publish them with a report; `make_live` is for the caller.

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
        items are given one. Made by another, an item keeps its ID where the new tokenizer gives it the same codes, so
        that no de-duplicating code moves without need; the report tells the churn.
    out
        Folder of versions, ``semantic_ids``.
    inputs
        Name to content hash of what the vectors were made from.

    Returns
    -------
    Path
        ``out/VERSION`` with ``codes.safetensors``, ``items.parquet``, ``report.json`` and the manifest, whose recipe
        names the tokenizer's version and the code sizes; and with ``identifiers.safetensors`` where the tokenizer
        knows several IDs of an item (`ml.tokenizers.base.MultiIdentifier`).
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    trained = read_manifest(tokenizer_dir, TOKENIZER)
    before = load_semantic_ids(previous) if previous is not None else None
    began = time.perf_counter()
    watched = WatchedItems.of(items)
    base = tokenizer.encode(watched)
    seconds = time.perf_counter() - began
    frozen = before if before is not None and before.tokenizer == trained.version else None
    all_ids, codes = _give(before, frozen is not None, list(items.item_ids), base)
    others = _identifiers(tokenizer, items, frozen, all_ids, codes)
    sizes = _code_sizes(tokenizer, codes, others, frozen)
    content = [hash_bytes(part.tobytes()) for part in (codes, others) if part is not None]
    version = hash_json([trained.version, hash_json(all_ids), content, sizes])
    if not is_complete(out / version):
        figures = _figures(tokenizer, items, base, all_ids, codes)
        figures["training_seconds"] = trained.metrics.get("training_seconds")
        figures["encoded_per_second"] = round(len(items) / max(seconds, 1e-9))
        figures["churn"] = None
        if before is not None:
            ordered = (before.ordered, tokenizer.ordered)
            figures["churn"] = report.churn(before.item_ids, before.codes, all_ids, codes, ordered)
        manifest = Manifest(
            kind=SEMANTIC_IDS,
            version=version,
            inputs={**(inputs or {}), "tokenizer": trained.version},
            recipe={
                "tokenizer": trained.version,
                "code_sizes": sizes,
                "ordered": tokenizer.ordered,
                "reads": _reads(watched, tokenizer_dir),
            },
            packages=package_versions(*_PACKAGES),
            metrics={"items": len(all_ids), "new": len(all_ids) - (len(frozen.item_ids) if frozen else 0)},
        )
        _write(out / version, manifest, all_ids, codes, others, figures)
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
    if tokenizer is not None:
        check_made_from(folder, {"tokenizer": tokenizer})
    item_ids = pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    several = folder / IDENTIFIERS
    return SemanticIds(
        item_ids,
        load_file(folder / "codes.safetensors")["codes"],
        tuple(manifest.recipe["code_sizes"]),
        manifest.recipe["tokenizer"],
        manifest.recipe.get("ordered", True),
        load_file(several)["identifiers"] if several.is_file() else None,
    )


def _reads(watched: WatchedItems, earlier: Path | None) -> list[str] | None:
    """Tell what was read of the items, now and by an earlier version; None where that one does not say."""
    before = read_manifest(earlier, TOKENIZER).recipe.get("reads") if earlier is not None else []
    return None if before is None else sorted(watched.read.union(before))


def _is_of(folder: Path, recipe: dict[str, Any], seed: int, content: str) -> bool:
    """Tell whether a fitted version is of these parameters, this seed and these items, whatever it began from."""
    manifest = read_manifest(folder, TOKENIZER)
    same = all(manifest.recipe.get(name) == value for name, value in recipe.items())
    return same and manifest.seed == seed and manifest.inputs.get("items") == content


def _start(folder: Path, recipe: dict[str, Any], items: ItemData) -> Tokenizer | None:
    """Return a fitted version to begin from, or None where these parameters and items do not allow it."""
    manifest = read_manifest(folder, TOKENIZER)
    if any(manifest.recipe.get(name) != value for name, value in recipe.items()):
        return None
    try:
        found = load_tokenizer(folder)
        found.encode(items.take(np.arange(min(len(items), 1))))
    except ArtifactError:
        return None
    return found


def _give(
    before: SemanticIds | None, frozen: bool, item_ids: list[str], base: NDArray[np.int32]
) -> tuple[list[str], NDArray[np.int32]]:
    """Return items and their IDs, those first that keep theirs: all of them where frozen, else those of equal codes."""
    levels = base.shape[1]
    if before is None or before.codes.shape[1] != levels + 1:
        return item_ids, assign_new(np.zeros((0, levels + 1), np.int32), base)
    kept_ids, kept = before.item_ids, before.codes
    if not frozen:
        now = dict(zip(item_ids, base, strict=True))
        stays = [
            row
            for row, item in enumerate(kept_ids)
            if item in now and np.array_equal(now[item], kept[row, :levels])
        ]
        kept_ids, kept = [kept_ids[row] for row in stays], kept[stays]
    known = set(kept_ids)
    new = [row for row, item in enumerate(item_ids) if item not in known]
    return kept_ids + [item_ids[row] for row in new], np.concatenate([kept, assign_new(kept, base[new])])


def _identifiers(
    tokenizer: Tokenizer,
    items: ItemData,
    frozen: SemanticIds | None,
    all_ids: list[str],
    codes: NDArray[np.int32],
) -> NDArray[np.int32] | None:
    """Return every ID of every item, int32 [identifiers, n, levels + 1], the served one last; None if there is one."""
    if not isinstance(tokenizer, MultiIdentifier) or tokenizer.identifiers == 1:
        return None
    others = tokenizer.encode_all(items)[:-1]
    kept = np.zeros((len(others), 0, codes.shape[1]), np.int32)
    if frozen is not None and frozen.identifiers is not None:
        kept = frozen.identifiers[:-1]
    row = {item: place for place, item in enumerate(items.item_ids)}
    new = [row[item] for item in all_ids[kept.shape[1] :]]
    given = [
        np.concatenate([old, assign_new(old, base[new])]) for old, base in zip(kept, others, strict=True)
    ]
    return np.stack([*given, codes])


def _code_sizes(
    tokenizer: Tokenizer,
    codes: NDArray[np.int32],
    others: NDArray[np.int32] | None,
    frozen: SemanticIds | None,
) -> list[int]:
    """State each level's size; the last has room to double, so that a model trained today knows tomorrow's codes."""
    last = codes[:, -1] if others is None else np.append(codes[:, -1], others[:, :, -1])
    needed = int(last.max(initial=0)) + 1
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
        **report.describe_tokenizer(tokenizer, items, base),
        "full_ids": report.uniqueness(codes),
        # Items whose vector has moved on since their ID was frozen: when this grows, it is time to refit.
        "share_outdated": float(np.mean(moved)) if moved else 0.0,
    }


def _write(
    target: Path,
    manifest: Manifest,
    item_ids: list[str],
    codes: NDArray[np.int32],
    others: NDArray[np.int32] | None,
    figures: dict[str, Any],
) -> None:
    columns = {
        "item_id": pa.array(item_ids, pa.string()),
        "semantic_id": pa.array(["-".join(map(str, row)) for row in codes.tolist()], pa.string()),
    }
    columns |= {f"c{level}": pa.array(column, pa.int32()) for level, column in enumerate(codes.T)}
    with publish(target) as folder:
        save_file({"codes": np.ascontiguousarray(codes)}, folder / "codes.safetensors")
        if others is not None:
            save_file({"identifiers": np.ascontiguousarray(others)}, folder / IDENTIFIERS)
        pq.write_table(pa.table(columns), folder / "items.parquet", compression="zstd")
        write_json(folder / "report.json", figures)
        write_manifest(folder, manifest)
