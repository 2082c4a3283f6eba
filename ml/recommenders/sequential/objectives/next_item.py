"""Objectives: what a sequential recommender is trained to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ml.histories import Histories
from ml.recommenders.batches import Sequences, Windows, sliding, windows
from ml.recommenders.sequential.parts import Facts, PartParams, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network


class NextItemParams(PartParams):
    """Parameters of `NextItem`.

    Parameters
    ----------
    targets
        ``every``: each item of a window is predicted from those before it. ``last``: a window is cut for each event
        of a history, and its last state alone predicts, so that blocks may look at a whole window at once.
    """

    kind: Literal["next_item"] = "next_item"
    targets: Literal["every", "last"] = "every"

    @property
    def whole_window(self) -> bool:
        """See `PartParams.whole_window`."""
        return self.targets == "last"

    def build(self, facts: Facts) -> NextItem:
        """Make the part."""
        return NextItem(self.targets == "every")


class NextItem(nn.Module):
    """Predict what comes next.

    Parameters
    ----------
    every
        Whether every item of a window is a target, rather than the last.
    """

    causal = True

    def __init__(self, every: bool) -> None:
        super().__init__()
        self.every = every

    def windows(self, histories: Histories, max_length: int) -> Windows:
        """See `ml.recommenders.sequential.parts.Objective`."""
        return (windows if self.every else sliding)(histories, max_length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.sequential.parts.Objective`."""
        table, drawn = network.table(sequences, targets)
        states = network.states(sequences, table)
        wanted = targets >= 0
        value = network.catalogue_loss(states[wanted], table, targets[wanted], drawn)
        for auxiliary in network.auxiliary:
            value = value + auxiliary(network, sequences, targets, states, table)
        return value, wanted.sum()

    def ask(self, network: Network, sequences: Sequences, table: Tensor) -> Tensor:
        """See `ml.recommenders.sequential.parts.Objective`."""
        return last_state(network.states(sequences, table), sequences.lengths)
