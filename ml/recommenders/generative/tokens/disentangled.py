"""Codes read, and written, in two branches: what a code means alone, and what it means within its item.

DiscRec (Liu et al., 2025, arXiv:2506.15576): the semantic branch is the embedding of a code; the collaborative branch adds
the place that the code has in its ID and lets the codes of one item, and of no other, attend to each other; a gate for each
code says how much of either goes into the network. The authors' code does so in the encoder and, causally and with weights
of its own, in the decoder; so does this.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.layers import Attention, FeedForward, ReadingLayer
from ml.recommenders.generative.parts import Facts, PartParams, Tokens


class DisentangledTokensParams(PartParams):
    """Parameters of `DisentangledTokens`.

    Parameters
    ----------
    positions
        Add to a code, in the collaborative branch, an embedding of its place in the ID. What is written knows its place
        in both branches without it: the decoder has no other way to tell steps apart.
    branch
        Whether there is a collaborative branch; without it a code is its embedding, plus that of its place.
    gate
        Weigh the branches anew for each code; without it both count half.
    heads, head_width, feed_forward
        Of the layer of the collaborative branch.
    """

    kind: Literal["disentangled"] = "disentangled"
    positions: bool = True
    branch: bool = True
    gate: bool = True
    heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=32, ge=1)
    feed_forward: int = Field(default=128, ge=1)

    def per_item(self, levels: int) -> int:
        """Return the places of an item of so many codes."""
        return levels

    def build(self, facts: Facts) -> Tokens:
        """Make the part."""
        return DisentangledTokens(self, facts)


class DisentangledTokens(nn.Module):
    """See the module, `ml.recommenders.generative.parts.Tokens` and `ml.recommenders.generative.parts.WritingTokens`."""

    def __init__(self, params: DisentangledTokensParams, facts: Facts) -> None:
        super().__init__()
        self.per_item = facts.per_item
        self.reading = TwoBranches(params, facts, facts.per_item, causal=False)
        self.writing = TwoBranches(params, facts, facts.levels, causal=True)

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`."""
        fused: Tensor = self.reading(table.embed(table.rows(sequences.items)))
        return fused

    def written(self, x: Tensor) -> Tensor:
        """See `ml.recommenders.generative.parts.WritingTokens`."""
        fused: Tensor = self.writing(x)
        return fused


class TwoBranches(nn.Module):
    """Fuse embeddings of the codes of items, float [..., up to places, d], with what their item makes of them."""

    def __init__(self, params: DisentangledTokensParams, facts: Facts, places: int, causal: bool) -> None:
        super().__init__()
        self.causal, self.heads = causal, params.heads
        self.place = nn.Parameter(facts.d**-0.5 * torch.randn(places, facts.d)) if params.positions else None
        self.layer = self.gate = None
        if params.branch:
            attention = Attention(facts.d, params.heads, params.head_width)
            self.layer = ReadingLayer(attention, FeedForward(facts.d, params.feed_forward), facts.dropout)
            # Zeros: training begins with both branches alike.
            self.gate = nn.Parameter(torch.zeros(2, facts.d)) if params.gate else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., steps, d] to the same shape."""
        placed = x if self.place is None else x + self.place[: x.shape[-2]]
        if self.layer is None:
            return placed
        bias = x.new_zeros(1, 1, x.shape[-2], x.shape[-2])
        if self.causal:
            bias = bias.masked_fill(torch.ones_like(bias, dtype=torch.bool).triu(1), -torch.inf)
        collaborative, _ = self.layer(placed.flatten(0, -3), bias)
        both = torch.stack([x, collaborative.view_as(x)], dim=-2)
        if self.gate is None:
            return both.mean(dim=-2)
        shares = (both * self.gate).sum(dim=-1, keepdim=True).softmax(dim=-2)
        return (shares * both).sum(dim=-2)
