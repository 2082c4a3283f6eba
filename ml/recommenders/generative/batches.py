"""Training batches: after which items of a history the next one is to be predicted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ml.histories import NO_ITEM, Histories
from ml.recommenders.batches import Plans, sliding, windows


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
        return len(self.plans)

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs int64 [n, length] and targets int64 [n, length or 1], both padded with -1.

        Causal inputs are padded on the right, where no real place can see the padding; others on the left, so that
        the target follows the last place.
        """
        for items, lengths, _, _, targets in self.plans.batches(rng):
            columns = torch.arange(items.shape[1])
            if self.causal:
                yield torch.where(columns < lengths[:, None], items, NO_ITEM), targets
            else:
                source = columns - (items.shape[1] - lengths[:, None])
                read = torch.where(source >= 0, items.gather(1, source.clamp(min=0)), NO_ITEM)
                yield read, targets.gather(1, lengths[:, None] - 1)
