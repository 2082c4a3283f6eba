"""Items are read by what was done with them: a place for the event type, then the item's codes.

MBGen (Liu et al., CIKM 2024, arXiv:2405.16871).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import Facts, PartParams, Tokens


class BehaviourTokensParams(PartParams):
    """Parameters of `BehaviourTokens`.

    Parameters
    ----------
    merge
        Give an event one place, the sum of its type's and its item's codes' embeddings, instead of one each.
    """

    kind: Literal["behaviour"] = "behaviour"
    merge: bool = False

    def per_item(self, levels: int) -> int:
        """Return the places of an event on an item of so many codes."""
        return 1 if self.merge else 1 + levels

    def build(self, facts: Facts) -> Tokens:
        """Make the part."""
        return BehaviourTokens(facts)


class TypeTable(nn.Module):
    """Embeddings of event types; those that training did not know share the last."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(facts.behaviours + 1, facts.d) * facts.d**-0.5)

    def forward(self, types: Tensor) -> Tensor:
        """Embed event types int64 [...], float [..., d]."""
        return embedding(types.clamp(max=len(self.table) - 1), self.table)


class BehaviourTokens(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Tokens`."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.per_item, self.types = facts.per_item, TypeTable(facts)

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`."""
        codes = table.embed(table.rows(sequences.items))
        types = self.types(sequences.types)[:, :, None]
        if self.per_item == 1:
            return codes.sum(dim=2, keepdim=True) + types
        return torch.cat([types, codes], dim=2)
