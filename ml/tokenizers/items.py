"""What a tokenizer may know of the items it gives codes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.artifacts import ArtifactError, hash_bytes, hash_json

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class ItemData:
    """Items side by side in every way that a tokenizer can look at them; row ``i`` is the same item everywhere.

    Parameters
    ----------
    item_ids
        One a row, all different.
    spaces
        Name to float32 ``[n, width]``: ``text``, ``behaviour``, ``fused``. A row of zeros is an item of which that
        space knows nothing.
    categories
        Of each item, coarse to fine; empty where unknown.
    pairs
        ``[n, n]`` weights of "j follows i" in histories, training events only (`ml.vectors.behaviour.transition_counts`).
    first_seen
        int64 [n]: place of the item's first event when the users' training histories are read one after the other;
        -1 for items without any.
    """

    item_ids: Sequence[str]
    spaces: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    categories: Sequence[Sequence[str]] | None = None
    pairs: csr_array | None = None
    first_seen: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.item_ids)

    def space(self, name: str) -> NDArray[np.float32]:
        """Return one space of vectors.

        Raises
        ------
        ArtifactError
            If it was not given, naming those that were.
        """
        if name not in self.spaces:
            raise ArtifactError(
                f"there are no {name!r} vectors of the items; given: {', '.join(sorted(self.spaces)) or 'none'}"
            )
        return self.spaces[name]

    def known(self, name: str) -> NDArray[np.bool_]:
        """Return which rows a space knows, bool [n]."""
        return np.asarray((self.space(name) != 0).any(axis=1))

    @property
    def hash(self) -> str:
        """Name of the content, whatever is given of it."""
        arrays: dict[str, NDArray[Any]] = dict(self.spaces)
        told: list[object] = [
            list(self.item_ids),
            self.categories and [list(names) for names in self.categories],
        ]
        if self.pairs is not None:
            arrays |= {f"pairs.{name}": getattr(self.pairs, name) for name in ("indptr", "indices", "data")}
        if self.first_seen is not None:
            arrays["first_seen"] = self.first_seen
        told += [[name, array.shape, hash_bytes(array.tobytes())] for name, array in sorted(arrays.items())]
        return hash_json(told)

    def take(self, rows: NDArray[np.int64]) -> ItemData:
        """Return the given rows, in the given order."""
        return ItemData(
            [self.item_ids[row] for row in rows],
            {name: vectors[rows] for name, vectors in self.spaces.items()},
            None if self.categories is None else [self.categories[row] for row in rows],
            None if self.pairs is None else self.pairs[rows][:, rows],
            None if self.first_seen is None else self.first_seen[rows],
        )


class WatchedItems(ItemData):
    """The same items, remembering what of them was looked at.

    Attributes
    ----------
    read
        Names of spaces, ``pairs``, ``first_seen``, and ``spaces`` where all of them were taken at once.
    """

    items: ItemData
    read: set[str]

    @classmethod
    def of(cls, items: ItemData, read: set[str] | None = None) -> WatchedItems:
        """Watch items, adding to what was read before."""
        watched = cls(items.item_ids, items.spaces, items.categories, items.pairs, items.first_seen)
        vars(watched).update(items=items, read=set() if read is None else read)
        return watched

    def space(self, name: str) -> NDArray[np.float32]:
        """Return one space of vectors, as `ItemData.space` does."""
        self.read.add(name)
        return self.items.space(name)

    def take(self, rows: NDArray[np.int64]) -> WatchedItems:
        """Return the given rows, watched too."""
        return WatchedItems.of(self.items.take(rows), self.read)

    def __getattribute__(self, name: str) -> Any:
        """Note what is asked for."""
        if name in ("pairs", "first_seen", "spaces") and "read" in vars(self):
            self.read.add(name)
        return super().__getattribute__(name)


def only_vectors(vectors: NDArray[np.float32], space: str = "fused") -> ItemData:
    """Return items of which nothing but one space of vectors ``[n, width]`` is known, numbered from 0."""
    return ItemData([str(row) for row in range(len(vectors))], {space: vectors})


def first_seen(events: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """Return the place of each item's first event, -1 where there is none.

    Parameters
    ----------
    events
        Item of each training event [n_events], one user's history after the other.
    n_items
        Size of the catalogue.
    """
    places = np.full(n_items, -1, np.int64)
    found, first = np.unique(events, return_index=True)
    places[found] = first
    return places
