"""Selective state spaces in matrix form, the block of Mamba4Rec and SIGMA.

A head has one decay (Mamba-2: Dao and Gu, ICML 2024, arXiv:2405.21060), which turns the recurrence over a sequence
into a masked matrix product: for sequences of some hundred places that is the fastest form without a kernel of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from ml.recommenders.sequential.parts import Facts, PartParams, Reading, heads_divide

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams


class StateSpaceParams(PartParams):
    """Parameters of `StateSpace`.

    Parameters
    ----------
    heads, expand
        Heads, and their width together over d; heads divide it.
    state
        Numbers that a channel remembers.
    convolution
        Places that the short convolution before the recurrence reads.
    feed_forward
        Width of the point-wise net over d.
    kept
        Read the history a second time, turned around but for so many latest places, and a third time by a gated
        recurrent unit, and let a gate mix the three (SIGMA). Each place then sees the whole window, so it can be
        trained only where the last place alone predicts. None reads it once and sees no later place (Mamba4Rec).
    """

    kind: Literal["state_space"] = "state_space"
    heads: int = Field(default=4, ge=1)
    expand: int = Field(default=2, ge=1)
    state: int = Field(default=16, ge=1)
    convolution: int = Field(default=4, ge=1)
    feed_forward: float = Field(default=4.0, gt=0)
    kept: int | None = Field(default=None, ge=1)

    @property
    def whole_window(self) -> bool:
        """See `PartParams.whole_window`."""
        return self.kept is not None

    def check(self, whole: SequentialParams) -> None:
        """See `PartParams.check`: heads divide the inner width."""
        heads_divide(self.heads, whole.d * self.expand)

    def build(self, facts: Facts) -> StateSpace:
        """Make the part."""
        return StateSpace(facts.d, facts.dropout, self)


class StateSpace(nn.Module):
    """A selective state space, or three readings mixed by a gate, then a point-wise net, each added to what came in.

    Parameters
    ----------
    d, dropout
        Width, dropout of both branches.
    params
        The rest.
    """

    def __init__(self, d: int, dropout: float, params: StateSpaceParams) -> None:
        super().__init__()
        hidden = max(1, round(d * params.feed_forward))
        self.kept = params.kept
        self.norm_scan, self.norm_feed = nn.LayerNorm(d), nn.LayerNorm(d)
        self.forth = SelectiveScan(d, params)
        if params.kept is not None:
            self.back, self.gru = SelectiveScan(d, params), nn.GRU(d, d, batch_first=True)
            self.gate = nn.Linear(d, 3 * d)
        self.feed = nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, d))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """See `ml.recommenders.sequential.parts.Block`."""
        x = x + self.drop(self._mix(self.norm_scan(x), reading))
        mapped: Tensor = x + self.drop(self.feed(self.norm_feed(x)))
        return mapped

    def _mix(self, x: Tensor, reading: Reading) -> Tensor:
        read: Tensor = self.forth(x)
        if self.kept is None:
            return read
        turned = turned_order(reading.real, self.kept)[:, :, None].expand_as(x)
        back = self.back(x.gather(1, turned)).gather(1, turned)
        shares = self.gate(x).unflatten(2, (3, -1)).softmax(dim=2)
        mixed: Tensor = (shares * torch.stack([read, back, self.gru(x)[0]], dim=2)).sum(dim=2)
        return mixed


class SelectiveScan(nn.Module):
    """What a channel remembers and how fast it forgets is decided by what it reads (Mamba; see `scan`)."""

    def __init__(self, d: int, params: StateSpaceParams) -> None:
        super().__init__()
        self.heads, self.state, self.inner = params.heads, params.state, params.expand * d
        mixed = self.inner + 2 * self.state
        self.project = nn.Linear(d, self.inner + mixed + self.heads, bias=False)
        self.taps = nn.Parameter(torch.randn(params.convolution, mixed) / math.sqrt(params.convolution))
        # Steps start between 0.001 and 0.1 and decays between 1 and 16, evenly by logarithm and by value.
        step = torch.logspace(-3, -1, self.heads)
        self.step = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.log_decay = nn.Parameter(torch.linspace(1, 16, self.heads).log())
        self.skip = nn.Parameter(torch.ones(self.heads, 1))
        self.norm, self.out = nn.RMSNorm(self.inner), nn.Linear(self.inner, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [n, length, d] to the same shape; no place sees those after it."""
        n, length, _ = x.shape
        widths = [self.inner, self.inner + 2 * self.state, self.heads]
        gate, mixed, step = self.project(x).split(widths, dim=2)
        before = pad(mixed, (0, 0, len(self.taps) - 1, 0))
        mixed = silu(sum(before[:, k : k + length] * tap for k, tap in enumerate(self.taps)))
        u, write, read = mixed.split([self.inner, self.state, self.state], dim=2)
        u = u.view(n, length, self.heads, -1)
        step = softplus(step + self.step)
        y = scan(u * step[..., None], -self.log_decay.exp() * step, write, read) + self.skip * u
        mapped: Tensor = self.out(self.norm(y.flatten(2) * silu(gate)))
        return mapped


def scan(u: Tensor, decay: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """Return ``y[i] = read[i] . h[i]`` of the recurrence ``h[i] = exp(decay[i]) h[i - 1] + write[i] u[i]``.

    Parameters
    ----------
    u
        float [n, length, heads, width], what is written.
    decay
        float [n, length, heads], at most 0.
    write, read
        float [n, length, state], the same for every head.

    Returns
    -------
    float [n, length, heads, width]; cost grows with the square of the length.
    """
    length = u.shape[1]
    total = decay.cumsum(dim=1).transpose(1, 2)
    past = torch.ones(length, length, dtype=torch.bool, device=u.device).tril()
    # What was written at j has decayed by the decays after j up to i: their sum is at most 0, so nothing overflows.
    survived = (total[..., :, None] - total[..., None, :]).masked_fill(~past, -torch.inf).exp()
    weights = survived * (read @ write.transpose(1, 2))[:, None]
    return (weights @ u.transpose(1, 2)).transpose(1, 2)


def turned_order(real: Tensor, kept: int) -> Tensor:
    """Return the order that turns each sequence around but for its ``kept`` latest places, int64 [n, length].

    Its own inverse; padding stays where it is.
    """
    column = torch.arange(real.shape[1], device=real.device)
    turned = (real.sum(dim=1, keepdim=True) - kept).clamp(min=0)
    return torch.where(column < turned, turned - 1 - column, column)
