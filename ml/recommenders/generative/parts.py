"""What the parts of a generative recommender are given, and what they owe, by role.

A recipe names one part for each role. Its parameters are a pydantic model with a ``kind``, which builds the part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ml.recommenders.base import RecommenderParams
from ml.recommenders.batches import Sequences, Windows
from ml.recommenders.generative.trie import Trie

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.code_table import CodeTable
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network
    from ml.snapshot import Catalogue

#: Keys and values of a layer, each float [n, heads, places, head width] or [n, hypotheses, heads, codes, head width].
KeysValues = tuple[Tensor, Tensor]


class PartParams(RecommenderParams):
    """Base of the parameters of a part; ``kind`` tells the parts of a role apart."""

    def check(self, whole: GenerativeParams) -> None:
        """Raise a ValueError of one line where the part does not go with the other parameters."""


@dataclass(frozen=True)
class Facts:
    """What a part may know when it is built.

    Parameters
    ----------
    catalogue
        The items.
    code_sizes
        Size of each level of the IDs that are read and written; those of the training catalogue.
    trie
        The IDs that exist now, of these sizes.
    per_item
        Places that an item takes where a history is read.
    d, length, dropout
        Width, latest history items that are read, and dropout of the whole network.
    train
        Training histories; None where a trained network is built again.
    behaviours
        Event types that training histories have, from 0.
    """

    catalogue: Catalogue
    code_sizes: tuple[int, ...]
    trie: Trie
    per_item: int
    d: int
    length: int
    dropout: float
    train: Histories | None = None
    behaviours: int = 1

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return len(self.catalogue)

    @property
    def levels(self) -> int:
        """Codes of an ID."""
        return len(self.code_sizes)

    @property
    def codes(self) -> Tensor:
        """Semantic IDs of the catalogue, int64 [n_items, levels]; -1 where an item has none."""
        return torch.from_numpy(self.catalogue.codes.astype(np.int64))


@dataclass(frozen=True)
class Memory:
    """What was read of histories.

    Parameters
    ----------
    states
        float [n, 1 + places, d]: a learned start, which is there for an empty history too, and ``per_item`` places for
        each item.
    real
        bool [n, 1 + places], False where there is padding, which is always on the right.
    lengths
        int64 [n], items, or what else has places of its own; see `Groups`.
    per_item
        Places of an item.
    kept
        For each layer that writes, what it looks up in the history: one copy for all hypotheses of a user.
    """

    states: Tensor
    real: Tensor
    lengths: Tensor
    per_item: int
    kept: list[KeysValues] = field(default_factory=list)

    def after(self, at: Tensor) -> Tensor:
        """Return the state after the first ``at`` items, int64 [n, p]; float [n, p, d]."""
        place = (at * self.per_item)[..., None].expand(-1, -1, self.states.shape[-1])
        return self.states.gather(1, place)


class Tokens(Protocol):
    """How items of a history are read."""

    #: Places of an item.
    per_item: int

    def __call__(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """Return float [n, length, per_item, d]; what padding holds does not matter."""
        ...


@runtime_checkable
class WritingTokens(Protocol):
    """A `Tokens` that embeds the codes of an ID that is being written in its own way, too."""

    def written(self, x: Tensor) -> Tensor:
        """Map `CodeTable.inputs` of a start and the codes so far, float [n, p, 1 + codes, d], to the same shape.

        What it makes of a code may depend on those before it, not on those after it.
        """
        ...


@runtime_checkable
class Groups(Protocol):
    """A `Tokens` that gives places to groups of consecutive items instead of items."""

    def groups(self, sequences: Sequences) -> Tensor:
        """Return the groups of each history, int64 [n]."""
        ...


class Steps(Protocol):
    """IDs that are written step by step, by many hypotheses of each user; nothing in it changes, `write` gives the next."""

    def write(
        self, x: Tensor, parents: Tensor | None = None, rows: Tensor | None = None
    ) -> tuple[Tensor, Steps]:
        """Write one step more; without gradients.

        Parameters
        ----------
        x
            float [n, hypotheses, d], what each new hypothesis adds.
        parents
            int64 [n, hypotheses], the old hypothesis that it extends; None at the start, and where each extends the
            one in its place, or all of them the only one.
        rows
            int64 [n, hypotheses], where ``x`` is but codes in their places: their rows in the table of codes.

        Returns
        -------
        States float [n, hypotheses, d], and what goes on from there.
        """
        ...


class Backbone(Protocol):
    """Reads histories and writes IDs."""

    #: Whether a place sees only those before it. Then one reading serves a target after every item.
    causal: bool

    def read(self, embedded: Tensor, start: Tensor, lengths: Tensor) -> Memory:
        """Read items float [n, length, per_item, d], after a start float [d]; lengths int64 [n]."""
        ...

    def write(self, memory: Memory, at: Tensor, x: Tensor, whole: bool = False) -> Tensor:
        """Continue histories.

        Parameters
        ----------
        at
            int64 [n, p]: hypothesis ``j`` continues the first ``at[:, j]`` items; p is 1 where all of them do the same.
        x
            float [n, hypotheses, steps, d], what is written.
        whole
            Whether a step sees the steps after it, too.

        Returns
        -------
        States float [n, hypotheses, steps, d].
        """
        ...

    def steps(self, memory: Memory, at: Tensor, table: CodeTable) -> Steps:
        """Begin to continue histories by codes of a table, each after its first ``at`` items, int64 [n, 1]."""
        ...


class Objective(Protocol):
    """What the network is trained to tell of the next item, and how items are found by it."""

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """Cut the training histories."""
        ...

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch and its number of targets; targets int64 [n, length], -1 where none."""
        ...

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the ``k`` best items and their scores.

        Parameters
        ----------
        excluded
            int64 [n, any], items never to return, padded with -1.

        Returns
        -------
        int64 and float [n, k], best first, equal scores by lower index; -1 and -inf where there are fewer.
        """
        ...


class Auxiliary(Protocol):
    """A loss beside the objective's."""

    def __call__(self, network: Network, sequences: Sequences, targets: Tensor, memory: Memory) -> Tensor:
        """Return what is added to the loss of the batch, weighted; arguments as of `Objective.loss`."""
        ...


class PathLoss(Protocol):
    """What a step towards the target's ID costs, for an objective that writes code by code."""

    #: Other items, drawn evenly for every target, of whose paths it is told; often 0.
    rivals: int

    def __call__(self, chosen: Tensor, rivals: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the mean loss of a batch.

        Parameters
        ----------
        chosen
            float [m, levels], log-probabilities of the targets' codes.
        rivals
            The same of each target's rivals, float [m, rivals, levels]; and, bool of that shape, whether a rival's
            prefix up to there is neither the target's nor that of a rival before it. None where there are no rivals.
        """
        ...
