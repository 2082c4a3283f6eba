"""Fill in the blanks: the objective of BERT4Rec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.histories import Histories
from ml.recommenders.batches import Sequences, Windows, windows
from ml.recommenders.sequential.parts import Facts, PartParams, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams
    from ml.recommenders.sequential.network import Network


class ClozeParams(PartParams):
    """Parameters of `Cloze`.

    Parameters
    ----------
    masked
        Chance of each item to be hidden; every window hides one at least.
    last_only
        Share of windows that hide their last item and no other, as the question that is asked later does.
    """

    kind: Literal["cloze"] = "cloze"
    masked: float = Field(default=0.2, gt=0, lt=1)
    last_only: float = Field(default=0.1, ge=0, le=1)

    @property
    def whole_window(self) -> bool:
        """See `PartParams.whole_window`: hidden items are not in what is read."""
        return True

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: the mask takes a place, and its states are for nothing else."""
        if whole.max_length < 2:
            raise ValueError("max_length must be 2 or more: the mask of a cloze takes a place")
        for part in whole.auxiliary:
            if part.reads_sequences:
                raise ValueError(f"auxiliary {part.kind} needs states that saw no mask: not those of a cloze")

    def build(self, facts: Facts) -> Cloze:
        """Make the part."""
        return Cloze(facts.d, self.masked, self.last_only)


class Cloze(nn.Module):
    """Tell hidden items from those on both sides.

    Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer"
    (CIKM 2019, arXiv:1904.06690, sections 3.5 and 3.6), without its projection before the scores. A learned vector
    stands where an item is hidden; after the last item it asks for the next one. The mask takes one of ``max_length``
    places. Time and type of a window's last event are those of the one before it, hidden or not: when it is asked for,
    they are not known.

    Parameters
    ----------
    d
        Width.
    masked, last_only
        See `ClozeParams`.
    """

    causal = False

    def __init__(self, d: int, masked: float, last_only: float) -> None:
        super().__init__()
        self.masked, self.last_only = masked, last_only
        self.mask = nn.Parameter(torch.randn(d) * 0.02)

    def windows(self, histories: Histories, max_length: int) -> Windows:
        """Cut windows of ``max_length`` items, the last of them being the target of the one before."""
        return windows(histories, max_length - 1)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.sequential.parts.Objective`."""
        table = network.item_net()
        whole = extended(sequences, last_state(targets[..., None], sequences.lengths)[:, 0])
        hidden = self.hide(whole)
        states = self.states(network, whole, hidden, table)
        value = network.catalogue_loss(states[hidden], table, whole.items[hidden])
        for auxiliary in network.auxiliary:
            value = value + auxiliary(network, whole, torch.where(hidden, whole.items, -1), states, table)
        return value, hidden.sum()

    def hide(self, sequences: Sequences) -> Tensor:
        """Draw what to hide, bool [n, length]."""
        real, device = sequences.real, sequences.items.device
        chance = torch.rand(real.shape, device=device).masked_fill(~real, 2.0)
        hidden = chance < self.masked
        hidden |= ~hidden.any(dim=1, keepdim=True) & (chance == chance.amin(dim=1, keepdim=True))
        last = torch.arange(real.shape[1], device=device) == sequences.lengths[:, None] - 1
        only = torch.rand(len(real), 1, device=device) < self.last_only
        return torch.where(only, last, hidden)

    def states(self, network: Network, sequences: Sequences, hidden: Tensor, table: Tensor) -> Tensor:
        """Encode sequences of which some items are hidden; float [n, length, d]."""
        return network.read(torch.where(hidden[..., None], self.mask, table[sequences.items]), sequences)

    def ask(self, network: Network, sequences: Sequences, table: Tensor) -> Tensor:
        """See `ml.recommenders.sequential.parts.Objective`."""
        asked = extended(latest(sequences, network.max_length - 1), torch.zeros_like(sequences.lengths))
        last = torch.arange(asked.items.shape[1], device=asked.items.device) == asked.lengths[:, None] - 1
        return last_state(self.states(network, asked, last, table), asked.lengths)


def extended(sequences: Sequences, items: Tensor) -> Sequences:
    """Append an item, int64 [n], to every sequence; it takes time and type of the one before it."""
    length = sequences.items.shape[1]
    last = torch.arange(length + 1, device=items.device) == sequences.lengths[:, None]

    def appended(column: Tensor, value: Tensor) -> Tensor:
        return torch.where(last, value[:, None], nn.functional.pad(column, (0, 1)))

    times, types = (last_state(column, sequences.lengths) for column in (sequences.times, sequences.types))
    return Sequences(
        appended(sequences.items, items),
        sequences.lengths + 1,
        appended(sequences.times, times),
        appended(sequences.types, types),
    )


def latest(sequences: Sequences, most: int) -> Sequences:
    """Keep the last ``most`` items of every sequence."""
    lengths = sequences.lengths.clamp(max=most)
    width = min(most, sequences.items.shape[1])
    columns = torch.arange(width, device=lengths.device)
    index = (sequences.lengths - lengths)[:, None] + columns
    real = columns < lengths[:, None]

    def kept(column: Tensor) -> Tensor:
        return torch.where(real, column.gather(1, torch.where(real, index, 0)), 0)

    return Sequences(kept(sequences.items), lengths, kept(sequences.times), kept(sequences.types))
