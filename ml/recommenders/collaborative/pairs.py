"""Training pairs in batches, negatives drawn for all of them at once, and the pairwise loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from ml.recommenders.sequential.parts import PartParams


class BPRParams(PartParams):
    """The pairwise loss; see `bpr`.

    Parameters
    ----------
    negatives
        Draws for each pair, of items that its user did not meet.
    """

    kind: Literal["bpr"] = "bpr"
    negatives: int = Field(default=1, ge=1)


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
        self.users, self.items, self.n_items = users, items, n_items
        self.batch_size, self.negatives = batch_size, negatives
        self.degrees = np.bincount(users)
        self.starts = np.cumsum(self.degrees) - self.degrees
        # Items that were not met below each item that was: rises within a user, so that a search among all finds a place.
        free_below = items - (np.arange(len(items)) - self.starts[users])
        self.keys = users * (n_items + 1) + free_below

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield every pair once: users and items int64 [b], negatives int64 [b, negatives]."""
        order = rng.permutation(len(self.users))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            drawn = self.draw(self.users[rows], rng)
            yield (
                torch.from_numpy(self.users[rows]),
                torch.from_numpy(self.items[rows]),
                torch.from_numpy(drawn),
            )

    def draw(self, users: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw items that the users [b] did not meet, int64 [b, negatives]; the last item for who met all."""
        free = np.maximum(self.n_items - self.degrees[users], 1)
        # The n-th item that a user did not meet is n plus the number of those met that have at most n free ones below.
        nth = rng.integers(free[:, None], size=(len(users), self.negatives))
        place = np.searchsorted(self.keys, users[:, None] * (self.n_items + 1) + nth, side="right")
        drawn: NDArray[np.int64] = nth + place - self.starts[users][:, None]
        return drawn.clip(max=self.n_items - 1)


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
