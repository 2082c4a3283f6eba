"""Training batches: after which items of a history the next one is to be predicted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ml.histories import NO_ITEM, Histories, ranges
from ml.recommenders.sequential.batches import Plans, Windows, windows


def sliding(histories: Histories, longest: int) -> Windows:
    """Cut one window for every event but a history's first: what came before it, ``longest`` events at most."""
    targets = np.maximum(histories.lengths - 1, 0)
    nth = ranges(np.zeros_like(targets), targets)
    lengths = np.minimum(nth + 1, longest)
    ends = np.repeat(histories.offsets[:-1], targets) + nth + 1
    return Windows(histories.items, ends - lengths, lengths)


class TrainingBatches:
    """Every event of the training histories but each user's first, once an epoch, as a target.

    Parameters
    ----------
    histories
        Training histories.
    length
        Items that are read at most.
    tokens
        Items of a batch at most, padding counted.
    causal
        Predict after every item of a window, rather than after the last of a window of its own.
    """

    def __init__(self, histories: Histories, length: int, tokens: int, causal: bool) -> None:
        self.causal = causal
        self.plans = Plans((windows if causal else sliding)(histories, length), tokens)

    def __len__(self) -> int:
        return len(self.plans) if len(self.plans.cut.starts) else 0

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs int64 [n, length] and targets int64 [n, length or 1], both padded with -1.

        Causal inputs are padded on the right, where no real place can see the padding; others on the left, so that
        the target follows the last place.
        """
        for inputs, targets, lengths in self.plans.batches(rng):
            columns = np.arange(inputs.shape[1])
            rows = np.arange(len(inputs))[:, None]
            if self.causal:
                read = np.where(columns < lengths[:, None], inputs, NO_ITEM)
            else:
                source = columns - (inputs.shape[1] - lengths[:, None])
                read = np.where(source >= 0, inputs[rows, np.maximum(source, 0)], NO_ITEM)
                targets = targets[rows, lengths[:, None] - 1]
            yield torch.from_numpy(read), torch.from_numpy(targets)
