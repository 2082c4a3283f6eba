"""Find items whose codes are told in any order: some one at a time, then all others at once.

A hypothesis is what some levels are fixed to, and the items that agree with it. It fixes one more level, the one it is
surest of; a child that no permitted item agrees with is never made. Children of one parent differ in a code, so no item
agrees with two hypotheses: the search walks a tree, though each branch takes the levels in an order of its own. At its end
the items that are left are scored themselves, so nothing but an item can come out, and each of them once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ml.recommenders.generative.beam import distinct_leaves, ranked
from ml.recommenders.generative.trie import Trie

#: Given codes and what of them is masked, int64 and bool [n, hypotheses, levels], returns the log-probabilities of all
#: codes of each level, float [n, hypotheses, levels, widest level]; -inf where a level has fewer.
Told = Callable[[Tensor, Tensor], Tensor]


class Agreement:
    """Which items have which code: for each level and code a list of leaves of the trie."""

    def __init__(self, codes: Tensor, width: int, excluded: Tensor) -> None:
        """Make it.

        Parameters
        ----------
        codes
            int64 [leaves, levels].
        width
            Size of the widest level.
        excluded
            int64 [n, h], distinct and sorted leaves that each user is not permitted, padded with ``leaves``.
        """
        self.leaves, self.levels = codes.shape
        self.width, self.excluded = width, excluded
        # What the padding agrees with does not matter: it is never alive.
        self.codes = torch.cat([codes, codes.new_zeros(1, self.levels)])
        lists = (codes + width * torch.arange(self.levels, device=codes.device)).flatten()
        self.order = lists.argsort(stable=True) // self.levels
        self.counts = torch.bincount(lists, minlength=width * self.levels)
        self.begins = self.counts.cumsum(0) - self.counts

    def permitted(self, level: Tensor) -> Tensor:
        """Tell which codes of a level, int64 [n, 1], a permitted item has; bool [n, 1, width]."""
        lost = self.codes[self.excluded].gather(2, level[..., None].expand(-1, self.excluded.shape[1], 1))
        ones = (self.excluded < self.leaves).long()
        lost = ones.new_zeros(len(level), self.width).scatter_add_(1, lost[..., 0], ones)
        return (self.counts.view(self.levels, self.width)[level[:, 0]] > lost)[:, None]

    def having(self, level: Tensor, code: Tensor) -> Tensor:
        """Return the leaves with a code of a level, both int64 [n, hypotheses]; [n, hypotheses, most], padded."""
        which = level * self.width + code
        begin, count = self.begins[which][..., None], self.counts[which][..., None]
        nth = torch.arange(int(count.max()), device=code.device)
        return self.order[(begin + nth).clamp(max=len(self.order) - 1)].where(nth < count, self.leaves)

    def alive(self, agree: Tensor) -> Tensor:
        """Tell which of leaves [n, ...] are neither padding nor excluded, bool of the same shape."""
        flat = agree.flatten(1)
        near = torch.searchsorted(self.excluded, flat).clamp(max=self.excluded.shape[1] - 1)
        return (flat < self.leaves).logical_and(self.excluded.gather(1, near) != flat).view_as(agree)


def unmask(
    told: Told,
    codes: Tensor,
    trie: Trie,
    n: int,
    warm_up: int,
    width: int,
    k: int,
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the likeliest items of ``n`` users.

    Parameters
    ----------
    told
        What is known of masked codes.
    codes, trie
        int64 [leaves, levels], and the tree that they are the leaves of.
    warm_up
        Levels fixed one at a time, of all but the last; below the number of levels.
    width
        Hypotheses kept; at least ``k``. With as many as there are items the result is exact.
    k, excluded
        As of `ml.recommenders.generative.parts.Objective.rank`.

    Returns
    -------
    As `ml.recommenders.generative.parts.Objective.rank`. Scores are log-probabilities along the way that was taken. (Of
    equal scores at the border of the beam, any may be kept.)
    """
    none = torch.full((n, 1), -1, device=codes.device)
    dead = distinct_leaves(trie, none if excluded is None or not excluded.shape[1] else excluded)
    fixed = torch.zeros(n, 1, trie.levels, dtype=torch.int64, device=codes.device)
    masked = torch.ones_like(fixed, dtype=torch.bool)
    chances = told(fixed, masked)
    agreement = Agreement(codes, chances.shape[-1], dead)
    scores = chances.new_zeros(n, 1)
    agree = torch.arange(len(codes), device=codes.device).expand(n, 1, -1)
    users = torch.arange(n, device=codes.device)[:, None]
    for step in range(warm_up):
        surest = chances[:, :, :-1].amax(dim=-1).masked_fill(~masked[..., :-1], -torch.inf)
        level = surest.argmax(dim=-1)
        total = scores[..., None] + chances.gather(2, _like(level, chances)).squeeze(2)
        if step == 0:
            there = agreement.permitted(level)
        else:
            code, alive = agreement.codes[agree, level[..., None]], agreement.alive(agree)
            there = torch.zeros_like(total).scatter_add_(2, code, alive.to(total.dtype)) > 0
        total = total.masked_fill(~there, -torch.inf).flatten(1)
        scores, best = total.topk(min(width, total.shape[1]), dim=1)
        parent, new = best // agreement.width, best % agreement.width
        level = level.gather(1, parent)
        if step == 0:
            agree = agreement.having(level, new)
        else:
            agree = agree[users, parent].where(code[users, parent] == new[..., None], len(codes))
        fixed = fixed[users, parent].scatter(2, level[..., None], new[..., None])
        masked = masked[users, parent].scatter(2, level[..., None], False)
        chances = told(fixed, masked)
    total = scores[..., None].masked_fill(~agreement.alive(agree), -torch.inf)
    for place in range(trie.levels):
        worth = chances[:, :, place].gather(2, agreement.codes[agree, place])
        total = total + worth.where(masked[..., place, None], 0.0)
    scores, best = total.flatten(1).topk(min(k, total[0].numel()), dim=1)
    leaves = agree.flatten(1).gather(1, best).clamp(max=len(codes) - 1)
    return ranked(trie.items[leaves], scores, k)


def _like(level: Tensor, chances: Tensor) -> Tensor:
    """Turn int64 [n, hypotheses] into an index of the third axis of [n, hypotheses, levels, width]."""
    return level[..., None, None].expand(-1, -1, 1, chances.shape[-1])
