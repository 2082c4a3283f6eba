"""Lists for many histories, some of like length at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.histories import Histories
from ml.recommenders.base import alike
from ml.recommenders.batches import Sequences

Rank = Callable[[Sequences, int, Tensor | None], tuple[Tensor, Tensor]]
"""Histories, k, and items never to return, int64 [n, any] padded with -1, to items and scores [n, k]."""


def answer(
    rank: Rank,
    histories: Histories,
    k: int,
    exclude_history: bool,
    length: int,
    at_once: int,
    device: torch.device,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank items for histories; see `ml.recommenders.base.Recommender.recommend`.

    Parameters
    ----------
    rank
        Called with so many histories as are answered together, cut to their last ``length`` items.
    at_once
        Histories that are answered together.
    """
    items = np.empty((len(histories), k), np.int32)
    scores = np.empty((len(histories), k), np.float32)
    for rows in alike(histories, at_once):
        some, excluded = histories.rows(rows), None
        if exclude_history:
            whole = some.last(int(some.lengths.max(initial=1)))
            excluded = torch.from_numpy(whole.astype(np.int64)).to(device)
        found = rank(Sequences.of(some, length, device), k, excluded)
        items[rows], scores[rows] = (tensor.cpu().numpy() for tensor in found)
    return items, scores
