"""A small encoder-decoder over semantic IDs, after T5 (Raffel et al. 2020) and TIGER (Rajput et al. 2023).

Pre-norm, attention biased by relative distance, one table of code embeddings for encoder, decoder and output. Where
TIGER's encoder reads a history in both directions and so must read it again for every target, ``causal`` lets one
reading serve a target after every item: a training epoch costs about a tenth. ``merge`` gives an item one place in
the encoder, the sum of its codes' embeddings, instead of one a code: another factor of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention


@dataclass(frozen=True)
class Shape:
    """Sizes of a `Network`.

    Parameters
    ----------
    code_sizes
        Size of each level.
    d, head_width, heads, feed_forward
        Width of the model, of a head, number of heads, width of the point-wise net.
    encoder_layers, decoder_layers
        Depth.
    length
        Items of a history that are read.
    dropout
        On embeddings and on what every branch adds.
    causal, merge
        See the module.
    """

    code_sizes: tuple[int, ...]
    d: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    length: int
    dropout: float
    causal: bool
    merge: bool


@dataclass(frozen=True)
class Memory:
    """What the decoder reads of a history.

    Parameters
    ----------
    states
        float [n, 1 + places, d]; the first place is a learned start, which is there for an empty history too.
    real
        bool [n, 1 + places], False where there is padding.
    """

    states: Tensor
    real: Tensor


class Attention(nn.Module):
    """Multi-head attention whose parts can be called one by one, so that keys and values can be kept."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner = shape.heads * shape.head_width
        self.heads = shape.heads
        self.norm = nn.RMSNorm(shape.d)
        self.to_query = nn.Linear(shape.d, inner, bias=False)
        self.to_keys = nn.Linear(shape.d, 2 * inner, bias=False)
        self.out = nn.Linear(inner, shape.d, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """Turn [..., places, inner] into [..., heads, places, head width]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def query(self, x: Tensor) -> Tensor:
        """Return queries [..., heads, places, head width] of normalised states [..., places, d]."""
        return self.split(self.to_query(x))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [..., heads, places, head width]."""
        keys, values = self.to_keys(x).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Mix values; the bias, -inf where nothing may be seen, broadcasts to [..., heads, queries, keys]."""
        mixed = scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        attended: Tensor = self.out(mixed.transpose(-2, -3).flatten(-2))
        return attended


class FeedForward(nn.Module):
    """The point-wise net, pre-norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.RMSNorm(shape.d),
            nn.Linear(shape.d, shape.feed_forward, bias=False),
            nn.ReLU(),
            nn.Linear(shape.feed_forward, shape.d, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d] to the same shape."""
        mapped: Tensor = self.net(x)
        return mapped


class EncoderLayer(nn.Module):
    """Self-attention over a history, then the point-wise net."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention, self.feed, self.rate = Attention(shape), FeedForward(shape), shape.dropout

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map float [n, places, d] to the same shape, under bias [n or 1, heads, places, places]."""
        normed = self.attention.norm(x)
        mixed = self.attention.attend(self.attention.query(normed), *self.attention.keys_values(normed), bias)
        x = x + dropout(mixed, self.rate, self.training)
        return x + dropout(self.feed(x), self.rate, self.training)


class DecoderLayer(nn.Module):
    """Self-attention over the codes so far, cross-attention to the history, the point-wise net."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = Attention(shape), Attention(shape)
        self.feed, self.rate = FeedForward(shape), shape.dropout

    def forward(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor] | None,
        own_bias: Tensor | None,
        memory: tuple[Tensor, Tensor],
        memory_bias: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Decode codes of many hypotheses of each user at once.

        Parameters
        ----------
        x
            float [n, hypotheses, codes, d].
        past
            Keys and values [n, hypotheses, heads, earlier codes, head width], if any.
        own_bias
            [codes, earlier codes + codes], or None where everything may be seen.
        memory
            Keys and values of the history, [n, heads, places, head width]: one copy for all hypotheses of a user.
        memory_bias
            Broadcasts to [n, heads, hypotheses * codes, places].

        Returns
        -------
        The new states, and keys and values of all codes so far.
        """
        n, hypotheses, codes, _ = x.shape
        own = self.self_attention
        normed = own.norm(x)
        keys, values = own.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=3), torch.cat([past[1], values], dim=3)
        mixed = own.attend(own.query(normed), keys, values, own_bias)
        x = x + dropout(mixed, self.rate, self.training)
        cross = self.cross_attention
        query = cross.query(cross.norm(x).flatten(1, 2))
        mixed = cross.attend(query, *memory, memory_bias).view(n, hypotheses, codes, -1)
        x = x + dropout(mixed, self.rate, self.training)
        return x + dropout(self.feed(x), self.rate, self.training), (keys, values)


class Network(nn.Module):
    """Histories of codes in, codes of the next item out."""

    item_codes: Tensor
    offsets: Tensor

    def __init__(self, shape: Shape, item_codes: Tensor) -> None:
        """Make the network.

        Parameters
        ----------
        shape
            Sizes.
        item_codes
            int64 [n_items, levels], -1 where unknown; belongs to the catalogue and is not saved with the weights.
        """
        super().__init__()
        self.shape = shape
        self.levels = len(shape.code_sizes)
        total = sum(shape.code_sizes)
        offsets = torch.tensor([0, *shape.code_sizes]).cumsum(0)[:-1]
        # The last row of the table stands for a code that is not known.
        known = (item_codes >= 0) & (item_codes < torch.tensor(shape.code_sizes))
        self.register_buffer("item_codes", torch.where(known, item_codes + offsets, total), persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.table = nn.Parameter(torch.randn(total + 1, shape.d) * shape.d**-0.5)
        self.bias = nn.Parameter(torch.zeros(total))
        self.start = nn.Parameter(torch.randn(shape.d) * shape.d**-0.5)
        self.code_place = nn.Parameter(torch.randn(self.levels, shape.d) * shape.d**-0.5)
        self.per_item = 1 if shape.merge else self.levels
        reach = shape.length * self.per_item
        self.encoder_distance = nn.Parameter(torch.zeros(shape.heads, 2 * reach - 1))
        self.cross_distance = nn.Parameter(torch.zeros(shape.heads, reach))
        self.encoder = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.encoder_layers))
        decoder = [DecoderLayer(shape) for _ in range(shape.decoder_layers)]
        self.decoder: Sequence[DecoderLayer] = nn.ModuleList(decoder)  # type: ignore[assignment]
        self.encoder_norm, self.decoder_norm = nn.RMSNorm(shape.d), nn.RMSNorm(shape.d)

    def encode(self, items: Tensor) -> Memory:
        """Read histories, int64 [n, length] with -1 for padding on either side."""
        embedded = nn.functional.embedding(self.item_codes[items.clamp(min=0)], self.table)
        x = embedded.sum(dim=2) if self.shape.merge else embedded.flatten(1, 2)
        x = torch.cat([self.start.expand(len(items), 1, -1), x], dim=1)
        real = (items >= 0).repeat_interleave(self.per_item, dim=1)
        real = nn.functional.pad(real, (1, 0), value=True)
        x = dropout(x, self.shape.dropout, self.training)
        bias = self._encoder_bias(real)
        for layer in self.encoder:
            x = layer(x, bias)
        return Memory(self.encoder_norm(x), real)

    def forward(self, items: Tensor, targets: Tensor) -> Tensor:
        """Return the decoder's states before every code of the targets.

        Parameters
        ----------
        items
            int64 [n, length], -1 for padding.
        targets
            int64 [n, places], the item that follows each of the last ``places`` inputs. More than one only where the
            encoder is causal, since a history read in both directions has seen all but the last.

        Returns
        -------
        Tensor
            float [n, places, levels, d].
        """
        memory = self.encode(items)
        codes = self.item_codes[targets.clamp(min=0)]
        x = self._inputs(codes[:, :, :-1])
        own = torch.full((self.levels, self.levels), -torch.inf, device=x.device).triu(1)
        bias = self._cross_bias(memory.real, targets.shape[1]).repeat_interleave(self.levels, dim=2)
        for layer in self.decoder:
            x, _ = layer(x, None, own, layer.cross_attention.keys_values(memory.states), bias)
        states: Tensor = self.decoder_norm(x)
        return states

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Score all codes of a level, states [..., d] to [..., size of the level]."""
        begin = int(self.offsets[level])
        rows = slice(begin, begin + self.shape.code_sizes[level])
        return states @ self.table[rows].T + self.bias[rows]

    def item_sums(self) -> Tensor:
        """Return the sum of each item's code embeddings, float [n_items, d]."""
        return nn.functional.embedding(self.item_codes, self.table).sum(dim=1)

    def _inputs(self, codes: Tensor) -> Tensor:
        """Embed a start and the codes after it, [..., codes] to [..., 1 + codes, d]."""
        start = self.start.expand(*codes.shape[:-1], 1, -1)
        x = torch.cat([start, nn.functional.embedding(codes, self.table)], dim=-2)
        return dropout(x + self.code_place[: x.shape[-2]], self.shape.dropout, self.training)

    def _encoder_bias(self, real: Tensor) -> Tensor:
        """Return bias by distance and -inf where nothing may be seen, float [n, heads, 1 + places, 1 + places]."""
        places = real.shape[1] - 1
        at = torch.arange(places, device=real.device)
        middle = self.shape.length * self.per_item - 1
        bias = self.encoder_distance[:, at[:, None] - at[None, :] + middle]
        bias = nn.functional.pad(bias, (1, 0, 1, 0))
        item = nn.functional.pad(at // self.per_item, (1, 0), value=-1)
        allowed = real[:, None, :]
        if self.shape.causal:
            allowed = allowed & (item[None, :, None] >= item[None, None, :])
        return bias[None].masked_fill(~allowed[:, None], -torch.inf)

    def _cross_bias(self, real: Tensor, targets: int) -> Tensor:
        """Return the same for the decoder, float [n, heads, targets, 1 + places]."""
        places = real.shape[1] - 1
        at = torch.arange(places, device=real.device)
        last = (
            places // self.per_item - targets + 1 + torch.arange(targets, device=real.device)
        ) * self.per_item - 1
        distance = last[:, None] - at[None, :]
        bias = self.cross_distance[:, distance.clamp(min=0)]
        allowed = nn.functional.pad(distance >= 0, (1, 0), value=True)[None] & real[:, None, :]
        return nn.functional.pad(bias, (1, 0))[None].masked_fill(~allowed[:, None], -torch.inf)


class Decoding:
    """One generation: the history is read once, its keys and values are shared by all hypotheses of a user."""

    def __init__(self, network: Network, items: Tensor) -> None:
        """Read histories, int64 [n, length], right-aligned, -1 for padding."""
        memory = network.encode(items)
        self.network = network
        self.n = len(items)
        self.level = 0
        self.bias = network._cross_bias(memory.real, 1)
        self.memories = [layer.cross_attention.keys_values(memory.states) for layer in network.decoder]
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(self.memories)

    def start(self) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        nothing = self.network.offsets.new_zeros(self.n, 1, 0)
        return self._advance(self.network._inputs(nothing))

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        embedded = self.network.table[codes + self.network.offsets[self.level]]
        self.level += 1
        users = torch.arange(self.n, device=codes.device)[:, None]
        self.past = [
            (past[0][users, parents], past[1][users, parents]) if past else None for past in self.past
        ]
        return self._advance((embedded + self.network.code_place[self.level])[:, :, None])

    def _advance(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.network.decoder):
            x, self.past[place] = layer(x, self.past[place], None, self.memories[place], self.bias)
        return self.network.logits(self.network.decoder_norm(x[:, :, 0]), self.level)
