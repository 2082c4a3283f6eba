"""Gated recurrent unit, the block of GRU4Rec (Hidasi et al., ICLR 2016, arXiv:1511.06939)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ml.recommenders.sequential.parts import Facts, PartParams, Reading


class RecurrentParams(PartParams):
    """Parameters of `Recurrent`: none."""

    kind: Literal["recurrent"] = "recurrent"

    def build(self, facts: Facts) -> Recurrent:
        """Make the part."""
        return Recurrent(facts.d, facts.dropout)


class Recurrent(nn.Module):
    """One layer of gated recurrent units, which reads from the first place on."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__()
        self.gru, self.drop = nn.GRU(d, d, batch_first=True), nn.Dropout(dropout)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`; padding is on the right, so no real place reads it."""
        states: Tensor = self.drop(self.gru(x)[0])
        return states
