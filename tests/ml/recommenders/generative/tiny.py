"""What tests of generative recommenders share."""

from __future__ import annotations

import torch
from torch import nn

from ml.histories import Histories
from ml.recommenders.batches import Sequences


def shake(network: nn.Module) -> None:
    """Move every parameter from its start: what begins at zero would hide what a part does."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


def read(*rows: list[int], length: int = 5) -> Sequences:
    """Return histories of these items as a batch."""
    return Sequences.of(Histories.of(list(rows)), length)
