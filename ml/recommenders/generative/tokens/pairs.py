"""Items of a history as pairs: the first codes of the ID, then a vector of the item's own.

COBRA (Yang et al. 2025, arXiv:2503.02453, section 3.1). The text encoder stays frozen here: what is learned with the rest
is a linear map of the vectors that the catalogue holds.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.edges import text_vectors
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import Facts, PartParams, Tokens
from ml.recommenders.sequential.item_nets.features import Vectors


class PairTokensParams(PartParams):
    """Parameters of `PairTokens`.

    Parameters
    ----------
    depth
        Codes of an ID that are read and written, fewer than it has: the vector tells the items below apart. 0 for none.
    view
        Vectors of the catalogue to read: ``text``, which are its ``vectors`` where it has no text; or ``vectors``.
    whiten
        Principal directions to keep, each scaled to variance 1; None takes the vectors as they are.
    """

    kind: Literal["pairs"] = "pairs"
    depth: int = Field(default=1, ge=0)
    view: Literal["text", "vectors"] = "text"
    whiten: int | None = Field(default=None, ge=1)

    def per_item(self, levels: int) -> int:
        """Return the places of an item of so many codes."""
        return 2 if self.depth else 1

    def build(self, facts: Facts) -> Tokens:
        """Make the part.

        Raises
        ------
        ValueError
            If IDs have no more than ``depth`` codes, or if no item has a vector.
        """
        if self.depth >= facts.levels:
            raise ValueError(f"pairs of {self.depth} codes and a vector need IDs of more than {facts.levels}")
        return PairTokens(self, facts)


class PairTokens(nn.Module):
    """See the module; an item without a vector is read as one vector that all of these share.

    Parameters
    ----------
    params
        See `PairTokensParams`.
    facts
        Catalogue and width.
    """

    def __init__(self, params: PairTokensParams, facts: Facts) -> None:
        super().__init__()
        self.depth, self.per_item = params.depth, facts.per_item
        catalogue, d = facts.catalogue, facts.d
        self.source = Vectors(
            text_vectors(catalogue) if params.view == "text" else catalogue.vectors, params.whiten
        )
        if not bool(self.source.known.any()):
            raise ValueError(f"items are told by their {params.view}, and the catalogue has none")
        self.linear = nn.Linear(self.source.width, d)
        # About as long as the embedding of a code, whether a source vector is of length 1 or of variance 1.
        nn.init.normal_(
            self.linear.weight, std=(d * (1 if params.whiten is None else self.source.width)) ** -0.5
        )
        nn.init.zeros_(self.linear.bias)
        self.unknown = nn.Parameter(torch.randn(d) * d**-0.5)

    @property
    def known(self) -> Tensor:
        """Tell which items have a vector, bool [n_items]."""
        return self.source.known

    def dense(self, items: Tensor) -> Tensor:
        """Return the vectors of items, int64 [...]; float [..., d]."""
        mapped = self.linear(self.source.ready[items])
        return torch.where(self.known[items][..., None], mapped, self.unknown)

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`."""
        dense = self.dense(sequences.items)
        if not self.depth:
            return dense[:, :, None]
        codes = table.embed(table.rows(sequences.items)[..., : self.depth]).sum(dim=2)
        return torch.stack([codes, dense], dim=2)
