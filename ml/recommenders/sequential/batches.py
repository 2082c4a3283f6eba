"""Training windows and batches of equal work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.histories import Histories, ranges

#: Inputs int64 [n, length], padded on the right with 0; targets int64 [n, length], padded with -1; lengths int64 [n].
Batch = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Windows:
    """Stretches of consecutive events; each predicts every event but its first.

    Parameters
    ----------
    items
        int32 [n_events], of all histories.
    starts, lengths
        int64 [n_windows]: inputs are ``items[start:start + length]``, targets are one place later.
    """

    items: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def windows(histories: Histories, longest: int) -> Windows:
    """Cut histories into windows of at most ``longest`` targets, from the newest back.

    Every event but the first of a history is a target exactly once; histories shorter than two give none.
    """
    targets = np.maximum(histories.lengths - 1, 0)
    pieces = -(-targets // longest)
    nth = ranges(np.zeros_like(pieces), pieces)
    ends = np.repeat(histories.offsets[:-1] + targets, pieces) - nth * longest
    lengths = np.minimum(np.repeat(targets, pieces) - nth * longest, longest)
    return Windows(histories.items, ends - lengths, lengths)


class Plans:
    """Random batches of windows of similar length, each at most ``tokens`` padded places."""

    def __init__(self, cut: Windows, tokens: int) -> None:
        self.cut = cut
        # The longest of a batch is its last: start a new batch where that would make it too large.
        edges = [0]
        for place, length in enumerate(np.sort(cut.lengths).tolist()):
            if (place + 1 - edges[-1]) * length > tokens and place > edges[-1]:
                edges.append(place)
        self.edges = edges

    def __len__(self) -> int:
        return len(self.edges)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield every window once."""
        cut = self.cut
        shuffled = rng.permutation(len(cut.starts))
        order = shuffled[np.argsort(cut.lengths[shuffled], kind="stable")]
        groups = np.split(order, self.edges[1:])
        for group in rng.permutation(len(groups)):
            rows = groups[group]
            lengths = cut.lengths[rows]
            columns = np.arange(int(lengths.max()))
            real = columns < lengths[:, None]
            index = np.where(real, cut.starts[rows][:, None] + columns, 0)
            inputs = np.where(real, cut.items[index], 0).astype(np.int64)
            targets = np.where(real, cut.items[np.where(real, index + 1, 0)], -1).astype(np.int64)
            yield inputs, targets, lengths
