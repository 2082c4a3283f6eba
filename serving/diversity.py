"""Maximal marginal relevance: good items that are unlike each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mmr(
    relevance: NDArray[np.float32], vectors: NDArray[np.float32], k: int, diversity: float
) -> NDArray[np.int64]:
    """Choose items one by one, each for its relevance less its likeness to what was chosen before.

    Each step takes the largest ``(1 - diversity) * relevance - diversity * max cosine`` (Carbonell and Goldstein, SIGIR
    1998, their lambda being ``1 - diversity``); at a tie the first one.

    Parameters
    ----------
    relevance
        float [n]; brought to 0..1, so that scores of any scale can be weighed against cosines.
    vectors
        float32 [n, d], rows of length 1, or of zeros where nothing is known: such an item is like no other.
    k
        Most items to choose.
    diversity
        From 0, the order of relevance, to 1.

    Returns
    -------
    int64 [min(n, k)], places of the chosen items in the order of choice.
    """
    n = len(relevance)
    if n == 0:
        return np.zeros(0, np.int64)
    low, high = float(relevance.min()), float(relevance.max())
    scaled = (relevance.astype(np.float64) - low) / (high - low) if high > low else np.ones(n)
    alike = np.zeros(n)
    chosen = np.empty(min(n, k), np.int64)
    left = np.ones(n, bool)
    for step in range(len(chosen)):
        gain = np.where(left, (1 - diversity) * scaled - diversity * alike, -np.inf)
        place = chosen[step] = int(gain.argmax())
        left[place] = False
        cosines = vectors @ vectors[place]
        alike = cosines.astype(np.float64) if step == 0 else np.maximum(alike, cosines)
    return chosen
