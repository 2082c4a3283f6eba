"""What `ml.recommenders.generative.backbones.encoder_decoder` computes, arranged for answers: code by code, without gradients.

Weights are folded once. Norms go into the products after them; and where heads are not narrow, what a hypothesis asks a
history for goes into the history's keys, and what is made of the answer into its values, so that attention to the history
is two products for all heads and hypotheses of a user together.

What the first layer makes of a code by itself is looked up. Keys and values of a code are written once and never moved. A hypothesis knows in which rows those of its codes are, so
that choosing hypotheses moves numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ml.recommenders.generative.layers import Attention, FeedForward, RoutedFeedForward
from ml.recommenders.generative.room import ROOM

if TYPE_CHECKING:
    from ml.recommenders.generative.backbones.encoder_decoder import WritingLayer
    from ml.recommenders.generative.code_table import CodeTable

#: Attention to a history is folded where the width is at most so many widths of a head: beyond, it costs more than it saves.
_WIDTHS = 4


class Looking(Protocol):
    """Attention of one layer to the histories of some users."""

    def __call__(self, x: Tensor, normed: Tensor, bias: Tensor) -> Tensor:
        """Return states [n, hypotheses, d] after it, of them and of them scaled; bias float [n, heads, 1, places]."""
        ...


@dataclass(frozen=True)
class Absorbed:
    """Keys and values in the width of the states, float [n, heads * places, d]; those of a head follow one another."""

    keys: Tensor
    values: Tensor

    def __call__(self, x: Tensor, normed: Tensor, bias: Tensor) -> Tensor:
        """See `Looking`."""
        seen = torch.baddbmm(bias.flatten(1)[:, None], normed, self.keys.mT)
        weights = seen.unflatten(-1, (bias.shape[1], -1)).softmax(dim=-1)
        return torch.baddbmm(x, weights.flatten(2), self.values)


@dataclass(frozen=True)
class Projected:
    """Keys and values in the width of heads, float [n, heads, places, head width]; and the products around them."""

    query: Tensor
    out: Tensor
    keys: Tensor
    values: Tensor

    def __call__(self, x: Tensor, normed: Tensor, bias: Tensor) -> Tensor:
        """See `Looking`."""
        query = (normed @ self.query).unflatten(-1, (self.keys.shape[1], -1)).transpose(1, 2)
        mixed = scaled_dot_product_attention(query, self.keys, self.values, attn_mask=bias, scale=1.0)
        return x + mixed.transpose(1, 2).flatten(2) @ self.out


@dataclass(frozen=True)
class Folded:
    """A layer's weights: matrices to multiply states by, from the right.

    Parameters
    ----------
    query, keys_values, out
        Of attention to the codes so far: float [d, inner], [d, 2 * inner] and [inner, d].
    look
        Of states of histories, float [n, places, d], makes attention to them.
    feeds
        The two of the point-wise net, one pair for every place of an ID or one for all.
    known
        Of the first layer: what ``query`` and ``keys_values`` make of each code, by its row in the table of codes.
    """

    query: Tensor
    keys_values: Tensor
    out: Tensor
    look: Callable[[Tensor], Looking]
    feeds: tuple[tuple[Tensor, Tensor], ...]
    known: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, layer: WritingLayer) -> Folded:
        """Fold the weights of a layer."""
        own, feed = layer.self_attention, layer.feed
        gain = own.norm.weight[:, None]
        nets = [feed] if isinstance(feed, FeedForward) else list(_experts(feed))
        return cls(
            gain * own.to_query.weight.T * _scale(own),
            gain * own.to_keys.weight.T,
            own.out.weight.T.contiguous(),
            _look(layer.cross_attention),
            tuple(_feed(net) for net in nets),
        )


def fold(layers: Iterable[WritingLayer], table: CodeTable) -> tuple[Folded, ...]:
    """Fold the weights of layers that write codes of a table; what comes out needs no gradient and may be kept."""
    with torch.inference_mode(False), torch.no_grad():
        folded = [Folded.of(layer) for layer in layers]
        for layer in folded[:1]:
            codes = scaled(table.after_start())
            folded[0] = replace(layer, known=(codes @ layer.query, codes @ layer.keys_values))
        return tuple(folded)


def version(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes whenever a weight of a module does."""
    return tuple((weight.data_ptr(), weight._version) for weight in module.parameters())


def _scale(attention: Attention) -> float:
    return float((attention.to_query.weight.shape[0] / attention.heads) ** -0.5)


def _experts(feed: object) -> Iterable[FeedForward]:
    assert isinstance(feed, RoutedFeedForward)
    return feed.experts  # type: ignore[return-value]


def _feed(feed: FeedForward) -> tuple[Tensor, Tensor]:
    norm, widen, _, narrow = feed.net
    return (
        norm.weight[:, None] * widen.weight.T,  # type: ignore[operator,index]
        narrow.weight.T.contiguous(),  # type: ignore[operator]
    )


def _look(attention: Attention) -> Callable[[Tensor], Looking]:
    heads, d = attention.heads, attention.out.weight.shape[0]
    query = attention.norm.weight[:, None] * attention.to_query.weight.T * _scale(attention)
    to_keys, to_values = attention.to_keys.weight.chunk(2)
    out = attention.out.weight.T.contiguous()
    if d * heads <= _WIDTHS * len(query.T):
        # By head: [d, inner] is [d, heads, head width].
        of_query, of_keys, of_values = (
            weight.unflatten(1, (heads, -1)) for weight in (query, to_keys.T, to_values.T)
        )
        keys = torch.einsum("dhw,ehw->dhe", of_keys, of_query).flatten(1)
        values = torch.einsum("dhw,hwe->dhe", of_values, out.unflatten(0, (heads, -1))).flatten(1)

        def absorbed(states: Tensor) -> Looking:
            return Absorbed(
                *(
                    (states @ side).unflatten(-1, (heads, d)).transpose(1, 2).flatten(1, 2)
                    for side in (keys, values)
                )
            )

        return absorbed

    def projected(states: Tensor) -> Looking:
        return Projected(query, out, *attention.keys_values(states))

    return projected


@dataclass(frozen=True)
class FoldedSteps:
    """See `ml.recommenders.generative.parts.Steps`.

    Parameters
    ----------
    layers, histories
        Weights, and attention to the histories, of each layer.
    bias
        float [n, heads, 1, places], of the latter.
    distances
        float [heads, levels], bias of attention to the codes so far, by how far back they are.
    norm
        After the last layer.
    places
        For each code so far, where the keys and values of each hypothesis are: int64 [n, hypotheses], or None where
        all hypotheses of a user share them.
    kept
        For each code so far, keys and values of each layer, float [n * hypotheses, 2 * inner].
    """

    layers: tuple[Folded, ...]
    histories: tuple[Looking, ...]
    bias: Tensor
    distances: Tensor
    norm: nn.RMSNorm
    places: tuple[Tensor | None, ...] = ()
    kept: tuple[tuple[Tensor, ...], ...] = ()

    @torch.no_grad()
    def write(
        self, x: Tensor, parents: Tensor | None = None, rows: Tensor | None = None
    ) -> tuple[Tensor, FoldedSteps]:
        """See `ml.recommenders.generative.parts.Steps`."""
        n, hypotheses, _ = x.shape
        places = self._places_of(parents)
        back = torch.arange(len(places), -1, -1, device=x.device).clamp(max=self.distances.shape[1] - 1)
        own_bias = self.distances[:, back].T[:, None, None]
        x, made = x.flatten(0, 1), []
        for number, (layer, history) in enumerate(zip(self.layers, self.histories, strict=True)):
            query = ROOM.take("query", x, len(x), layer.query.shape[1])
            if rows is None or layer.known is None:
                normed = scaled(x)
                new = normed @ layer.keys_values
                torch.mm(normed, layer.query, out=query)
            else:
                known_queries, known = layer.known
                new = known.index_select(0, rows.flatten())
                torch.index_select(known_queries, 0, rows.flatten(), out=query)
            past = [
                _taken(f"past {step}", kept[number], place, n)
                for step, (kept, place) in enumerate(zip(self.kept, places, strict=True))
            ]
            past.append(new.view(n, hypotheses, -1))
            mixed = _attend(query.view(n, hypotheses, -1), past, own_bias)
            x = torch.addmm(x, mixed.flatten(0, 1), layer.out)
            states = x.view(n, hypotheses, -1)
            x = history(states, scaled(states), self.bias).flatten(0, 1)
            widen, narrow = layer.feeds[len(places) if len(layer.feeds) > 1 else 0]
            wide = torch.mm(scaled(x), widen, out=ROOM.take("wide", x, len(x), widen.shape[1]))
            x = torch.addmm(x, wide.relu_(), narrow)
            made.append(new)
        own = None
        if hypotheses > 1:
            own = torch.arange(n * hypotheses, device=x.device).view(n, hypotheses)
        grown = replace(self, places=(*places, own), kept=(*self.kept, tuple(made)))
        return self.norm(x).view(n, hypotheses, -1), grown

    def _places_of(self, parents: Tensor | None) -> tuple[Tensor | None, ...]:
        if parents is None:
            return self.places
        return tuple(None if place is None else place.gather(1, parents) for place in self.places)


def scaled(x: Tensor) -> Tensor:
    """Return states without their size, as `torch.nn.RMSNorm` without a gain."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True).add_(torch.finfo(x.dtype).eps))


def _taken(name: str, kept: Tensor, place: Tensor | None, n: int) -> Tensor:
    """Return keys and values of one code, float [n, hypotheses or 1, 2 * inner], in the room of that name."""
    if place is None:
        return kept.view(n, 1, -1)
    room = ROOM.take(name, kept, place.numel(), kept.shape[1])
    return torch.index_select(kept, 0, place.flatten(), out=room).view(*place.shape, -1)


def _attend(query: Tensor, past: list[Tensor], bias: Tensor) -> Tensor:
    """Attend to few codes, one after the other: there, matrix products cost more than what they compute.

    Parameters
    ----------
    query
        float [n, hypotheses, inner].
    past
        Of each code, keys and values float [n, hypotheses or 1, 2 * inner].
    bias
        float [codes, 1, 1, heads].

    Returns
    -------
    float [n, hypotheses, inner].
    """
    heads = (bias.shape[-1], -1)
    query = query.unflatten(-1, heads)
    keys, values = zip(*(each.unflatten(-1, (2, *heads)).unbind(dim=2) for each in past), strict=True)
    room = ROOM.take("mixed", query, *query.shape)
    seen = torch.stack([torch.mul(query, key, out=room).sum(dim=-1) for key in keys]) + bias
    weights = seen.softmax(dim=0)[..., None]
    mixed = torch.mul(weights[0], values[0], out=room)
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed.addcmul_(weight, value)
    return mixed.flatten(2)
