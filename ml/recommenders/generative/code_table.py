"""One table of code embeddings: for reading, for writing, and for scoring codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, pad

from ml.recommenders.generative.room import ROOM


class CodeTable(nn.Module):
    """Embeddings of the codes of all levels, of a start, and of the place that a code has in an ID.

    A *row* is the place of a code in the table: levels follow one another, and the last row stands for a code that is
    not known.
    """

    def __init__(self, codes: Tensor, code_sizes: tuple[int, ...], d: int) -> None:
        """Make it.

        Parameters
        ----------
        codes
            int64 [n_items, levels], -1 where unknown; belongs to the catalogue and is not saved with the weights.
        code_sizes
            Size of each level.
        d
            Width.
        """
        super().__init__()
        self.item_rows: Tensor
        self.offsets: Tensor
        self.code_sizes = code_sizes
        total = sum(code_sizes)
        offsets = torch.tensor([0, *code_sizes]).cumsum(0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("item_rows", self.known_rows(codes), persistent=False)
        self.table = nn.Parameter(torch.randn(total + 1, d) * d**-0.5)
        self.bias = nn.Parameter(torch.zeros(total))
        self.start = nn.Parameter(torch.randn(d) * d**-0.5)
        self.place = nn.Parameter(torch.randn(len(code_sizes), d) * d**-0.5)

    @property
    def levels(self) -> int:
        """Codes of an ID."""
        return len(self.code_sizes)

    def known_rows(self, codes: Tensor) -> Tensor:
        """Return the rows of codes [..., levels], that of an unknown code where a code is none of its level."""
        known = (codes >= 0) & (codes < torch.tensor(self.code_sizes))
        return torch.where(known, codes + self.offsets.cpu(), sum(self.code_sizes))

    def rows(self, items: Tensor) -> Tensor:
        """Return the rows of items' codes, int64 [..., levels]; negative items stand for any."""
        return self.item_rows[items.clamp(min=0)]

    def embed(self, rows: Tensor) -> Tensor:
        """Return the embeddings of rows [...], float [..., d]."""
        return embedding(rows, self.table)

    def inputs(self, rows: Tensor) -> Tensor:
        """Embed a start and the codes after it, rows [..., codes] to float [..., 1 + codes, d]."""
        start = self.start.expand(*rows.shape[:-1], 1, -1)
        x = torch.cat([start, self.embed(rows)], dim=-2)
        return x + self.place[: x.shape[-2]]

    def after_start(self) -> Tensor:
        """Return what `inputs` makes of each code as one of its level, float [codes, d]; those of the last are never read."""
        place = torch.arange(1, 1 + self.levels, device=self.offsets.device).clamp(max=self.levels - 1)
        sizes = torch.tensor(self.code_sizes, device=place.device)
        return self.table[:-1] + self.place[place.repeat_interleave(sizes, output_size=len(self.table) - 1)]

    def logits(self, states: Tensor, level: int, codes: Tensor | None = None) -> Tensor:
        """Score all codes of a level, or those of int64 [codes], states [..., d] to [..., size of the level or codes]."""
        # Not read from `offsets`, which would make a GPU be waited for.
        begin = sum(self.code_sizes[:level])
        rows = slice(begin, begin + self.code_sizes[level]) if codes is None else codes + begin
        return linear(states, self.table[rows], self.bias[rows])

    def log_probabilities(self, states: Tensor, level: int, temperature: float = 1.0) -> Tensor:
        """Return those of a level's codes among the start and the codes of all levels, as T5 does; see `logits`."""
        weight, bias = torch.cat([self.start[None], self.table[:-1]]), pad(self.bias, (1, 0))
        begin = 1 + sum(self.code_sizes[:level])
        of_level = slice(begin, begin + self.code_sizes[level])
        if torch.is_grad_enabled() or torch.is_autocast_enabled(states.device.type) or temperature != 1:
            whole = linear(states, weight, bias).float() / temperature
            return whole.log_softmax(dim=-1)[..., of_level]
        flat = states.flatten(0, -2)
        logits, told = (ROOM.take(name, states, len(flat), len(bias)) for name in ("logits", "told"))
        torch.addmm(bias, flat, weight.T, out=logits)
        torch.log_softmax(logits, -1, out=told)
        return told[:, of_level].clone().unflatten(0, states.shape[:-1])

    def item_sums(self) -> Tensor:
        """Return the sum of each item's code embeddings, float [n_items, d]."""
        return self.embed(self.item_rows).sum(dim=1)
