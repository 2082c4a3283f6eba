"""Tell all codes of the next item at once; every item is scored exactly, by one gather.

RPG (Hou et al., KDD 2025, arXiv:2506.05781): the codes of an ID have no order, so the state after a history gives the
probabilities of the codes of every level through a head each, trained by the mean of the levels' cross-entropies
(section 3.1.2). The score of an item is the sum of its codes' log-probabilities. The paper nears the best items by walks
over a graph of similar IDs (section 3.2); here all of them are scored, which is what those walks approximate.

Because every item can be scored, a target may as well be told apart from the other items instead of each of its codes
from the other codes of its level: ``over: items``, which is ours and not in the paper. The ranking is by the same sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, normalize, silu

from ml.recommenders.batches import Sequences, Windows, sliding, windows
from ml.recommenders.generative.one_pass import code_sums, rank_all
from ml.recommenders.generative.parts import Facts, Objective, PartParams
from ml.recommenders.losses import FullSoftmax

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.network import Network


class ParallelParams(PartParams):
    """Parameters of `Parallel`.

    Parameters
    ----------
    heads
        Whether each level has a head of its own, ``residual``, or all of them read the state as it is, ``none``.
    temperature
        Of the cosine of a head and a code, in training and in ranking.
    over
        What a target is told apart from in training: ``codes``, those of each level, or ``items``, by one softmax over
        the mean cosine of an item's codes; the latter without heads.
    """

    kind: Literal["parallel"] = "parallel"
    heads: Literal["residual", "none"] = "residual"
    temperature: float = Field(default=0.07, gt=0)
    over: Literal["codes", "items"] = "codes"

    @model_validator(mode="after")
    def _one_vector_an_item(self) -> Self:
        if self.over == "items" and self.heads != "none":
            raise ValueError("over: items goes with heads: none")
        return self

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return Parallel(self, facts)


class Parallel(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    def __init__(self, params: ParallelParams, facts: Facts) -> None:
        super().__init__()
        self.temperature, self.over = params.temperature, params.over
        self.heads = ResidualHeads(facts.levels, facts.d) if params.heads == "residual" else None
        sizes = torch.tensor(facts.code_sizes)
        code = torch.arange(int(sizes.max()))
        self.register_buffer("exists", code < sizes[:, None], persistent=False)
        begins = (sizes.cumsum(0) - sizes)[:, None]
        # Levels as wide as the widest: one product for all of them. What does not exist is the first code again.
        self.register_buffer("code_rows", begins + torch.where(self.exists, code, 0), persistent=False)
        self.exists: Tensor
        self.code_rows: Tensor

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return (windows if causal else sliding)(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; targets without an ID count for nothing."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        known = (asked >= 0) & (network.trie.place[asked.clamp(min=0)] >= 0)
        told = self._by_items if self.over == "items" else self._by_codes
        loss = told(network, memory.after(at)[known], asked[known])
        return loss, known.sum()

    def _by_codes(self, network: Network, states: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over targets [m] and levels of the cross-entropy of the codes, states float [m, d]."""
        chances, table = self.log_probabilities(network, states), network.table
        own = (table.rows(targets) - table.offsets).T[..., None]
        return -chances.gather(2, own).mean() if len(targets) else chances.sum()

    def _by_items(self, network: Network, states: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of targets [m] among all items that have an ID, states float [m, d]."""
        if not len(targets):
            return states.sum()
        there = network.trie.place >= 0
        codes = normalize(network.table.table, dim=1)
        items = embedding_bag(network.table.item_rows[there], codes, mode="mean")
        place = there.cumsum(0) - 1
        return FullSoftmax()(normalize(states, dim=1) / self.temperature, items, place[targets])

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; exact."""
        states = network.read(sequences).after(sequences.lengths[:, None])[:, 0]

        def score(users: slice) -> Tensor:
            chances = self.log_probabilities(network, states[users]).transpose(0, 1)
            return code_sums(chances[:, self.exists], network.table.item_rows)

        return rank_all(score, network.trie, len(states), k, excluded)

    def log_probabilities(self, network: Network, states: Tensor) -> Tensor:
        """Return the log-probabilities of all codes, states [m, d] to float [levels, m, widest level]; -inf for none."""
        levels = len(self.exists)
        told = states.expand(levels, -1, -1) if self.heads is None else self.heads(states)
        codes = embedding(self.code_rows, network.table.table)
        logits = normalize(told, dim=2) @ normalize(codes, dim=2).mT / self.temperature
        return logits.float().masked_fill(~self.exists[:, None], -torch.inf).log_softmax(dim=2)


class ResidualHeads(nn.Module):
    """A map with a residual for each level, which begins as the identity."""

    def __init__(self, levels: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(levels, d, d))
        self.bias = nn.Parameter(torch.zeros(levels, 1, d))

    def forward(self, states: Tensor) -> Tensor:
        """Map float [m, d] to [levels, m, d]."""
        return states + silu(torch.baddbmm(self.bias, states.expand(len(self.weight), -1, -1), self.weight))
