"""Training pairs in batches, negatives drawn for all of them at once, and the pairwise loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

#: Draws for one place before an item that the user met is let through.
_DRAWS = 10


class Pairs:
    """Users with an item that they met and items that they did not.

    Parameters
    ----------
    users, items
        int64 [n_pairs], each pair once, sorted by user, then item.
    n_items
        Items are below.
    batch_size
        Pairs of a batch.
    negatives
        Draws for each pair, uniform over the items that its user did not meet; may be 0.
    """

    def __init__(
        self,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        n_items: int,
        batch_size: int,
        negatives: int,
    ) -> None:
        self.users, self.items, self.keys = users, items, users * n_items + items
        self.n_items, self.batch_size, self.negatives = n_items, batch_size, negatives

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield every pair once: users and items int64 [b], negatives int64 [b, negatives]."""
        order = rng.permutation(len(self.users))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            drawn = self.draw(self.users[rows], rng)
            yield torch.from_numpy(self.users[rows]), torch.from_numpy(self.items[rows]), torch.from_numpy(drawn)

    def draw(self, users: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw items that the users [b] did not meet, int64 [b, negatives].

        A user that met nearly everything may be given an item that they met.
        """
        drawn = rng.integers(self.n_items, size=(len(users), self.negatives))
        keys = users[:, None] * self.n_items
        for _ in range(_DRAWS):
            met = self._met(keys + drawn)
            if not met.any():
                break
            drawn[met] = rng.integers(self.n_items, size=int(met.sum()))
        return drawn

    def _met(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        met: NDArray[np.bool_] = self.keys[place] == keys
        return met


def bpr(states: Tensor, table: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean of ``-log sigmoid(score of the item - score of a negative)``.

    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009, arXiv:1205.2618).

    Parameters
    ----------
    states
        Users' vectors, float [b, d].
    table
        float [n_items, d].
    items
        int64 [b].
    negatives
        int64 [b, m].
    """
    own = (states * table[items]).sum(dim=1, keepdim=True)
    others = torch.einsum("bd,bmd->bm", states, table[negatives])
    return -logsigmoid(own - others).mean()
