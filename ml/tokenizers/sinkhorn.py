"""Balanced assignment by optimal transport: Sinkhorn-Knopp in the log domain, and what LC-Rec makes of it.

Cuturi, "Sinkhorn Distances" (NeurIPS 2013); Zheng et al., "Adapting Large Language Models by Integrating Collaborative
Semantics for Recommendation" (LC-Rec, arXiv:2311.09049), section 3.1, "uniform semantic mapping".
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.tokenizers.collisions import group_ids


def sinkhorn(cost: Tensor, epsilon: float, iterations: int = 50, shares: Tensor | None = None) -> Tensor:
    """Return the logarithm of the transport plan that spreads rows evenly over columns at low cost.

    Parameters
    ----------
    cost
        Float [n, k], finite. Only its differences count: it is brought to [-1, 1] first, so that ``epsilon`` means the same on
        every scale.
    epsilon
        Strength of the entropy term; the smaller, the nearer to a hard assignment.
    iterations
        Rounds of scaling columns, then rows.
    shares
        Positive, of sum 1: what the rows [n] sum to; ``1 / n`` each if not given.

    Returns
    -------
    Tensor
        [n, k]; every row sums to its share, every column to nearly ``1 / k``.
    """
    n, k = cost.shape
    log_shares = -math.log(n) if shares is None else shares.log()[:, None]
    low, high = cost.min(), cost.max()
    plan = (low + high - 2 * cost) / (high - low).clamp(min=1e-12) / epsilon
    for _ in range(iterations):
        # In the log domain, dividing by a sum is what log_softmax does; it is ten times as fast as by logsumexp.
        plan = plan.log_softmax(dim=0) - math.log(k)
        plan = plan.log_softmax(dim=1) + log_shares
    return plan


def separate(cost: Tensor, epsilon: float) -> NDArray[np.int64]:
    """Give every row a column of its own, as many rows as there are columns.

    One more row takes up the columns that are too many, at the same cost each: without it a balanced plan would send
    few rows to far columns. The plan of :func:`sinkhorn` is rounded from its largest entry down; a tie goes to the
    earlier row, so that items of equal vectors part too.

    Returns
    -------
    NDArray[np.int64]
        Column of each row [n]; -1 for the rows that found none left.
    """
    n, k = cost.shape
    shares = None
    if n < k:
        cost = torch.cat([cost, cost.min().expand(1, k)])
        shares = torch.full((n + 1,), 1 / k, dtype=cost.dtype)
        shares[n] = (k - n) / k
    plan = sinkhorn(cost, epsilon, shares=shares)[:n].numpy().copy()
    columns = np.full(n, -1, np.int64)
    for _ in range(min(plan.shape)):
        row, column = np.unravel_index(int(plan.argmax()), plan.shape)
        columns[row] = column
        plan[row] = -np.inf
        plan[:, column] = -np.inf
    return columns


def reassign(
    codes: NDArray[np.int32], rest: NDArray[np.float32], book: NDArray[np.float32], epsilon: float
) -> NDArray[np.int32]:
    """Change the last codes of items that share all of their codes, so that they share them no longer.

    LC-Rec repeats a plain Sinkhorn assignment of each colliding group until none is left or patience ends. Here a
    group chooses among the codes that no other item of its prefix holds, each item another one: one round does it.

    Parameters
    ----------
    codes
        int32 [n, levels], nearest codes.
    rest
        float32 [n, d], what the levels before the last left over.
    book
        float32 [k, d], code vectors of the last level.
    epsilon
        As in :func:`sinkhorn`.

    Returns
    -------
    NDArray[np.int32]
        [n, levels]; all rows differ unless more than ``k`` items share a prefix: those too many keep their codes.
    """
    codes = codes.copy()
    whole = group_ids(codes)
    prefixes = group_ids(codes[:, :-1])
    squares = (book**2).sum(axis=1)
    held: dict[int, set[int]] = {}
    for prefix, last in zip(prefixes.tolist(), codes[:, -1].tolist(), strict=True):
        held.setdefault(prefix, set()).add(last)
    order = np.argsort(whole, kind="stable")
    sizes = np.bincount(whole)
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        if len(members) < 2:
            continue
        mine = held[int(prefixes[members[0]])]
        mine.discard(int(codes[members[0], -1]))
        free = np.array(sorted(set(range(len(book))) - mine), np.int64)
        # Squared distances but for the part that is the same in a row, which no plan depends on.
        cost = squares[free] - 2 * (rest[members] @ book[free].T)
        columns = separate(torch.from_numpy(cost), epsilon)
        codes[members[columns >= 0], -1] = free[columns[columns >= 0]]
        mine.update(codes[members, -1].tolist())
    return codes
