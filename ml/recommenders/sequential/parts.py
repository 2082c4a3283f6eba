"""What the parts of a sequential recommender are given, and what they owe, by role.

A recipe names one part for each role. Its parameters are a pydantic model with a ``kind``, which builds the part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ml.recommenders.base import RecommenderParams
from ml.recommenders.batches import Sequences, Windows

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.sequential.model import SequentialParams
    from ml.recommenders.sequential.network import Network
    from ml.snapshot import Catalogue


class PartParams(RecommenderParams):
    """Base of the parameters of a part; ``kind`` tells the parts of a role apart."""

    #: Of an auxiliary loss: whether it reads states of the batch, rather than the table of items alone.
    reads_sequences: ClassVar[bool] = True
    #: Kinds of item nets that the part is for; none where it is for all.
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def more_places(self) -> int:
        """Places that an objective appends to a window of ``max_length``, for which blocks are built."""
        return 0

    def check(self, whole: SequentialParams) -> None:
        """Raise a ValueError of one line where the part does not go with the other parameters."""

    @property
    def whole_window(self) -> bool:
        """Whether a block's states see later items of a window, whatever the reading; whether an objective bears it."""
        return False


def heads_divide(heads: int, width: int) -> None:
    """Raise a ValueError where the heads do not share the width evenly."""
    if width % heads:
        raise ValueError(f"heads ({heads}) must divide d ({width})")


def last_state(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the state of each sequence's last item, float [n, d], of states [n, length, d]."""
    return states[torch.arange(len(states), device=states.device), (lengths - 1).clamp(min=0)]


@dataclass(frozen=True)
class Facts:
    """What a part may know when it is built.

    Parameters
    ----------
    catalogue
        The items.
    counts
        int64 [n_items], training events of each item.
    d, max_length, dropout
        Width, latest history items that are read, and dropout of the whole network.
    train
        Training histories; None where a trained network is built again, which needs nothing that only training reads.
    """

    catalogue: Catalogue
    counts: Tensor
    d: int
    max_length: int
    dropout: float
    train: Histories | None = None

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return len(self.catalogue)

    @property
    def vectors(self) -> Tensor:
        """Vectors of the catalogue, float32 [n_items, width]."""
        return torch.from_numpy(self.catalogue.vectors)

    @property
    def codes(self) -> Tensor:
        """Semantic IDs of the catalogue, int64 [n_items, levels]; -1 where an item has none."""
        return torch.from_numpy(self.catalogue.codes.astype(np.int64))


class Reading(NamedTuple):
    """Where and when the items stand that a block is given.

    Parameters
    ----------
    real
        bool [n, length], False for padding, which is always on the right.
    places
        int64 [n, length], numbered from the end of each sequence: the latest item is always at ``max_length - 1``.
    times
        int64 [n, length], microseconds since the epoch.
    causal
        Whether a place may only see those before it.
    """

    real: Tensor
    places: Tensor
    times: Tensor
    causal: bool

    @classmethod
    def of(cls, sequences: Sequences, max_length: int, causal: bool) -> Reading:
        """Make it of a batch."""
        columns = torch.arange(sequences.items.shape[1], device=sequences.items.device)
        places = columns - sequences.lengths[:, None] + max_length
        return cls(sequences.real, places.clamp(max=max_length - 1), sequences.times, causal)


class ItemNet(Protocol):
    """Item index to vector; its table is both the input and the output of the model (tied weights)."""

    def __call__(self) -> Tensor:
        """Return the table to train, float [n_items, d]."""
        ...

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """Return the table to answer with and which of its rows mean anything.

        Parameters
        ----------
        trained
            bool [n_items], items with a training event: the others still have their random start.

        Returns
        -------
        float [n_items, d], zeros where it means nothing, and bool [n_items].
        """
        ...


@runtime_checkable
class ByRows(Protocol):
    """An item net that costs something: of a table that is trained against a sample, only what is needed is made."""

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows of the table of ``index``, int64 [m]; float [m, d]."""
        ...


class Block(Protocol):
    """One layer over a sequence."""

    def __call__(self, x: Tensor, reading: Reading) -> Tensor:
        """Map float [n, length, d] to the same shape; what padding holds must not reach a real place."""
        ...


class Loss(Protocol):
    """How far the states are from their targets."""

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss: states [m, d], table [rows, d], targets int64 [m] (rows of the table)."""
        ...


class Objective(Protocol):
    """What the network is trained to tell, and how it is asked."""

    #: Whether a place may only see those before it, in training and in answering.
    causal: bool

    def windows(self, histories: Histories, max_length: int) -> Windows:
        """Cut the training histories."""
        ...

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch and its number of targets; targets int64 [n, length], -1 where none."""
        ...

    def ask(self, network: Network, sequences: Sequences, table: Tensor) -> Tensor:
        """Return the state that scores the next item, float [n, d]; rows without items may hold anything."""
        ...


class Auxiliary(Protocol):
    """A loss beside the objective's.

    One that has a method ``begin_epoch(network, rng)`` is told when an epoch of training begins. What it keeps of
    that follows from the weights and the generator alone, and is not saved.
    """

    def __call__(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """Return what is added to the loss of the batch, weighted.

        Parameters
        ----------
        sequences, targets
            The batch.
        states
            float [n, length, d], what the network made of it.
        table
            float [n_items, d]; zeros for items that neither the batch nor its negatives hold, where the item net
            is `ByRows` and the loss samples.
        """
        ...
