"""Layers after T5 (Raffel et al. 2020): pre-norm, no biases, attention that is told distances alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from ml.recommenders.generative.parts import KeysValues


class Attention(nn.Module):
    """Multi-head attention whose parts can be called one by one, so that keys and values can be kept."""

    def __init__(self, d: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.norm = nn.RMSNorm(d)
        self.to_query = nn.Linear(d, inner, bias=False)
        self.to_keys = nn.Linear(d, 2 * inner, bias=False)
        self.out = nn.Linear(inner, d, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """Turn [..., places, inner] into [..., heads, places, head width]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def query(self, x: Tensor) -> Tensor:
        """Return queries [..., heads, places, head width] of normalised states [..., places, d]."""
        return self.split(self.to_query(x))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Return keys and values, each [..., heads, places, head width], of normalised states."""
        keys, values = self.to_keys(x).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def join(self, mixed: Tensor) -> Tensor:
        """Turn what the heads found, [..., heads, places, head width], into [..., places, d]."""
        joined: Tensor = self.out(mixed.transpose(-2, -3).flatten(-2))
        return joined

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Mix values; the bias, -inf where nothing may be seen, broadcasts to [..., heads, queries, keys]."""
        return self.join(scaled_dot_product_attention(query, keys, values, attn_mask=bias))


class FeedForward(nn.Module):
    """The point-wise net, pre-norm; the same for every place."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.RMSNorm(d),
            nn.Linear(d, width, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(width, d, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., places, d] to the same shape."""
        mapped: Tensor = self.net(x)
        return mapped


class RoutedFeedForward(nn.Module):
    """A point-wise net for the start, and one for each place of an item: sparse experts whose router is the place.

    MBGen (Liu et al., CIKM 2024, arXiv:2405.16871), without its injection of behaviours.
    """

    def __init__(self, d: int, width: int, per_item: int) -> None:
        super().__init__()
        self.per_item = per_item
        self.experts = nn.ModuleList(FeedForward(d, width) for _ in range(1 + per_item))

    def forward(self, x: Tensor) -> Tensor:
        """As `FeedForward`; place 0 is the start, and items follow."""
        routed: dict[int, list[int]] = {}
        for column, place in enumerate(range(x.shape[-2])):
            expert = 0 if place == 0 else 1 + (place - 1) % self.per_item
            routed.setdefault(expert, []).append(column)
        if len(routed) == 1:
            (expert,) = routed
            mapped: Tensor = self.experts[expert](x)
            return mapped
        parts = [self.experts[expert](x[..., columns, :]) for expert, columns in routed.items()]
        order = [column for columns in routed.values() for column in columns]
        back = torch.tensor(order, device=x.device).argsort()
        return torch.cat(parts, dim=-2)[..., back, :]


class ReadingLayer(nn.Module):
    """Self-attention over a history, then the point-wise net."""

    def __init__(self, attention: Attention, feed: Callable[[Tensor], Tensor], rate: float) -> None:
        super().__init__()
        self.attention, self.feed, self.rate = attention, feed, rate

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, KeysValues]:
        """Map float [n, places, d] to the same shape, under bias [n or 1, heads, places, places]; tell the keys."""
        normed = self.attention.norm(x)
        kept = self.attention.keys_values(normed)
        mixed = self.attention.attend(self.attention.query(normed), *kept, bias)
        x = x + dropout(mixed, self.rate, self.training)
        return x + dropout(self.feed(x), self.rate, self.training), kept


def grown(past: KeysValues | None, new: KeysValues) -> KeysValues:
    """Return keys and values of all steps: those before, and the new ones.

    Steps come first in memory: a step is one block, which `chosen` walks without strides.
    """
    if past is None:
        return new
    keys, values = (
        torch.cat([old.movedim(-2, 0), step.movedim(-2, 0)]).movedim(0, -2)
        for old, step in zip(past, new, strict=True)
    )
    return keys, values


def chosen(past: list[KeysValues], parents: Tensor) -> list[KeysValues]:
    """Return the keys and values of each layer for new hypotheses, whose parents are int64 [n, hypotheses]."""
    if not past:
        return []
    n, before = past[0][0].shape[:2]
    rows = (parents + before * torch.arange(n, device=parents.device)[:, None]).flatten()

    def of(old: Tensor) -> Tensor:
        steps = old.movedim(-2, 0).flatten(1, 2)
        return steps.index_select(1, rows).unflatten(1, parents.shape).movedim(0, -2)

    return [(of(keys), of(values)) for keys, values in past]


class Distances(nn.Module):
    """A learned bias for each head and distance."""

    def __init__(self, heads: int, least: int, most: int) -> None:
        """Make it for the distances ``least`` to ``most``, both included."""
        super().__init__()
        self.least, self.most = least, most
        self.bias = nn.Parameter(torch.zeros(heads, most - least + 1))

    def forward(self, distance: Tensor) -> Tensor:
        """Return float [heads, *distance.shape]; distances beyond the ends take the ends'."""
        return self.bias[:, distance.clamp(self.least, self.most) - self.least]
