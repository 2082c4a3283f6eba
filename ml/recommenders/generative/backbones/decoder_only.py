"""One stack of layers that reads a history and goes on to write an ID, as a language model does.

What is written looks back at the history's own keys and values, layer by layer; they are kept once for a user, and not
once for a hypothesis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout

from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.layers import Attention, Distances, FeedForward, ReadingLayer, chosen, grown
from ml.recommenders.generative.parts import Backbone, Facts, KeysValues, Memory, PartParams, Steps


class DecoderOnlyParams(PartParams):
    """Parameters of `DecoderOnly`.

    Parameters
    ----------
    heads, head_width, feed_forward
        Number of heads, width of a head and of the point-wise nets.
    layers
        Depth.
    within
        How the codes of one item of a history see each other: ``causal`` or ``both`` ways (RecGPT, arXiv:2506.06270).
    """

    kind: Literal["decoder_only"] = "decoder_only"
    heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=32, ge=1)
    feed_forward: int = Field(default=256, ge=1)
    layers: int = Field(default=2, ge=1)
    within: Literal["causal", "both"] = "causal"

    def build(self, facts: Facts) -> Backbone:
        """Make the part."""
        return DecoderOnly(self, facts)


class DecoderOnly(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Backbone`."""

    causal = True

    def __init__(self, params: DecoderOnlyParams, facts: Facts) -> None:
        super().__init__()
        self.both_ways, self.rate, self.per_item = params.within == "both", facts.dropout, facts.per_item
        reach = facts.length * facts.per_item + facts.levels + 1
        self.distance = Distances(params.heads, 1 - max(facts.per_item, facts.levels), reach)
        layers = [
            ReadingLayer(
                Attention(facts.d, params.heads, params.head_width),
                FeedForward(facts.d, params.feed_forward),
                self.rate,
            )
            for _ in range(params.layers)
        ]
        self.layers: Iterable[ReadingLayer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.RMSNorm(facts.d)

    def read(self, embedded: Tensor, start: Tensor, lengths: Tensor) -> Memory:
        """See `ml.recommenders.generative.parts.Backbone`."""
        n, _, per_item, d = embedded.shape
        x = torch.cat([start.expand(n, 1, d), embedded.flatten(1, 2)], dim=1)
        place = torch.arange(x.shape[1], device=x.device)
        real = place <= (lengths * per_item)[:, None]
        distance = place[:, None] - place[None, :]
        if self.both_ways:
            item = (place + per_item - 1) // per_item
            allowed = item[:, None] >= item[None, :]
        else:
            allowed = distance >= 0
        # Padding is on the right, where no real place looks.
        bias = self.distance(distance).masked_fill(~allowed, -torch.inf)[None]
        x = dropout(x, self.rate, self.training)
        kept = []
        for layer in self.layers:
            x, keys_values = layer(x, bias)
            kept.append(keys_values)
        return Memory(self.norm(x), real, lengths, per_item, kept)

    def write(self, memory: Memory, at: Tensor, x: Tensor, whole: bool = False) -> Tensor:
        """See `ml.recommenders.generative.parts.Backbone`."""
        return self.go_on(memory, at, x, None, whole)[0]

    def steps(self, memory: Memory, at: Tensor, table: CodeTable) -> Steps:
        """See `ml.recommenders.generative.parts.Backbone`."""
        return KeptSteps(self, memory, at)

    def go_on(
        self, memory: Memory, at: Tensor, x: Tensor, past: list[KeysValues] | None, whole: bool = False
    ) -> tuple[Tensor, list[KeysValues]]:
        """Do as `write`, after keys and values of earlier steps for each layer; return those of all steps, too."""
        before = past[0][0].shape[-2] if past else 0
        step = before + torch.arange(x.shape[2], device=x.device)
        own_distance = step[:, None] - torch.arange(before + x.shape[2], device=x.device)
        own_bias = self.distance(own_distance)
        if not whole:
            own_bias = own_bias.masked_fill(own_distance < 0, -torch.inf)
        place = torch.arange(memory.real.shape[1], device=x.device)
        last = (at * self.per_item)[..., None, None]
        bias = self.distance(last + 1 + step[:, None] - place).movedim(0, 1)
        # Of a hypothesis only what it continues is in sight: [n, heads, p, steps, 1 + places].
        bias = bias.masked_fill((place > last)[:, None], -torch.inf)
        x = dropout(x, self.rate, self.training)
        kept = []
        for index, layer in enumerate(self.layers):
            normed = layer.attention.norm(x)
            grew = grown(past[index] if past else None, layer.attention.keys_values(normed))
            mixed = _attend(layer.attention, normed, memory.kept[index], bias, grew, own_bias)
            x = x + dropout(mixed, self.rate, self.training)
            x = x + dropout(layer.feed(x), self.rate, self.training)
            kept.append(grew)
        return self.norm(x), kept


@dataclass(frozen=True)
class KeptSteps:
    """See `ml.recommenders.generative.parts.Steps`; ``past`` are the keys and values of what was written, by layer."""

    backbone: DecoderOnly
    memory: Memory
    at: Tensor
    past: list[KeysValues] | None = None

    @torch.no_grad()
    def write(
        self, x: Tensor, parents: Tensor | None = None, rows: Tensor | None = None
    ) -> tuple[Tensor, KeptSteps]:
        """See `ml.recommenders.generative.parts.Steps`."""
        past = self.past if self.past is None or parents is None else chosen(self.past, parents)
        states, kept = self.backbone.go_on(self.memory, self.at, x[:, :, None], past)
        return states[:, :, 0], replace(self, past=kept)


def _attend(
    attention: Attention,
    normed: Tensor,
    history: KeysValues,
    history_bias: Tensor,
    own: KeysValues,
    own_bias: Tensor,
) -> Tensor:
    """Attend to the history, shared by all hypotheses of a user, and to what each has written, in one softmax."""
    query = attention.query(normed).transpose(1, 2)  # [n, heads, hypotheses, steps, head width]
    query = query * query.shape[-1] ** -0.5
    n, heads, hypotheses, steps, _ = query.shape
    seen = (query.flatten(2, 3) @ history[0].mT).view(n, heads, hypotheses, steps, -1) + history_bias
    written = query @ own[0].transpose(1, 2).mT + own_bias[:, None]
    weights = torch.cat([seen, written], dim=-1).softmax(dim=-1)
    of_history, of_own = weights.split([seen.shape[-1], written.shape[-1]], dim=-1)
    mixed = (of_history.flatten(2, 3) @ history[1]).view(n, heads, hypotheses, steps, -1)
    mixed = mixed + of_own @ own[1].transpose(1, 2)
    return attention.join(mixed.transpose(1, 2))
