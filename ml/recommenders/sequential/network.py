"""The network that the parts of a sequential recommender make."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ml.recommenders.batches import Sequences
from ml.recommenders.losses import SampledSoftmax
from ml.recommenders.sequential.parts import (
    Auxiliary,
    Block,
    ByRows,
    Facts,
    ItemNet,
    Loss,
    Objective,
    Reading,
)


class Network(nn.Module):
    """Sequences of items in, a state after every place out.

    Parameters
    ----------
    facts
        Width, length, dropout, and what is known of the items.
    item_net, blocks, loss, objective, auxiliary
        The parts.
    position
        Whether a place has a learned vector.
    temperature
        Of scores that are cosines; None for inner products.
    """

    trained: Tensor
    default: Tensor
    row: Tensor

    def __init__(
        self,
        facts: Facts,
        item_net: ItemNet,
        blocks: Sequence[Block],
        loss: Loss,
        objective: Objective,
        auxiliary: Sequence[Auxiliary] = (),
        position: bool = True,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.d, self.max_length, self.temperature = facts.d, facts.max_length, temperature
        self.item_net, self.objective, self.loss = item_net, objective, loss
        self.position = nn.Parameter(torch.randn(facts.max_length, facts.d) * 0.02) if position else None
        self.blocks, self.auxiliary = nn.ModuleList(blocks), nn.ModuleList(auxiliary)  # type: ignore[arg-type]
        self.drop, self.norm = nn.Dropout(facts.dropout), nn.LayerNorm(facts.d)
        self.register_buffer("trained", facts.counts > 0)
        self.register_buffer("row", torch.cumsum(facts.counts > 0, dim=0) - 1, persistent=False)
        self.register_buffer("default", torch.zeros(facts.d))

    def states(self, sequences: Sequences, table: Tensor) -> Tensor:
        """Encode sequences by a table [n_items, d]; float [n, length, d]."""
        return self.read(table[sequences.items], sequences)

    def read(self, vectors: Tensor, sequences: Sequences) -> Tensor:
        """Encode sequences whose items have the given vectors, float [n, length, d], to states of that shape."""
        reading = Reading.of(sequences, self.max_length, self.objective.causal)
        return self.encode(self.placed(vectors, reading), reading)

    def placed(self, vectors: Tensor, reading: Reading) -> Tensor:
        """Scale item vectors, float [n, length, d], and add what their places mean."""
        x = vectors * math.sqrt(self.d)
        return x if self.position is None else x + self.position[reading.places]

    def encode(self, x: Tensor, reading: Reading) -> Tensor:
        """Run placed vectors, float [n, length, d], through the blocks."""
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, reading)
        states: Tensor = self.norm(x)
        return states

    def table(self, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the table to train a batch with, float [n_items, d], and negatives to train it against.

        Negatives are int64 [negatives], trained items by their row, and None where the loss is to see to them.
        """
        if not (isinstance(self.loss, SampledSoftmax) and isinstance(self.item_net, ByRows)):
            return self.item_net(), None
        drawn = self.loss.draw(targets.device)
        asked = [sequences.items.flatten(), targets[targets >= 0], torch.nonzero(self.trained)[drawn, 0]]
        needed = torch.unique(torch.cat(asked))
        made = self.item_net.rows(needed)
        return made.new_zeros(len(self.trained), self.d).index_copy(0, needed, made), drawn

    def catalogue_loss(
        self, states: Tensor, table: Tensor, targets: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss of states [m, d] against targets int64 [m], over the trained items of the table.

        ``drawn`` are the negatives that `table` drew.
        """
        states, table = self.comparable(states, table[self.trained])
        if drawn is not None and isinstance(self.loss, SampledSoftmax):
            return self.loss(states, table, self.row[targets], drawn)
        return self.loss(states, table, self.row[targets])

    def comparable(self, states: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return states and table such that their inner product is the score."""
        if self.temperature is None:
            return states, table
        return normalize(states, dim=-1) / self.temperature, normalize(table, dim=-1)

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Tell the parts that ask for it that an epoch of training begins."""
        for part in self.auxiliary:
            begin = getattr(part, "begin_epoch", None)
            if begin is not None:
                begin(self, rng)

    def forward(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch (`ml.recommenders.batches.Plans`) and its number of targets."""
        return self.objective.loss(self, Sequences(*batch[:-1]), batch[-1])

    @torch.no_grad()
    def query(self, sequences: Sequences, table: Tensor) -> Tensor:
        """Return what scores the next item, float [n, d]; the mean query where there is no item."""
        asked, _ = self.comparable(self.objective.ask(self, sequences, table), table[:0])
        return torch.where((sequences.lengths > 0)[:, None], asked, self.default)

    @torch.no_grad()
    def settled(self) -> tuple[Tensor, Tensor]:
        """Return the table to read with, float [n_items, d], and the vectors to score with, float [n_items, d + 1].

        Queries end in 1. The last column is 0 for items that the item net can place. The others are zero but for that
        column: a constant below every score that a placed item can get, since a query is the output of a layer
        norm and so no longer than ``sqrt(d) * max|gain| + |bias|``, or a unit vector over the temperature.
        """
        table, placed = self.item_net.settled(self.trained)
        longest = math.sqrt(self.d) * self.norm.weight.abs().max() + self.norm.bias.norm()
        if self.temperature is not None:
            longest = torch.full_like(longest, 1 / self.temperature)
        _, scored = self.comparable(table[:0], table)
        floor = -2 * longest * scored.norm(dim=1).max()
        return table, torch.cat([scored, torch.where(placed, 0.0, floor)[:, None]], dim=1)
