"""The prefix tree of all semantic IDs, as flat tensors.

Items are sorted by their codes, and the nodes of a depth are numbered in that order. So the children of a node are
consecutive, and so are the items below it: two numbers say which, and one gather finds the children of a whole beam.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Trie:
    """A prefix tree of ``levels`` levels; depth 0 is the root, depth ``levels`` the items.

    Parameters
    ----------
    codes
        For each depth from 1: int64 [nodes of that depth], the code that leads into a node.
    first
        For each depth below ``levels``: int64 [nodes + 1]; the children of ``v`` are the nodes
        ``first[v]:first[v + 1]`` of the next depth.
    leaves
        For each depth: int64 [nodes + 1]; the items below ``v`` are the leaves ``leaves[v]:leaves[v + 1]``.
    items
        int64 [n_leaves], item of each leaf.
    place
        int64 [n_items], leaf of each item; -1 where it has no ID.
    degrees
        For each depth below ``levels``: the most children of a node.
    """

    codes: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]
    items: Tensor
    place: Tensor
    degrees: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def levels(self) -> int:
        """Codes of an ID."""
        return len(self.codes)

    def to(self, device: torch.device) -> Trie:
        """Return the same tree on a device; itself, if it is there."""
        if self.items.device == device:
            return self
        return Trie(
            tuple(tensor.to(device) for tensor in self.codes),
            tuple(tensor.to(device) for tensor in self.first),
            tuple(tensor.to(device) for tensor in self.leaves),
            self.items.to(device),
            self.place.to(device),
            self.degrees,
        )

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the children of nodes of one depth.

        Parameters
        ----------
        depth
            Depth of ``nodes``, below ``levels``.
        nodes
            int64 [...].

        Returns
        -------
        children, codes
            int64 [..., degree], degree being the largest of this depth.
        exists
            bool [..., degree]; where False, the other two are valid indices without meaning.
        """
        spans, count = self._spans[depth]
        start, end = spans[nodes].unbind(dim=-1)
        children = start[..., None] + count
        exists = children < end[..., None]
        children = children.clamp_(max=len(self.codes[depth]) - 1)
        return children, self.codes[depth][children], exists

    @cached_property
    def _spans(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """For each depth: int64 [nodes, 2], first child of each node and the one after its last; and 0, 1, ... degree - 1."""
        with torch.inference_mode(False):
            return tuple(
                (torch.stack([first[:-1], first[1:]], dim=1), torch.arange(degree, device=first.device))
                for first, degree in zip(self.first, self.degrees, strict=True)
            )

    def parents(self, depth: int, nodes: Tensor) -> Tensor:
        """Return the parent of each node of ``depth`` (from 1), int64 of the same shape."""
        return torch.searchsorted(self.first[depth - 1], nodes, right=True) - 1

    def below(self, depth: int, nodes: Tensor) -> Tensor:
        """Return how many items are below each node of ``depth``, int64 of the same shape."""
        return self.leaves[depth][nodes + 1] - self.leaves[depth][nodes]

    def above(self, depth: int, leaves: Tensor) -> Tensor:
        """Return the node of ``depth`` that each leaf is below, int64 of the same shape."""
        return torch.searchsorted(self.leaves[depth], leaves, right=True) - 1


def build_trie(codes: NDArray[np.int32], code_sizes: tuple[int, ...]) -> Trie:
    """Build the tree of a catalogue.

    Parameters
    ----------
    codes
        int32 [n_items, levels]. Rows with a code outside ``0 <= code < size`` have no place in the tree: items
        without an ID, and IDs that a model of these sizes cannot produce.
    code_sizes
        Size of each level.

    Raises
    ------
    ValueError
        If two items have the same codes, or if no item has any.
    """
    levels = len(code_sizes)
    known = np.flatnonzero(((codes >= 0) & (codes < np.array(code_sizes, np.int64))).all(axis=1))
    if levels == 0 or len(known) == 0:
        raise ValueError("no item has a semantic ID")
    order = known[np.lexsort(codes[known].T[::-1])]
    ordered = codes[order].astype(np.int64)
    # starts[d] holds the first leaf of every node of depth d.
    fresh = np.zeros(len(order), bool)
    fresh[0] = True
    starts = [np.zeros(1, np.int64)]
    for level in range(levels):
        fresh[1:] |= ordered[1:, level] != ordered[:-1, level]
        starts.append(np.flatnonzero(fresh))
    if len(starts[-1]) < len(order):
        twin = order[int(np.flatnonzero(~fresh)[0])]
        raise ValueError(f"semantic ID {'-'.join(map(str, codes[twin]))} belongs to more than one item")
    first = [
        np.append(np.searchsorted(below, here), len(below)) for here, below in itertools.pairwise(starts)
    ]
    place = np.full(len(codes), -1, np.int64)
    place[order] = np.arange(len(order))
    return Trie(
        tuple(torch.from_numpy(ordered[starts[level + 1], level]) for level in range(levels)),
        tuple(torch.from_numpy(offsets) for offsets in first),
        tuple(torch.from_numpy(np.append(start, len(order))) for start in starts),
        torch.from_numpy(order.astype(np.int64)),
        torch.from_numpy(place),
        tuple(int(np.diff(offsets).max()) for offsets in first),
    )
