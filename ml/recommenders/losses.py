"""Losses over the catalogue, and the contrast of vectors."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from ml.recommenders.sequential.parts import Facts, PartParams

#: Rows of logits made at once: 128 x 12,000 items x 4 bytes is 6 MB.
_CHUNK = 128


class FullSoftmaxParams(PartParams):
    """Cross-entropy over every item."""

    kind: Literal["full"] = "full"

    def build(self, facts: Facts) -> FullSoftmax:
        """Make the part."""
        return FullSoftmax()


class SampledSoftmaxParams(PartParams):
    """Cross-entropy over the target and sampled negatives; see `SampledSoftmax`.

    Parameters
    ----------
    negatives
        Draws for each batch.
    draw
        ``uniform``, or ``log_uniform`` by rank of popularity.
    """

    kind: Literal["sampled"] = "sampled"
    negatives: int = Field(default=512, ge=1)
    draw: Literal["uniform", "log_uniform"] = "uniform"

    def build(self, facts: Facts) -> SampledSoftmax:
        """Make the part."""
        return SampledSoftmax(facts.counts[facts.counts > 0], self.negatives, self.draw == "log_uniform")


class BinaryParams(PartParams):
    """Binary cross-entropy of the target against items drawn for it; see `Binary`.

    Parameters
    ----------
    negatives
        Draws for each target.
    """

    kind: Literal["binary"] = "binary"
    negatives: int = Field(default=1, ge=1)

    def build(self, facts: Facts) -> Binary:
        """Make the part."""
        return Binary(self.negatives)


class FullSoftmax:
    """Cross-entropy over every row of the table."""

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """See `ml.recommenders.sequential.parts.Loss`."""
        if states.is_cuda:
            return cross_entropy(states @ table.T, targets)
        loss: Tensor = _ChunkedSoftmax.apply(states, table, targets)
        return loss


class _ChunkedSoftmax(torch.autograd.Function):
    """Mean cross-entropy, some rows at a time, on a CPU.

    All logits of a batch are tens of megabytes, which the allocator gives back and faults in anew several times a
    step; those of some rows stay in the cache. The gradient follows from the same numbers as the loss, so it is made
    at once. Under autocast the products are made in its type, the softmax in float32.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else table.dtype
        columns, total = table.to(low), states.new_zeros((), dtype=table.dtype)
        by_state, by_table = torch.empty_like(states), torch.zeros_like(table)
        with torch.autocast("cpu", enabled=False):
            for start in range(0, len(states), _CHUNK):
                rows = slice(start, start + _CHUNK)
                some, own = states[rows].to(low), targets[rows]
                logits = (some @ columns.T).to(table.dtype)
                told, top = logits.gather(1, own[:, None]), logits.amax(dim=1, keepdim=True)
                mass = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
                total += (mass.log() + top - told).sum()
                # Division by the mass and the target's own -1 go where there are few numbers: not into the shares.
                share = logits.to(low)
                by_state[rows] = (share @ columns).to(states.dtype) / mass - columns[own].to(states.dtype)
                by_table += share.T @ (some / mass).to(low)
            by_table.index_add_(0, targets, -states.to(by_table.dtype))
        ctx.save_for_backward(by_state.div_(max(len(states), 1)), by_table.div_(max(len(states), 1)))
        return total / max(len(states), 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_state, by_table = ctx.saved_tensors
        return by_state * grad, by_table * grad, None


class SampledSoftmax:
    """Cross-entropy over the target and negatives that a batch shares.

    Scores of the negatives are corrected by ``-log(negatives * q)``, q being the chance of a draw, so that their
    sum estimates the full partition function without bias (Bengio and Senecal 2008); draws of a state's own target
    are taken out.

    Parameters
    ----------
    counts
        Training events of each row of the table, int64 [n_items]: ranks for the log-uniform draw.
    negatives
        Draws, with replacement, for each batch.
    log_uniform
        Draw the r-th most popular row (from 0) with chance ``log((r + 2) / (r + 1)) / log(n + 1)``, else all alike.
    """

    def __init__(self, counts: Tensor, negatives: int, log_uniform: bool) -> None:
        self.negatives, self.log_uniform, self.n = negatives, log_uniform, len(counts)
        self.by_rank = torch.argsort(counts, descending=True, stable=True)
        rank = torch.empty_like(self.by_rank)
        rank[self.by_rank] = torch.arange(self.n, device=counts.device)
        chance = torch.log((rank + 2) / (rank + 1)) / math.log(self.n + 1)
        self.chance = chance if log_uniform else torch.full_like(chance, 1 / self.n)

    def draw(self, device: torch.device | str = "cpu") -> Tensor:
        """Draw rows of the table, int64 [negatives]."""
        self.by_rank, self.chance = self.by_rank.to(device), self.chance.to(device)
        u = torch.rand(self.negatives, device=device)
        if not self.log_uniform:
            return (u * self.n).long().clamp_(max=self.n - 1)
        return self.by_rank[(torch.exp(u * math.log(self.n + 1)) - 1).long().clamp_(max=self.n - 1)]

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor, drawn: Tensor | None = None) -> Tensor:
        """See `ml.recommenders.sequential.parts.Loss`; ``drawn`` is what `draw` gave, where it was asked before."""
        drawn = self.draw(states.device) if drawn is None else drawn
        own = (states * table[targets]).sum(dim=1, keepdim=True)
        others = states @ table[drawn].T - torch.log(self.negatives * self.chance[drawn])
        others = others.masked_fill(targets[:, None] == drawn, -torch.inf)
        first = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        return cross_entropy(torch.cat([own, others], dim=1), first)


class Binary:
    """Binary cross-entropy of each target against ``negatives`` rows drawn for it alone, uniformly.

    The loss of the SASRec paper (Kang and McAuley 2018, section III-E, with one negative), and much the weakest.
    """

    def __init__(self, negatives: int) -> None:
        self.negatives = negatives

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """See `ml.recommenders.sequential.parts.Loss`."""
        drawn = torch.randint(len(table), (len(targets), self.negatives), device=targets.device)
        own = (states * table[targets]).sum(dim=1)
        others = torch.einsum("md,mnd->mn", states, table[drawn])
        wrong = logsigmoid(-others).masked_fill(drawn == targets[:, None], 0.0)
        return -(logsigmoid(own) + wrong.sum(dim=1)).mean()


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of finding each row's partner among the rows of ``second``, both float [n, d]."""
    scores = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    return cross_entropy(scores, torch.arange(len(first), device=first.device))
