"""Training windows of histories, and batches of equal work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.histories import Histories, ranges


class Sequences(NamedTuple):
    """Histories as a batch, padded on the right.

    Parameters
    ----------
    items
        int64 [n, length], 0 for padding.
    lengths
        int64 [n].
    times
        int64 [n, length], microseconds since the epoch, 0 for padding.
    types
        int64 [n, length], event types, 0 for padding.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor
    types: Tensor

    @property
    def real(self) -> Tensor:
        """Tell what is no padding, bool [n, length]."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    @classmethod
    def of(cls, histories: Histories, longest: int, device: torch.device | str = "cpu") -> Sequences:
        """Take the last ``longest`` events of every history."""
        recent = histories.tail(longest)
        return cls(
            *(tensor.to(device) for tensor in Events.of(recent).take(recent.offsets[:-1], recent.lengths))
        )


@dataclass(frozen=True)
class Events:
    """The events of all histories, one after the other, as tensors: items, times and types, int64 [n_events]."""

    items: Tensor
    times: Tensor
    types: Tensor

    @classmethod
    def of(cls, histories: Histories) -> Events:
        """Take all events."""
        arrays = (histories.items, histories.times, histories.event_types)
        return cls(*(torch.from_numpy(array.astype(np.int64)) for array in arrays))

    def take(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequences:
        """Return the stretches of ``lengths`` events from ``starts`` on, both int64 [n]."""
        first, n = torch.from_numpy(starts), torch.from_numpy(lengths)
        columns = torch.arange(max(1, int(lengths.max(initial=0))))
        real = columns < n[:, None]
        place = torch.where(real, first[:, None] + columns, 0)
        if not len(self.items):
            return Sequences(place, n, place, place)
        return Sequences(
            *(torch.where(real, self.items[place], 0), n),
            *(torch.where(real, column[place], 0) for column in (self.times, self.types)),
        )


@dataclass(frozen=True)
class Windows:
    """Stretches of consecutive events that predict events one place later.

    Parameters
    ----------
    events
        Of all histories.
    starts, lengths
        int64 [n_windows]: inputs are ``items[start:start + length]``, targets are one place later.
    last_only
        Whether only the event after the last input is a target, rather than every input's successor.
    """

    events: Events
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    last_only: bool = False


def windows(histories: Histories, longest: int) -> Windows:
    """Cut histories into windows of at most ``longest`` targets, from the newest back.

    Every event but the first of a history is a target exactly once; histories shorter than two give none.
    """
    targets = np.maximum(histories.lengths - 1, 0)
    pieces = -(-targets // longest)
    nth = ranges(np.zeros_like(pieces), pieces)
    ends = np.repeat(histories.offsets[:-1] + targets, pieces) - nth * longest
    lengths = np.minimum(np.repeat(targets, pieces) - nth * longest, longest)
    return Windows(Events.of(histories), ends - lengths, lengths)


def sliding(histories: Histories, longest: int) -> Windows:
    """Cut one window for every event but a history's first: what came before it, ``longest`` events at most."""
    targets = np.maximum(histories.lengths - 1, 0)
    nth = ranges(np.zeros_like(targets), targets)
    lengths = np.minimum(nth + 1, longest)
    ends = np.repeat(histories.offsets[:-1], targets) + nth + 1
    return Windows(Events.of(histories), ends - lengths, lengths, last_only=True)


class Plans:
    """Random batches of windows of similar length, each at most ``tokens`` padded places."""

    def __init__(self, cut: Windows, tokens: int) -> None:
        self.cut = cut
        # The longest of a batch is its last: start a new batch where that would make it too large.
        edges = [0] if len(cut.lengths) else []
        for place, length in enumerate(np.sort(cut.lengths).tolist()):
            if (place + 1 - edges[-1]) * length > tokens and place > edges[-1]:
                edges.append(place)
        self.edges = edges

    def __len__(self) -> int:
        return len(self.edges)

    def groups(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield the windows of each batch."""
        lengths = self.cut.lengths
        shuffled = rng.permutation(len(lengths))
        order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
        groups = np.split(order, self.edges[1:])
        for group in rng.permutation(len(groups)):
            yield groups[group]

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Yield every window once: the four tensors of `Sequences`, and targets int64 [n, length], -1 where none."""
        cut = self.cut
        for group in self.groups(rng):
            starts, lengths = cut.starts[group], cut.lengths[group]
            read = cut.events.take(starts, lengths)
            following = cut.events.items[
                torch.where(
                    read.real, torch.from_numpy(starts)[:, None] + torch.arange(read.items.shape[1]) + 1, 0
                )
            ]
            wanted = read.real
            if cut.last_only:
                wanted = torch.arange(read.items.shape[1]) == read.lengths[:, None] - 1
            yield *read, torch.where(wanted, following, -1)
