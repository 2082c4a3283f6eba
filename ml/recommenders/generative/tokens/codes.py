"""How the items of a history are read: by their codes, one place each, or as one place."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import Facts, PartParams, Tokens


class CodeTokensParams(PartParams):
    """Parameters of `CodeTokens`.

    Parameters
    ----------
    merge
        Give an item one place, the sum of its codes' embeddings, instead of one a code: an epoch costs a fraction.
    """

    kind: Literal["codes"] = "codes"
    merge: bool = False

    def per_item(self, levels: int) -> int:
        """Return the places of an item of so many codes."""
        return 1 if self.merge else levels

    def build(self, facts: Facts) -> Tokens:
        """Make the part."""
        return CodeTokens(facts.per_item)


class CodeTokens(nn.Module):
    """The embeddings of an item's codes; see `CodeTokensParams`."""

    def __init__(self, per_item: int) -> None:
        super().__init__()
        self.per_item = per_item

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`."""
        return self.of(table, sequences.items)[0]

    def of(self, table: CodeTable, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of items [...], float [..., per_item, d], and what making them costs: nothing."""
        embedded = table.embed(table.rows(items))
        made = embedded.sum(dim=-2, keepdim=True) if self.per_item == 1 else embedded
        return made, made.new_zeros(())
