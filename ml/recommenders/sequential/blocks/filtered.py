"""Self-attention beside a frequency filter, the block of BSARec (Shin et al., AAAI 2024, arXiv:2312.10325)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.sequential.blocks.attention import Attention
from ml.recommenders.sequential.parts import Facts, PartParams, Reading, heads_divide

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams


class FilteredAttentionParams(PartParams):
    """Parameters of `FilteredAttention`.

    Parameters
    ----------
    heads
        Attention heads; they divide d.
    feed_forward
        Width of the point-wise net over d.
    alpha
        Share of the filter; the rest is attention's.
    frequencies
        Lowest frequencies that count as slow, the mean among them: ``c // 2 + 1`` of the paper's c.
    causal
        A place sees what the filter makes of the window that ends there, so that every place can be trained. False is
        the paper's filter, through which each place of the window sees all others: it can be trained only where the
        last place alone predicts, on one window for each event.
    """

    kind: Literal["filtered_attention"] = "filtered_attention"
    heads: int = Field(default=1, ge=1)
    feed_forward: float = Field(default=4.0, gt=0)
    alpha: float = Field(default=0.7, ge=0, le=1)
    frequencies: int = Field(default=3, ge=1)
    causal: bool = True

    @property
    def whole_window(self) -> bool:
        """See `PartParams.whole_window`."""
        return not self.causal

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: heads divide d."""
        heads_divide(self.heads, whole.d)

    def build(self, facts: Facts) -> FilteredAttention:
        """Make the part."""
        hidden = max(1, round(facts.d * self.feed_forward))
        operator = low_pass(facts.max_length, self.frequencies)
        if self.causal:
            operator = operator.tril()
        return FilteredAttention(facts.d, self.heads, hidden, facts.dropout, self.alpha, operator)


class FilteredAttention(Attention):
    """Mix self-attention with a low-pass filter whose remainder is scaled by channel, then a point-wise net.

    Parameters
    ----------
    d, heads, hidden, dropout
        See `Attention`, of which this is the variant that normalises sums.
    alpha
        Share of the filter.
    operator
        float [max_length, max_length], what the filter does to a window of full length, place by place. A shorter
        history is one whose missing places hold zeros.
    """

    operator: Tensor

    def __init__(
        self, d: int, heads: int, hidden: int, dropout: float, alpha: float, operator: Tensor
    ) -> None:
        super().__init__(d, heads, hidden, dropout, pre_norm=False)
        self.feed[1] = nn.GELU()
        self.alpha, self.norm_filter = alpha, nn.LayerNorm(d)
        self.root_beta = nn.Parameter(torch.randn(d))
        self.register_buffer("operator", operator, persistent=False)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        attended = self.norm_attend(x + self.drop(self._attend(x, reading)))
        filtered = self.norm_filter(x + self.drop(self._filter(x, reading.real)))
        x = self.alpha * filtered + (1 - self.alpha) * attended
        mapped: Tensor = self.norm_feed(x + self.drop(self.feed(x)))
        return mapped

    def _filter(self, x: Tensor, real: Tensor) -> Tensor:
        x = torch.where(real[:, :, None], x, 0.0)
        # The filter depends on the distance of two places alone, so one corner of it serves sequences of any length.
        slow = self.operator[: x.shape[1], : x.shape[1]] @ x
        return slow + self.root_beta.square() * (x - slow)


def low_pass(length: int, frequencies: int) -> Tensor:
    """Return the map that keeps the lowest frequencies of the discrete Fourier transform.

    Returns
    -------
    float32 [length, length], symmetric and circulant: row i gives place i of the filtered sequence. Its lower triangle
    gives each place what the filter of the window that ends there gives to its last place.
    """
    kept = (torch.arange(length // 2 + 1) < frequencies).to(torch.complex64)
    response = torch.fft.irfft(kept, n=length)
    place = torch.arange(length)
    return response[(place[:, None] - place).abs()]
