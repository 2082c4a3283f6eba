"""An encoder that reads a history and a decoder that writes an ID, after T5 and TIGER (Rajput et al. 2023).

With the paper's settings it computes what T5 computes. Where T5's encoder reads a history in both directions and so must
read it again for every target, ``causal`` lets one reading serve a target after every item: a training epoch costs about
a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout, pad, scaled_dot_product_attention

from ml.recommenders.generative.backbones.inference import Folded, FoldedSteps, fold, version
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.layers import (
    Attention,
    Distances,
    FeedForward,
    ReadingLayer,
    RoutedFeedForward,
)
from ml.recommenders.generative.parts import Backbone, Facts, KeysValues, Memory, PartParams, Steps


class EncoderDecoderParams(PartParams):
    """Parameters of `EncoderDecoder`.

    Parameters
    ----------
    heads, head_width, feed_forward
        Number of heads, width of a head and of the point-wise nets.
    encoder_layers, decoder_layers
        Depth.
    causal
        See the module.
    feed
        Whether all places share a point-wise net, or each place of an item has one of its own
        (`ml.recommenders.generative.layers.RoutedFeedForward`).
    within
        How the places of one item of a history see each other: ``both`` ways, or not at all and all at one distance,
        ``none``, so that an item is a set (SETRec, arXiv:2502.10833).
    """

    kind: Literal["encoder_decoder"] = "encoder_decoder"
    heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=32, ge=1)
    feed_forward: int = Field(default=128, ge=1)
    encoder_layers: int = Field(default=1, ge=0)
    decoder_layers: int = Field(default=1, ge=0)
    causal: bool = True
    feed: Literal["shared", "by_position"] = "shared"
    within: Literal["both", "none"] = "both"

    def build(self, facts: Facts) -> Backbone:
        """Make the part."""
        return EncoderDecoder(self, facts)


class WritingLayer(nn.Module):
    """Self-attention over the codes so far, attention to the history, the point-wise net."""

    def __init__(
        self, own: Attention, cross: Attention, feed: Callable[[Tensor], Tensor], rate: float
    ) -> None:
        super().__init__()
        self.self_attention, self.cross_attention, self.feed, self.rate = own, cross, feed, rate

    def forward(self, x: Tensor, own_bias: Tensor, memory: KeysValues, memory_bias: Tensor) -> Tensor:
        """Write codes of many hypotheses of each user at once.

        Parameters
        ----------
        x
            float [n, hypotheses, steps, d].
        own_bias
            [heads, steps, steps].
        memory
            Keys and values of the history, [n, heads, places, head width].
        memory_bias
            Broadcasts to [n, heads, hypotheses * steps, places].

        Returns
        -------
        The new states.
        """
        n, hypotheses, steps, _ = x.shape
        own, cross = self.self_attention, self.cross_attention
        normed = own.norm(x)
        mixed = own.attend(own.query(normed), *own.keys_values(normed), own_bias)
        x = x + dropout(mixed, self.rate, self.training)
        query = cross.query(cross.norm(x).flatten(1, 2))
        mixed = cross.join(scaled_dot_product_attention(query, *memory, attn_mask=memory_bias))
        x = x + dropout(mixed.view(n, hypotheses, steps, -1), self.rate, self.training)
        return x + dropout(self.feed(x), self.rate, self.training)


class EncoderDecoder(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Backbone`."""

    def __init__(self, params: EncoderDecoderParams, facts: Facts) -> None:
        super().__init__()
        self.causal, self.rate = params.causal, facts.dropout
        self.per_item, self.sets = facts.per_item, params.within == "none"
        reach = facts.length * facts.per_item
        self.encoder_distance = Distances(params.heads, -reach, reach)
        self.decoder_distance = Distances(params.heads, 1 - facts.levels, facts.levels - 1)
        self.cross_distance = Distances(params.heads, 0, reach - 1)

        def attention() -> Attention:
            return Attention(facts.d, params.heads, params.head_width)

        def feed(per_item: int) -> FeedForward | RoutedFeedForward:
            if params.feed == "by_position":
                return RoutedFeedForward(facts.d, params.feed_forward, per_item)
            return FeedForward(facts.d, params.feed_forward)

        encoder = [
            ReadingLayer(attention(), feed(facts.per_item), self.rate) for _ in range(params.encoder_layers)
        ]
        decoder = [
            WritingLayer(attention(), attention(), feed(facts.levels), self.rate)
            for _ in range(params.decoder_layers)
        ]
        self.encoder: Iterable[ReadingLayer] = nn.ModuleList(encoder)  # type: ignore[assignment]
        self.decoder: Iterable[WritingLayer] = nn.ModuleList(decoder)  # type: ignore[assignment]
        self.encoder_norm, self.decoder_norm = nn.RMSNorm(facts.d), nn.RMSNorm(facts.d)
        self._folded: tuple[object, tuple[Folded, ...]] | None = None

    def train(self, mode: bool = True) -> EncoderDecoder:
        """As of any module; what training may change is folded anew."""
        if mode:
            # Fused optimizers do not count their changes.
            self._folded = None
        return super().train(mode)

    def read(self, embedded: Tensor, start: Tensor, lengths: Tensor) -> Memory:
        """See `ml.recommenders.generative.parts.Backbone`."""
        n, length, per_item, d = embedded.shape
        x = torch.cat([start.expand(n, 1, d), embedded.flatten(1, 2)], dim=1)
        real = torch.arange(1 + length * per_item, device=x.device) <= (lengths * per_item)[:, None]
        bias = self._encoder_bias(real)
        x = dropout(x, self.rate, self.training)
        for layer in self.encoder:
            x, _ = layer(x, bias)
        states = self.encoder_norm(x)
        # What goes step by step looks up in another way.
        kept = self._kept(states) if torch.is_grad_enabled() else []
        return Memory(states, real, lengths, per_item, kept)

    def write(self, memory: Memory, at: Tensor, x: Tensor, whole: bool = False) -> Tensor:
        """See `ml.recommenders.generative.parts.Backbone`."""
        own = self._own_bias(x.shape[2], whole)
        cross = self._cross_bias(memory, at)
        if at.shape[1] > 1:
            cross = cross.repeat_interleave(x.shape[2], dim=2)
        x = dropout(x, self.rate, self.training)
        for layer, kept in zip(self.decoder, memory.kept or self._kept(memory.states), strict=True):
            x = layer(x, own, kept, cross)
        states: Tensor = self.decoder_norm(x)
        return states

    @torch.no_grad()
    def steps(self, memory: Memory, at: Tensor, table: CodeTable) -> Steps:
        """See `ml.recommenders.generative.parts.Backbone`."""
        layers = self._folded_layers(table)
        back = torch.arange(self.decoder_distance.most + 1, device=at.device)
        return FoldedSteps(
            layers,
            tuple(layer.look(memory.states) for layer in layers),
            self._cross_bias(memory, at).contiguous(),
            self.decoder_distance(back),
            self.decoder_norm,
        )

    def _folded_layers(self, table: CodeTable) -> tuple[Folded, ...]:
        """Return the decoder's weights folded; once, as long as they do not change."""
        found = version(self.decoder), version(table)  # type: ignore[arg-type]
        if self._folded is None or self._folded[0] != found:
            self._folded = found, fold(self.decoder, table)
        return self._folded[1]

    def _kept(self, states: Tensor) -> list[KeysValues]:
        """Return what every layer of the decoder looks up in histories."""
        return [layer.cross_attention.keys_values(states) for layer in self.decoder]

    def _encoder_bias(self, real: Tensor) -> Tensor:
        """Return bias by distance and -inf where nothing may be seen, float [n, heads, 1 + places, 1 + places]."""
        place = torch.arange(real.shape[1], device=real.device)
        item = (place + self.per_item - 1) // self.per_item
        counted = item if self.sets else place
        bias = self.encoder_distance(counted[:, None] - counted[None, :])
        allowed = real[:, None, :]
        if self.causal:
            allowed = allowed & (item[None, :, None] >= item[None, None, :])
        if self.sets:
            allowed = allowed & ((item[:, None] != item) | (place[:, None] == place))
        return bias[None].masked_fill(~allowed[:, None], -torch.inf)

    def _own_bias(self, steps: int, whole: bool) -> Tensor:
        """Return the same over the steps written, float [heads, steps, steps]."""
        step = torch.arange(steps, device=self.decoder_distance.bias.device)
        distance = step[:, None] - step
        bias = self.decoder_distance(distance)
        return bias if whole else bias.masked_fill(distance < 0, -torch.inf)

    def _cross_bias(self, memory: Memory, at: Tensor) -> Tensor:
        """Return the same over the history, float [n, heads, p, 1 + places]."""
        places = memory.real.shape[1] - 1
        place = torch.arange(places, device=at.device)
        if self.sets:
            distance = at[..., None] - 1 - place // self.per_item
        else:
            distance = (at * self.per_item)[..., None] - 1 - place
        bias = pad(self.cross_distance(distance), (1, 0)).transpose(0, 1)
        allowed = pad(distance >= 0, (1, 0), value=True) & memory.real[:, None]
        return bias.masked_fill(~allowed[:, None], -torch.inf)
