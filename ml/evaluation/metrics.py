"""Metrics from ranks and from what was recommended.

One target a query: recall@c is then the hit rate, and the ideal DCG is 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20, 50)
MISSED = 0
_BEYOND_ACCURACY = 10


def target_ranks(items: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the place of each target (int32 [n]) in its list (items int32 [n, k]), int32 [n] from 1; 0 = missed."""
    hits = items == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, MISSED).astype(np.int32)


def recall(ranks: NDArray[np.int32], cutoff: int) -> NDArray[np.float64]:
    """Return 1 where the target is among the first ``cutoff``, else 0; ranks int32 [n] from 1, 0 = missed."""
    return _within(ranks, cutoff).astype(np.float64)


def ndcg(ranks: NDArray[np.int32], cutoff: int) -> NDArray[np.float64]:
    """Return ``1 / log2(1 + rank)`` where the target is among the first ``cutoff``, else 0; float64 [n]."""
    return np.where(_within(ranks, cutoff), 1.0 / np.log2(1.0 + np.maximum(ranks, 1)), 0.0)


def reciprocal_rank(ranks: NDArray[np.int32], cutoff: int) -> NDArray[np.float64]:
    """Return ``1 / rank`` where the target is among the first ``cutoff``, else 0; float64 [n]."""
    return np.where(_within(ranks, cutoff), 1.0 / np.maximum(ranks, 1), 0.0)


def accuracy(ranks: NDArray[np.int32], k: int) -> dict[str, float]:
    """Return mean recall, NDCG and MRR at every cut-off up to ``k``; 0 where there are no queries."""
    out: dict[str, float] = {}
    for cutoff in (c for c in CUTOFFS if c <= k):
        for name, metric in (("recall", recall), ("ndcg", ndcg), ("mrr", reciprocal_rank)):
            out[f"{name}@{cutoff}"] = float(metric(ranks, cutoff).mean()) if len(ranks) else 0.0
    return out


def expected_accuracy(places: NDArray[np.int64], k: int) -> dict[str, float]:
    """Return what `accuracy` would be on average, were the target put anywhere between two places.

    Parameters
    ----------
    places
        int64 [n, 2]: first and last place from 1; 0 = missed.
    k
        As in `accuracy`.
    """
    every = np.arange(1, k + 1, dtype=np.int32)
    first, last = np.maximum(places[:, 0], 1) - 1, places[:, 1]
    width = np.maximum(last - first, 1)
    out: dict[str, float] = {}
    for cutoff in (c for c in CUTOFFS if c <= k):
        for name, metric in (("recall", recall), ("ndcg", ndcg), ("mrr", reciprocal_rank)):
            total = np.concatenate([[0.0], np.cumsum(metric(every, cutoff))])
            gains = (total[np.minimum(last, k)] - total[np.minimum(first, k)]) / width
            found = np.where(places[:, 0] > MISSED, gains, 0.0)
            out[f"{name}@{cutoff}"] = float(found.mean()) if len(found) else 0.0
    return out


def beyond_accuracy(
    shown: NDArray[np.int64], train_counts: NDArray[np.int64], targets: NDArray[np.int32]
) -> dict[str, float]:
    """Describe what was put into the first ten places of all lists.

    Parameters
    ----------
    shown
        int64 [n_items], how often each item was among the first ten.
    train_counts
        int64 [n_items], training events of each item.
    targets
        int32 [n], what the users chose.

    Returns
    -------
    ``coverage@10``: share of the catalogue shown to anyone. ``novelty@10``: mean self-information in bits of a
    place, an item's probability being its smoothed share of the training events. ``popularity_bias@10``: mean
    training count of a place over that of a target; 1 means as popular as what users chose.
    """
    n_items, places = len(shown), int(shown.sum())
    if places == 0 or len(targets) == 0:
        return {f"{name}@{_BEYOND_ACCURACY}": 0.0 for name in ("coverage", "novelty", "popularity_bias")}
    bits = -np.log2((train_counts + 1) / (train_counts.sum() + n_items))
    chosen = float(train_counts[targets].mean())
    return {
        f"coverage@{_BEYOND_ACCURACY}": float((shown > 0).mean()),
        f"novelty@{_BEYOND_ACCURACY}": float(shown @ bits / places),
        f"popularity_bias@{_BEYOND_ACCURACY}": float(shown @ train_counts / places) / chosen
        if chosen
        else 0.0,
    }


def _within(ranks: NDArray[np.int32], cutoff: int) -> NDArray[np.bool_]:
    return (ranks > MISSED) & (ranks <= cutoff)
