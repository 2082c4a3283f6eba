"""Self-attention with gated residuals, the block of LiGR (Borisyuk et al. 2025, arXiv:2502.03417)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.sequential.blocks.attention import Attention
from ml.recommenders.sequential.parts import Facts, PartParams, Reading, heads_divide

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams


class GatedAttentionParams(PartParams):
    """Parameters of `GatedAttention`.

    Parameters
    ----------
    heads
        Attention heads; they divide d.
    feed_forward
        Width of the point-wise net over d.
    """

    kind: Literal["gated_attention"] = "gated_attention"
    heads: int = Field(default=1, ge=1)
    feed_forward: float = Field(default=4.0, gt=0)

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: heads divide d."""
        heads_divide(self.heads, whole.d)

    def build(self, facts: Facts) -> GatedAttention:
        """Make the part."""
        return GatedAttention(facts.d, self.heads, max(1, round(facts.d * self.feed_forward)), facts.dropout)


class GatedAttention(Attention):
    """Self-attention, then a point-wise net; how much of each is added, what came in decides by channel.

    Parameters
    ----------
    d, heads, hidden, dropout
        See `Attention`, of which this is the variant that normalises what enters a branch.
    """

    def __init__(self, d: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(d, heads, hidden, dropout, pre_norm=True)
        self.gate_attend, self.gate_feed = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        x = x + self.gate_attend(x).sigmoid() * self.drop(self._attend(self.norm_attend(x), reading))
        mapped: Tensor = x + self.gate_feed(x).sigmoid() * self.drop(self.feed(self.norm_feed(x)))
        return mapped
