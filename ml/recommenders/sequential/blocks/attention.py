"""Self-attention, the block of SASRec (Kang and McAuley, ICDM 2018, section III-B)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ml.recommenders.sequential.parts import Facts, PartParams, Reading, heads_divide

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams


class AttentionParams(PartParams):
    """Parameters of `Attention`.

    Parameters
    ----------
    heads
        Attention heads; they divide d.
    feed_forward
        Width of the point-wise net over d.
    pre_norm
        Normalise what enters a branch (Kang and McAuley 2018) or the sum that leaves it (Vaswani et al. 2017).
    """

    kind: Literal["attention"] = "attention"
    heads: int = Field(default=1, ge=1)
    feed_forward: float = Field(default=1.0, gt=0)
    pre_norm: bool = True

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: heads divide d."""
        heads_divide(self.heads, whole.d)

    def build(self, facts: Facts) -> Attention:
        """Make the part."""
        hidden = max(1, round(facts.d * self.feed_forward))
        return Attention(facts.d, self.heads, hidden, facts.dropout, self.pre_norm)


class Attention(nn.Module):
    """Self-attention, then a point-wise net, each added to what came in.

    Parameters
    ----------
    d, heads, hidden, dropout
        Width, attention heads, width of the point-wise net, dropout on both branches and on attention.
    pre_norm
        See `AttentionParams`.
    """

    def __init__(self, d: int, heads: int, hidden: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.pre_norm = heads, dropout, pre_norm
        self.norm_attend, self.norm_feed = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.feed = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, d))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        if self.pre_norm:
            x = x + self.drop(self._attend(self.norm_attend(x), reading))
            return x + self.drop(self.feed(self.norm_feed(x)))
        x = self.norm_attend(x + self.drop(self._attend(x, reading)))
        mapped: Tensor = self.norm_feed(x + self.drop(self.feed(x)))
        return mapped

    def _attend(self, x: Tensor, reading: Reading) -> Tensor:
        n, length, d = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(
            *(q, k, v),
            # Padding is on the right: where only the past is seen, no real place sees it.
            attn_mask=None if reading.causal else reading.real[:, None, None],
            is_causal=reading.causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, d))
        return attended
