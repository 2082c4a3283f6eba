"""What the service knows of items beyond their scores: filters, likeness, semantic IDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml.artifacts import ArtifactError, consistently

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_SHOWN = 3
_NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Wanted:
    """What an answer may hold, and how it is put together.

    Parameters
    ----------
    categories
        An item needs one of these, at any depth of its own; all pass where none is named.
    in_stock
        Only items that the catalogue says are in stock.
    exclude
        Item IDs that must not come.
    exclude_seen
        Whether items of the history must not come.
    diversity
        From 0 (the order of the scores) to 1; see :func:`serving.diversity.mmr`.
    explain
        Whether to say which items of the history led to an item.
    """

    categories: frozenset[str] = frozenset()
    in_stock: bool = False
    exclude: frozenset[str] = frozenset()
    exclude_seen: bool = True
    diversity: float = 0.0
    explain: bool = False


@dataclass(frozen=True)
class Because:
    """An item of the history that led to a recommendation, and the codes that both semantic IDs begin with."""

    item_id: str
    title: str
    similarity: float
    shared_codes: list[int]


@dataclass(frozen=True)
class Explanation:
    """Why an item: its semantic ID, and the nearest items of the history, most alike first."""

    semantic_id: list[int]
    because: list[Because]


@dataclass(frozen=True)
class ItemFacts:
    """What is known of ``n`` items, by item index; each part may be missing.

    Parameters
    ----------
    categories
        Coarse to fine.
    in_stock
        bool [n]; None where the catalogue does not say.
    vectors, text
        float32 [n, d] and [n, w]: fused vectors, and those of text alone; rows of length 1, or of zeros.
    codes
        int32 [n, levels], semantic IDs; rows of -1 where an item has none.
    latest
        Item indexes, newest first.
    """

    categories: Sequence[Sequence[str]] = ()
    in_stock: NDArray[np.bool_] | None = None
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    text: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    codes: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    latest: Sequence[int] = ()
    _of_category: dict[str, NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places: dict[str, list[int]] = {}
        for item, names in enumerate(self.categories):
            for name in names:
                places.setdefault(name, []).append(item)
        found = {name: np.array(items, np.int64) for name, items in places.items()}
        object.__setattr__(self, "_of_category", found)

    def passing(self, wanted: Wanted, n: int) -> NDArray[np.bool_]:
        """Return which of ``n`` items have category and stock as wanted, bool [n]."""
        passing = np.ones(n, bool)
        if wanted.categories:
            passing[:] = False
            for name in wanted.categories:
                passing[self._of_category.get(name, _NOBODY)] = True
        if wanted.in_stock:
            passing &= False if self.in_stock is None else self.in_stock
        return passing

    def vectors_of(self, items: Sequence[int]) -> NDArray[np.float32]:
        """Return float32 [len(items), d]; zeros where there are no vectors."""
        if not len(self.vectors):
            return np.zeros((len(items), 1), np.float32)
        found: NDArray[np.float32] = self.vectors[np.asarray(items, np.int64)]
        return found

    def explain(
        self, item: int, history: Sequence[int], item_ids: Sequence[str], titles: Sequence[str]
    ) -> Explanation:
        """Say which items of a history are nearest to an item; those that are not alike at all are left out."""
        cosines = self.vectors_of(history) @ self.vectors_of([item])[0]
        nearest = np.argsort(-cosines, kind="stable")[:_SHOWN]
        because = [
            Because(
                item_ids[history[place]],
                titles[history[place]],
                round(float(cosines[place]), 4),
                self.shared_codes(item, history[place]),
            )
            for place in nearest.tolist()
            if cosines[place] > 0
        ]
        return Explanation(self.semantic_id(item), because)

    def semantic_id(self, item: int) -> list[int]:
        """Return the codes of an item; empty where it has none."""
        codes = self.codes[item].tolist() if len(self.codes) else []
        return codes if codes and codes[0] >= 0 else []

    def shared_codes(self, one: int, other: int) -> list[int]:
        """Return the codes that two semantic IDs begin with."""
        shared: list[int] = []
        for mine, theirs in zip(self.semantic_id(one), self.semantic_id(other), strict=False):
            if mine != theirs:
                break
            shared.append(mine)
        return shared


def load_facts(home: Path, catalogue: Catalogue) -> ItemFacts:
    """Gather what is known of a catalogue's items; the latest ones and the stock are those of the marts.

    Raises
    ------
    ArtifactError
        If the mart ``dim_items`` is there and cannot be read.
    """
    marts = home / "marts"
    in_stock, latest = None, list(range(len(catalogue)))
    if (marts / "dim_items.parquet").is_file():
        table = consistently(marts, lambda: _read(marts / "dim_items.parquet"))
        place = pc.index_in(pa.array(catalogue.item_ids, pa.string()), value_set=table["item_id"])
        if "attributes" in table.column_names:
            in_stock = _in_stock(table["attributes"].combine_chunks().take(place))
        heard = born(table).take(place)
        latest = pc.array_sort_indices(pc.fill_null(heard, 0), order="descending").to_pylist()
    return ItemFacts(
        catalogue.categories,
        in_stock,
        unit(catalogue.vectors),
        unit(catalogue.text),
        catalogue.codes,
        latest,
    )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1; rows of zeros stay, and vectors without width are none."""
    if not vectors.shape[1]:
        return np.zeros((0, 0), np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: NDArray[np.float32] = vectors / np.maximum(length, 1e-12)
    return result


def _read(dim_items: Path) -> pa.Table:
    wanted = ("item_id", "attributes", "valid_from", "first_event_ts")
    try:
        stored = pq.read_schema(dim_items).names
        return pq.read_table(dim_items, columns=[name for name in wanted if name in stored])
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{dim_items} cannot be read: {str(error).splitlines()[0]}") from None


def _in_stock(attributes: pa.Array) -> NDArray[np.bool_] | None:
    """Read the attribute ``in_stock`` (true, yes, 1) or, where there is none, ``stock`` (a number)."""
    if not pa.types.is_map(attributes.type):
        return None
    said = pc.utf8_lower(pc.map_lookup(attributes, pa.scalar("in_stock"), "first"))
    number = pc.map_lookup(attributes, pa.scalar("stock"), "first")
    if said.null_count == len(said) and number.null_count == len(number):
        return None
    positive = pc.match_substring_regex(number, r"^\+?0*[1-9]|^\+?0*\.0*[1-9]")
    yes = pc.is_in(said, value_set=pa.array(["true", "yes", "1"]))
    told = pc.if_else(pc.is_valid(said), yes, positive)
    result: NDArray[np.bool_] = pc.fill_null(told, False).to_numpy(zero_copy_only=False)
    return result


def born(table: pa.Table) -> pa.Array:
    """Return when each item was first heard of, in microseconds: a changed item has a later ``valid_from``."""
    times = [
        table[name].combine_chunks().cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        for name in ("valid_from", "first_event_ts")
        if name in table.column_names
    ]
    return pc.min_element_wise(*times) if times else pa.nulls(len(table), pa.int64())
