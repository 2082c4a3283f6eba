"""Self-attention asked by single items and by stretches of items, the block of MQSA-TED."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ml.recommenders.sequential.parts import Facts, PartParams, Reading, heads_divide

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams


class MultiQueryParams(PartParams):
    """Parameters of `MultiQuery`.

    Parameters
    ----------
    heads
        Attention heads; they divide d.
    feed_forward
        Width of the point-wise net over d.
    window
        Items of a long query: the place itself and those before it.
    short
        Share of short queries, of one item, in the mix; 1 leaves plain self-attention.
    """

    kind: Literal["multi_query"] = "multi_query"
    heads: int = Field(default=1, ge=1)
    feed_forward: float = Field(default=1.0, gt=0)
    window: int = Field(default=3, ge=1)
    short: float = Field(default=0.5, ge=0, le=1)

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: heads divide d."""
        heads_divide(self.heads, whole.d)

    def build(self, facts: Facts) -> MultiQuery:
        """Make the part."""
        hidden = max(1, round(facts.d * self.feed_forward))
        return MultiQuery(facts.d, self.heads, hidden, facts.dropout, self.window, self.short)


class MultiQuery(nn.Module):
    """Two self-attentions side by side, mixed: one is asked by each item, one by the mean of its last few.

    Zhu et al., "Collaboration and Transition: Distilling Item Transitions into Multi-Query Self-Attention for
    Sequential Recommendation" (WSDM 2024, arXiv:2311.01056). The paper mixes the scores of two stacks, which is this
    with one block, but for a layer norm over the mix.

    Parameters
    ----------
    d, heads, hidden, dropout
        Width, attention heads, width of the point-wise nets, dropout on both branches and on attention.
    window, short
        See `MultiQueryParams`.
    """

    def __init__(self, d: int, heads: int, hidden: int, dropout: float, window: int, short: float) -> None:
        super().__init__()
        self.share = short
        self.short = QueryAttention(d, heads, hidden, dropout, 1)
        self.long = QueryAttention(d, heads, hidden, dropout, window)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        mixed: Tensor = self.share * self.short(x, reading) + (1 - self.share) * self.long(x, reading)
        return mixed


class QueryAttention(nn.Module):
    """Self-attention whose queries are means of ``window`` items, then a point-wise net; layer norm ends it."""

    def __init__(self, d: int, heads: int, hidden: int, dropout: float, window: int) -> None:
        super().__init__()
        self.heads, self.dropout, self.window = heads, dropout, window
        self.norm_query, self.norm_attend, self.norm_feed = (nn.LayerNorm(d) for _ in range(3))
        self.query, self.keys_values = nn.Linear(d, d), nn.Linear(d, 2 * d)
        self.feed = nn.Sequential(
            *(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, d), nn.Dropout(dropout))
        )

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        n, length, d = x.shape
        asking = self.norm_query(window_means(x, self.window))
        q = self.query(asking).view(n, length, self.heads, -1).transpose(1, 2)
        k, v = self.keys_values(x).view(n, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(
            *(q, k, v),
            # Padding is on the right: where only the past is seen, no real place sees it.
            attn_mask=None if reading.causal else reading.real[:, None, None],
            is_causal=reading.causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        x = self.norm_attend(asking + mixed.transpose(1, 2).reshape(n, length, d))
        mapped: Tensor = self.norm_feed(x + self.feed(x))
        return mapped


def window_means(x: Tensor, window: int) -> Tensor:
    """Return the mean of each place and the ``window - 1`` before it, fewer at the start; float [n, length, d]."""
    length = x.shape[1]
    total = x
    for back in range(1, min(window, length)):
        total = total + pad(x[:, :-back], (0, 0, back, 0))
    count = torch.arange(1, length + 1, device=x.device).clamp(max=window)
    return total / count[:, None]
