"""Hierarchical sequential transduction unit, the block of HSTU (Zhai et al., ICML 2024, arXiv:2402.17152)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from ml.recommenders.sequential.parts import Facts, PartParams, Reading, heads_divide

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams

#: Buckets of the time between two events; they grow by a factor of e^0.301, so that the last begins at 34 years.
_BUCKETS, _LOG_STEP = 70, 0.301


class HstuParams(PartParams):
    """Parameters of `Hstu`.

    Parameters
    ----------
    heads
        Attention heads; they divide d.
    dropout
        Of what the block adds; None for that of the network.
    times
        Whether attention knows how long ago a place was, beside how many places ago.
    """

    kind: Literal["hstu"] = "hstu"
    heads: int = Field(default=2, ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    times: bool = True

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: heads divide d."""
        heads_divide(self.heads, whole.d)

    def build(self, facts: Facts) -> Hstu:
        """Make the part."""
        dropout = facts.dropout if self.dropout is None else self.dropout
        return Hstu(facts.d, self.heads, dropout, facts.max_length, self.times)


class Hstu(nn.Module):
    """Attention whose weights are ``silu(score)`` each for itself, gated by the place that reads.

    Scores carry a learned bias by distance in places and in time. Time is told up to the place that reads, never up to
    the event to predict. The paper's constant in front of the weights is left out: a layer norm follows.

    Parameters
    ----------
    d, heads, dropout
        Width, attention heads, dropout of what is added.
    max_length
        Most places.
    times
        See `HstuParams`.
    """

    def __init__(self, d: int, heads: int, dropout: float, max_length: int, times: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d)
        self.uvqk, self.out = nn.Linear(d, 4 * d, bias=False), nn.Linear(d, d)
        self.by_place = nn.Parameter(torch.randn(2 * max_length - 1) * 0.02)
        self.by_time = nn.Parameter(torch.randn(_BUCKETS, 1) * 0.02) if times else None
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        n, length, d = x.shape
        u, v, q, k = silu(self.uvqk(self.norm_in(x))).chunk(4, dim=2)
        v, q, k = (part.view(n, length, self.heads, -1).transpose(1, 2) for part in (v, q, k))
        weights = silu(q @ k.transpose(2, 3) + self._bias(reading)[:, None])
        weights = weights.masked_fill(~_seen(reading)[:, None], 0.0)
        attended = self.norm_out((weights @ v).transpose(1, 2).reshape(n, length, d))
        added: Tensor = self.out(self.drop(u * attended))
        return x + added

    def _bias(self, reading: Reading) -> Tensor:
        """Return float [n or 1, length, length]."""
        place = torch.arange(reading.real.shape[1], device=self.by_place.device)
        apart = place[:, None] - place + len(self.by_place) // 2
        bias = self.by_place[apart][None]
        if self.by_time is None:
            return bias
        return bias + embedding(time_buckets(reading.times), self.by_time)[..., 0]


def time_buckets(times: Tensor) -> Tensor:
    """Return the bucket of the time between every two places, int64 [n, length, length], of microseconds."""
    seconds = (times[:, :, None] - times[:, None]).abs().float() / 1e6
    return (torch.log1p(seconds) / _LOG_STEP).long().clamp(max=_BUCKETS - 1)


def _seen(reading: Reading) -> Tensor:
    """Return which places (last axis) each place reads, bool [n or 1, length, length]."""
    if not reading.causal:
        return reading.real[:, None]
    length = reading.real.shape[1]
    return torch.ones(1, length, length, dtype=torch.bool, device=reading.real.device).tril()
