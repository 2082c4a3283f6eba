"""Every item scored, where one reading of the history is enough to score it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ml.recommenders.base import best_k
from ml.recommenders.generative.trie import Trie

#: Scores made at once: 2**25 x 4 bytes is 128 MB.
_SCORES = 2**25


def rank_all(
    score: Callable[[slice], Tensor], trie: Trie, n: int, k: int, excluded: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Find the best items of ``n`` users among all that have an ID.

    Parameters
    ----------
    score
        Called with some of the users, it returns their scores of all items, float [users, n_items].
    trie
        The IDs that exist.
    k, excluded
        As of `ml.recommenders.generative.parts.Objective.rank`.

    Returns
    -------
    As `ml.recommenders.base.best_k`.
    """
    n_items = len(trie.place)
    at_once = max(1, _SCORES // n_items)
    items = torch.empty(n, k, dtype=torch.int64, device=trie.place.device)
    scores = torch.empty(n, k, device=trie.place.device)
    for begin in range(0, n, at_once):
        users = slice(begin, begin + at_once)
        dense = score(users).float().masked_fill_(trie.place < 0, -torch.inf)
        if excluded is not None:
            rows, columns = torch.nonzero(excluded[users] >= 0, as_tuple=True)
            dense[rows, excluded[users][rows, columns]] = -torch.inf
        items[users], scores[users] = best_k(dense, k)
    return items, scores


def code_sums(values: Tensor, rows: Tensor) -> Tensor:
    """Add up what an item's codes are worth.

    Parameters
    ----------
    values
        float [n, codes], of each code of every level.
    rows
        int64 [n_items, levels], the codes of each item; ``codes`` stands for one that is not known, and is worth
        nothing.

    Returns
    -------
    Tensor
        float [n, n_items].
    """
    # Codes outermost: what is added are whole rows, one number a user, instead of single numbers.
    table = torch.cat([values.T, values.new_zeros(1, len(values))])
    return embedding_bag(rows, table, mode="sum").T
