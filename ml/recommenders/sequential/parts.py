"""Parts of a sequential recommender, by role: item nets, blocks and losses that a recipe can swap."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention


class ItemNet(Protocol):
    """Item index to vector; its table is both the input and the output of the model (tied weights)."""

    def __call__(self) -> Tensor:
        """Return the table to train, float [n_items, d]."""
        ...

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """Return the table to answer with and which of its rows mean anything.

        Parameters
        ----------
        trained
            bool [n_items], items with a training event: the others still have their random start.

        Returns
        -------
        float [n_items, d], zeros where it means nothing, and bool [n_items].
        """
        ...


class IdEmbedding(nn.Module):
    """A free vector for every item."""

    def __init__(self, n_items: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_items, d) * 0.02)

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        return self.weight

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: only trained items mean anything."""
        return torch.where(trained[:, None], self.weight, 0.0), trained


class IdAndVectors(nn.Module):
    """A free vector plus a linear map of what the catalogue knows, so that a new item has a place at once.

    Parameters
    ----------
    vectors
        float32 [n_items, width]; belongs to the catalogue and is not saved with the weights.
    """

    vectors: Tensor

    def __init__(self, n_items: int, d: int, vectors: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_items, d) * 0.02)
        self.project = nn.Linear(vectors.shape[1], d, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        projected: Tensor = self.project(self.vectors)
        return self.weight + projected

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: an untrained item with a vector gets the mean free vector of trained items."""
        mean = self.weight[trained].mean(dim=0)
        table = torch.where(trained[:, None], self.weight, mean) + self.project(self.vectors)
        placed = trained | (self.vectors != 0).any(dim=1)
        return torch.where(placed[:, None], table, 0.0), placed


class Block(nn.Module):
    """Causal self-attention, then a point-wise net, each added to what came in.

    Sequences are padded on the right, so the causal mask alone keeps padding out of every real position.

    Parameters
    ----------
    d, heads, hidden, dropout
        Width, attention heads, width of the point-wise net, dropout on both branches and on attention.
    pre_norm
        Normalise what enters a branch (Kang and McAuley 2018) or the sum that leaves it (Vaswani et al. 2017).
    """

    def __init__(self, d: int, heads: int, hidden: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.pre_norm = heads, dropout, pre_norm
        self.norm_attend, self.norm_feed = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.feed = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, d))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [n, length, d] to the same shape."""
        if self.pre_norm:
            x = x + self.drop(self._attend(self.norm_attend(x)))
            return x + self.drop(self.feed(self.norm_feed(x)))
        x = self.norm_attend(x + self.drop(self._attend(x)))
        mapped: Tensor = self.norm_feed(x + self.drop(self.feed(x)))
        return mapped

    def _attend(self, x: Tensor) -> Tensor:
        n, length, d = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        attended: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, d))
        return attended


class Loss(Protocol):
    """How far the states are from their targets."""

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss: states [m, d], table [n_items, d], targets int64 [m] (rows of the table)."""
        ...


class FullSoftmax:
    """Cross-entropy over every row of the table."""

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """See `Loss`."""
        return cross_entropy(states @ table.T, targets)


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

    def draw(self) -> Tensor:
        """Draw rows of the table, int64 [negatives]."""
        u = torch.rand(self.negatives, device=self.by_rank.device)
        if not self.log_uniform:
            return (u * self.n).long().clamp_(max=self.n - 1)
        return self.by_rank[(torch.exp(u * math.log(self.n + 1)) - 1).long().clamp_(max=self.n - 1)]

    def __call__(self, states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """See `Loss`."""
        drawn = self.draw()
        own = (states * table[targets]).sum(dim=1, keepdim=True)
        others = states @ table[drawn].T - torch.log(self.negatives * self.chance[drawn])
        others = others.masked_fill(targets[:, None] == drawn, -torch.inf)
        first = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        return cross_entropy(torch.cat([own, others], dim=1), first)
