"""Codes read together with the text vector that they were made from.

RecGPT (Jiang et al., 2025, arXiv:2506.06270): a code keeps little of an item's text, so what it lost comes in beside it. As
in the authors' code the vector is cut into as many pieces as an item has codes, one map takes every piece to the network's
width, and either half is normalised before they are added. Nothing here belongs to one catalogue but the vectors
themselves, so a network that was trained on one catalogue reads another's items.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import Facts, PartParams, Tokens


class TextTokensParams(PartParams):
    """Parameters of `TextTokens`.

    Parameters
    ----------
    text
        Whether the vector is read; without it codes alone are.
    view
        Vectors of the catalogue to read: ``text``, which nobody's behaviour went into, or ``vectors``.
    """

    kind: Literal["text"] = "text"
    text: bool = True
    view: Literal["text", "vectors"] = "text"

    def per_item(self, levels: int) -> int:
        """Return the places of an item of so many codes."""
        return levels

    def build(self, facts: Facts) -> Tokens:
        """Make the part.

        Raises
        ------
        ValueError
            If the catalogue has no such vectors.
        """
        return TextTokens(self, facts)


class TextTokens(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Tokens`."""

    pieces: Tensor

    def __init__(self, params: TextTokensParams, facts: Facts) -> None:
        super().__init__()
        self.per_item = facts.per_item
        self.code_norm, self.text_norm, self.map = nn.RMSNorm(facts.d), None, None
        if params.text:
            vectors = torch.from_numpy(getattr(facts.catalogue, params.view))
            if not vectors.shape[1]:
                raise ValueError(f"the catalogue has no vectors of the view {params.view!r}")
            width = -(-vectors.shape[1] // self.per_item)
            vectors = pad(vectors, (0, width * self.per_item - vectors.shape[1]))
            self.register_buffer("pieces", vectors.unflatten(1, (self.per_item, width)), persistent=False)
            self.text_norm, self.map = nn.RMSNorm(facts.d), nn.Linear(width, facts.d, bias=False)

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`; an item without a vector is its codes alone."""
        x: Tensor = self.code_norm(table.embed(table.rows(sequences.items)))
        if self.map is not None and self.text_norm is not None:
            x = x + self.text_norm(self.map(self.pieces[sequences.items]))
        return x
