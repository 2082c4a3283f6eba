"""The training snapshot: the one thing that training reads.

A snapshot is a content-addressed folder that can be copied to any machine and trained from there. It holds the
histories and the catalogue; the splits follow from the histories (`ml.evaluation.splits`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ml.artifacts import (
    ArtifactError,
    Manifest,
    hash_inputs,
    hash_json,
    is_complete,
    publish,
    read_manifest,
    write_manifest,
)
from ml.evaluation.splits import cutoffs
from ml.histories import NO_ITEM, Histories, read_histories
from ml.tensors import read_tensors

KIND = "snapshot"
_FORMAT = 2


@dataclass(frozen=True)
class Catalogue:
    """The items; the place of an item is its index everywhere in ``ml``.

    Parameters
    ----------
    item_ids
        Sorted.
    titles
        Empty where unknown.
    categories
        Coarse to fine; empty where unknown.
    vectors
        float32 [n_items, d], fused; rows of zeros where unknown; d may be 0.
    codes
        int32 [n_items, levels], semantic IDs; rows of -1 where an item has none; levels may be 0.
    code_sizes
        Size of the code book of each level: every code of level ``l`` is below ``code_sizes[l]``.
    tokenizer
        Version of the tokenizer that gave the codes; None where there are none.
    text
        float32 [n_items, w], of the items' own text alone; rows of zeros where unknown. If not given, w is 0.
    more_codes
        int32 [m, n_items, levels], other semantic IDs of the items, of the same code books (`code_sizes` holds for
        them too), to train on beside those that are served; rows of -1 where an item has none. If not given, m is 0.
    """

    item_ids: list[str]
    titles: list[str]
    categories: list[list[str]]
    vectors: NDArray[np.float32]
    codes: NDArray[np.int32]
    code_sizes: tuple[int, ...]
    tokenizer: str | None = None
    text: NDArray[np.float32] = None  # type: ignore[assignment]
    more_codes: NDArray[np.int32] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.text is None:
            object.__setattr__(self, "text", np.zeros((len(self.item_ids), 0), np.float32))
        if self.more_codes is None:
            object.__setattr__(self, "more_codes", np.zeros((0, *self.codes.shape), np.int32))

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def unknown(cls, n: int) -> Catalogue:
        """Return ``n`` items of which nothing is known but their index."""
        nothing = np.zeros((n, 0))
        vectors, codes = nothing.astype(np.float32), nothing.astype(np.int32)
        return cls([str(item) for item in range(n)], [""] * n, [[] for _ in range(n)], vectors, codes, ())


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in memory; ``manifest.version`` names its content."""

    folder: Path
    user_ids: list[str]
    histories: Histories
    event_type_names: list[str]
    catalogue: Catalogue
    manifest: Manifest


def write_snapshot(
    marts: Path, semantic_ids: Path | None, vectors: Path | None, out: Path, text: Path | None = None
) -> Path:
    """Cut a snapshot; return at once where one of the same inputs is complete.

    Parameters
    ----------
    marts
        Folder with ``user_histories.parquet`` and ``dim_items.parquet``.
    semantic_ids
        A version folder with ``codes.safetensors`` and ``items.parquet``, and ``identifiers.safetensors`` where the
        items have several IDs; None leaves items without codes.
    vectors
        A version folder with ``vectors.safetensors`` and ``items.parquet``; None leaves items without vectors.
    out
        Folder of snapshots.
    text
        As ``vectors``, of text alone; None leaves items without text vectors.

    Returns
    -------
    ``out/HASH``, HASH being that of the inputs' bytes.

    Raises
    ------
    ArtifactError
        If an input is missing, malformed, or names items that the catalogue lacks.
    """
    sources = {"user_histories": marts / "user_histories.parquet", "dim_items": marts / "dim_items.parquet"}
    # Of an artefact only what is read: its report and its pages may tell of the clock.
    artefacts = (
        ("semantic_ids", semantic_ids, "codes"),
        ("vectors", vectors, "vectors"),
        ("text", text, "vectors"),
    )
    for name, folder, tensors in artefacts:
        if folder is not None:
            sources |= {
                f"{name}/{file}": folder / file for file in (f"{tensors}.safetensors", "items.parquet")
            }
    if semantic_ids is not None and (several := semantic_ids / "identifiers.safetensors").is_file():
        sources["semantic_ids/identifiers.safetensors"] = several
    for path in sources.values():
        if not path.exists():
            raise ArtifactError(f"{path} does not exist")
    told = _told(semantic_ids)
    inputs = hash_inputs(sources) | ({"semantic_ids/recipe": hash_json(told)} if told else {})
    # Which of what items are known by was made with a knowledge of what users did.
    seen = {"codes": _codes_see_behaviour(told), "text": _text_sees_behaviour(text)}
    version = hash_json({"format": _FORMAT, "sees_behaviour": seen, **inputs})
    target = out / version
    if is_complete(target):
        return target
    catalogue = _read_catalogue(sources["dim_items"], semantic_ids, vectors, text)
    user_ids, histories, event_types = read_histories(sources["user_histories"], catalogue.item_ids)
    with publish(target) as folder:
        _write_tables(folder, user_ids, histories, catalogue)
        metrics = {
            "users": len(user_ids),
            "items": len(catalogue),
            "events": len(histories.items),
            "temporal_cutoffs_us": cutoffs(histories),
        }
        recipe = {
            "format": _FORMAT,
            "event_type_names": event_types,
            "code_sizes": catalogue.code_sizes,
            "semantic_ids": semantic_ids.name if semantic_ids else None,
            "tokenizer": told.get("tokenizer"),
            "vectors": vectors.name if vectors else None,
            "text": text.name if text else None,
            "sees_behaviour": seen,
        }
        write_manifest(
            folder, Manifest(kind=KIND, version=version, inputs=inputs, recipe=recipe, metrics=metrics)
        )
    return target


def load_snapshot(folder: Path) -> Snapshot:
    """Read a snapshot.

    Raises
    ------
    ArtifactError
        If the folder holds no complete snapshot of this format.
    """
    manifest = read_manifest(folder, KIND)
    if manifest.recipe.get("format") != _FORMAT:
        raise ArtifactError(f"{folder} has format {manifest.recipe.get('format')}; this code reads {_FORMAT}")
    try:
        items = pq.read_table(folder / "items.parquet")
        user_ids = pq.read_table(folder / "users.parquet")["user_id"].to_pylist()
        events = read_tensors(folder / "histories.safetensors")
        arrays: Any = read_tensors(folder / "catalogue.safetensors")
    except (OSError, KeyError, SafetensorError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{folder} is damaged: {str(error).splitlines()[0]}") from None
    return Snapshot(
        folder,
        user_ids,
        Histories(events["offsets"], events["items"], events["event_types"], events["times"]),
        manifest.recipe["event_type_names"],
        Catalogue(
            items["item_id"].to_pylist(),
            items["title"].to_pylist(),
            items["categories"].to_pylist(),
            arrays["vectors"],
            arrays["codes"],
            tuple(manifest.recipe["code_sizes"]),
            manifest.recipe.get("tokenizer"),
            arrays["text"],
            arrays.get("more_codes"),
        ),
        manifest,
    )


def without_behaviour(snapshot: Snapshot) -> Catalogue:
    """Return the catalogue as it would be had nobody met any item.

    ``vectors`` are those of text; what was made with a knowledge of what users did is left out (width 0), be it codes,
    or text by an encoder tuned to histories. What no manifest tells of counts as such.
    """
    catalogue, seen = snapshot.catalogue, snapshot.manifest.recipe["sees_behaviour"]
    nothing = np.zeros((len(catalogue), 0))
    text = nothing.astype(np.float32) if seen["text"] else catalogue.text
    known = replace(catalogue, vectors=text, text=text)
    if not seen["codes"]:
        return known
    codes = nothing.astype(np.int32)
    return replace(known, codes=codes, code_sizes=(), tokenizer=None, more_codes=np.stack([codes])[:0])


def drop_users(folder: Path, user_ids: Collection[str]) -> int:
    """Take users and their histories out of a snapshot, in one step; return how many were in it.

    The version keeps its name, to which models are bound, although the name was made from the inputs as they were.
    ``recipe["users_dropped"]`` in the manifest says that it holds less than that.

    Raises
    ------
    ArtifactError
        If the folder holds no complete snapshot of this format.
    """
    snapshot = load_snapshot(folder)
    kept = np.array([user not in user_ids for user in snapshot.user_ids], dtype=bool)
    dropped = int((~kept).sum())
    if not dropped:
        return 0
    histories = snapshot.histories.rows(np.flatnonzero(kept))
    users = [user for user, stays in zip(snapshot.user_ids, kept, strict=True) if stays]
    manifest = snapshot.manifest
    metrics = {
        "users": len(users),
        "events": len(histories.items),
        "temporal_cutoffs_us": cutoffs(histories),
    }
    recipe = {"users_dropped": manifest.recipe.get("users_dropped", 0) + dropped}
    with publish(folder) as staging:
        _write_tables(staging, users, histories, snapshot.catalogue)
        write_manifest(
            staging,
            manifest.model_copy(
                update={"metrics": manifest.metrics | metrics, "recipe": manifest.recipe | recipe}
            ),
        )
    return dropped


def _write_tables(folder: Path, user_ids: list[str], histories: Histories, catalogue: Catalogue) -> None:
    save_file(
        {
            "offsets": histories.offsets,
            "items": histories.items,
            "event_types": histories.event_types,
            "times": histories.times,
        },
        folder / "histories.safetensors",
    )
    arrays = {"vectors": catalogue.vectors, "codes": catalogue.codes, "text": catalogue.text}
    if len(catalogue.more_codes):
        arrays["more_codes"] = catalogue.more_codes
    save_file(arrays, folder / "catalogue.safetensors")
    pq.write_table(pa.table({"user_id": pa.array(user_ids, pa.string())}), folder / "users.parquet")
    items = {
        "item_id": pa.array(catalogue.item_ids, pa.string()),
        "title": pa.array(catalogue.titles, pa.string()),
        "categories": pa.array(catalogue.categories, pa.list_(pa.string())),
    }
    pq.write_table(pa.table(items), folder / "items.parquet", compression="zstd")


def _read_catalogue(
    dim_items: Path, semantic_ids: Path | None, vectors: Path | None, text: Path | None
) -> Catalogue:
    try:
        table = pq.read_table(dim_items, columns=["item_id", "title", "categories"]).sort_by("item_id")
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{dim_items} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := {"item_id", "title", "categories"} - set(table.column_names):
        raise ArtifactError(f"{dim_items} lacks the column {sorted(missing)[0]}")
    item_ids = table["item_id"].to_pylist()
    if len(set(item_ids)) < len(item_ids):
        raise ArtifactError(f"{dim_items} names an item twice")
    codes, told = _aligned(semantic_ids, "codes", item_ids, np.int32(NO_ITEM)), _told(semantic_ids)
    more = _more_codes(semantic_ids, item_ids, codes)
    return Catalogue(
        item_ids,
        pc.fill_null(table["title"], "").to_pylist(),
        [value or [] for value in table["categories"].to_pylist()],
        _aligned(vectors, "vectors", item_ids, np.float32(0)),
        codes,
        _code_sizes(told, np.concatenate([codes, *more])),
        told.get("tokenizer"),
        _aligned(text, "vectors", item_ids, np.float32(0)),
        more,
    )


def _aligned(
    folder: Path | None, name: str, item_ids: list[str], fill: np.int32 | np.float32
) -> NDArray[Any]:
    """Bring the rows of an artefact, its last axis but one, into catalogue order."""
    if folder is None:
        return np.full((len(item_ids), 0), fill)
    try:
        rows = load_file(folder / f"{name}.safetensors")[name].astype(fill.dtype)
        rows = np.moveaxis(rows, -2, 0)
        ids = pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"]
    except (OSError, KeyError, SafetensorError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{folder} holds no {name}: {str(error).splitlines()[0]}") from None
    if len(ids) != len(rows):
        raise ArtifactError(f"{folder} holds {len(rows)} rows of {name} for {len(ids)} items")
    place = pc.index_in(ids, value_set=pa.array(item_ids, pa.string()))
    known = place.is_valid().to_numpy()
    out = np.full((len(item_ids), *rows.shape[1:]), fill)
    out[place.drop_null().to_numpy()] = rows[known]
    return np.ascontiguousarray(np.moveaxis(out, 0, -2))


def _more_codes(folder: Path | None, item_ids: list[str], codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Read the IDs of items beside those that are served, which stand last."""
    if folder is None or not (folder / "identifiers.safetensors").is_file():
        return np.zeros((0, *codes.shape), np.int32)
    every = _aligned(folder, "identifiers", item_ids, np.int32(NO_ITEM))
    if every.shape[1:] != codes.shape or not np.array_equal(every[-1], codes):
        raise ArtifactError(f"{folder}: the last of the identifiers are not the codes")
    return every[:-1]


def _told(semantic_ids: Path | None) -> dict[str, Any]:
    """Return the recipe of a version of semantic IDs: its tokenizer and code sizes."""
    if semantic_ids is None or not is_complete(semantic_ids):
        return {}
    return read_manifest(semantic_ids).recipe


def _codes_see_behaviour(told: dict[str, Any]) -> bool:
    reads = told.get("reads")
    return reads is None or not set(reads) <= {"text"}


def _text_sees_behaviour(text: Path | None) -> bool:
    if text is None or not is_complete(text):
        return True
    return bool(read_manifest(text).recipe.get("sees_behaviour", True))


def _code_sizes(told: dict[str, Any], codes: NDArray[np.int32]) -> tuple[int, ...]:
    """Take the sizes that the tokenizer states, widened to what is used: the last, de-duplicating code grows."""
    if codes.shape[1] == 0:
        return ()
    used = codes.max(axis=0, initial=-1) + 1
    stated = told.get("code_sizes", [])
    stated = [*stated, *[0] * (codes.shape[1] - len(stated))]
    return tuple(int(max(a, b)) for a, b in zip(stated, used, strict=True))
