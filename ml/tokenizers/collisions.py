"""A last code that tells apart items whose other codes are equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def deduplicate(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Append a code that numbers the items of a tuple, in the order given.

    Parameters
    ----------
    codes
        int32 [n, levels].

    Returns
    -------
    NDArray[np.int32]
        ``[n, levels + 1]``, all rows distinct.

    Examples
    --------
    >>> deduplicate(np.array([[1, 2], [3, 4], [1, 2]], np.int32)).tolist()
    [[1, 2, 0], [3, 4, 0], [1, 2, 1]]
    """
    return assign_new(np.zeros((0, codes.shape[1] + 1), np.int32), codes)


def assign_new(old_codes: NDArray[np.int32], new_codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Append de-duplicating codes to new items without touching those that have theirs.

    Parameters
    ----------
    old_codes
        int32 [m, levels + 1], as given before.
    new_codes
        int32 [n, levels], of the items to add.

    Returns
    -------
    NDArray[np.int32]
        ``[n, levels + 1]``. The last code of the first new item of a tuple is one more than the largest in use.
    """
    m, levels = len(old_codes), new_codes.shape[1]
    group = group_ids(np.concatenate([old_codes[:, :levels], new_codes]))
    first_free = np.zeros(group.max(initial=-1) + 1, np.int64)
    np.maximum.at(first_free, group[:m], old_codes[:, levels] + 1)
    last = first_free[group[m:]] + _rank_in_group(group[m:])
    return np.concatenate([new_codes, last[:, None]], axis=1).astype(np.int32)


def group_ids(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the number of each row's tuple, int64 [n], the distinct rows of codes [n, levels] numbered from 0."""
    if len(codes) == 0 or codes.shape[1] == 0:
        return np.zeros(len(codes), np.int64)
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    fresh = np.concatenate([[0], np.any(ordered[1:] != ordered[:-1], axis=1)])
    groups = np.empty(len(codes), np.int64)
    groups[order] = np.cumsum(fresh)
    return groups


def _rank_in_group(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many earlier entries are of the same group."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - starts[group[order]]
    return rank
