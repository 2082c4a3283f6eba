"""Ask for all token vectors of the next item at once, by a learned query each; every item is scored exactly.

SETRec (Lin et al., SIGIR 2025, arXiv:2502.10833, section 3.2). A query sees the history and no other query, so the tokens
have no order and one pass gives all of them. Each is trained to be the target's among those of all items; an item's score
is the weighted sum of its tokens' inner products with what was asked for. What the history's own tokens see of one another
is for the backbone to say (``within: none``). The paper's backbones are pre-trained language models; ours is trained here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml.recommenders.batches import Sequences, Windows, sliding, windows
from ml.recommenders.generative.one_pass import rank_all
from ml.recommenders.generative.parts import Facts, Memory, Objective, PartParams

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.code_table import CodeTable
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network


class TokenVectors(Protocol):
    """Tokens that tell the vectors of any items."""

    def of(self, table: CodeTable, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return token vectors of items [m], float [m, per_item, d], and a loss of making them, a scalar."""
        ...


class TokenSetParams(PartParams):
    """Parameters of `TokenSet`.

    Parameters
    ----------
    queries
        Whether a query sees none of the others, ``apart``, or all of them, ``together``.
    first
        Weight of the first token's score, between 0 and 1; the others share the rest. In ranking alone.
    negatives
        Items drawn for a batch that targets must be told from, uniformly; None for all items, as in the paper.
    """

    kind: Literal["token_set"] = "token_set"
    queries: Literal["apart", "together"] = "apart"
    first: float = Field(default=0.5, ge=0, le=1)
    negatives: int | None = Field(default=None, ge=1)

    def check(self, whole: GenerativeParams) -> None:
        """See `ml.recommenders.generative.parts.PartParams.check`."""
        if whole.tokens.kind not in ("codes", "set"):
            raise ValueError("objective token_set scores tokens of the kinds codes and set alone")

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return TokenSet(self, facts)


class TokenSet(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    def __init__(self, params: TokenSetParams, facts: Facts) -> None:
        super().__init__()
        self.apart, self.negatives = params.queries == "apart", params.negatives
        tokens = facts.per_item
        self.queries = nn.Parameter(torch.randn(tokens, facts.d) * facts.d**-0.5)
        weights = [params.first] + [(1 - params.first) / (tokens - 1)] * (tokens - 1) if tokens > 1 else [1.0]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.weights: Tensor

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return (windows if causal else sliding)(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; targets without an ID count for nothing."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        known = (asked >= 0) & (network.trie.place[asked.clamp(min=0)] >= 0)
        others = network.trie.items
        if self.negatives is not None:
            others = others[torch.randint(len(others), (self.negatives,), device=others.device)]
        own = asked[known]
        vectors, loss = _vectors(network, torch.cat([own, others]))
        wanted = self.asked_for(network, memory, at)[known]
        if len(own):
            right = (wanted * vectors[: len(own)]).sum(dim=2).T[..., None]
            wrong = wanted.transpose(0, 1) @ vectors[len(own) :].permute(1, 2, 0)
            wrong = wrong.masked_fill(own[:, None] == others, -torch.inf)
            logits = torch.cat([right, wrong], dim=2).float().flatten(0, 1)
            loss = loss + cross_entropy(logits, own.new_zeros(len(logits)))
        return loss, known.sum()

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; exact."""
        memory = network.read(sequences)
        wanted = self.asked_for(network, memory, sequences.lengths[:, None])[:, 0]
        weighted = (wanted * self.weights[:, None]).flatten(1)
        items = torch.arange(len(network.trie.place), device=wanted.device)
        vectors = _vectors(network, items)[0].flatten(1).T
        return rank_all(lambda users: weighted[users] @ vectors, network.trie, len(weighted), k, excluded)

    def asked_for(self, network: Network, memory: Memory, at: Tensor) -> Tensor:
        """Return the token vectors expected after the first ``at`` items, int64 [n, p] to float [n, p, tokens, d]."""
        (n, p), (tokens, d) = at.shape, self.queries.shape
        if not self.apart:
            x = self.queries.expand(n, p, tokens, d)
            return network.backbone.write(memory, at, x, whole=True)
        # Hypotheses of one history do not see each other, and neither do queries.
        x = self.queries.repeat(p, 1)[:, None].expand(n, -1, 1, d)
        if p > 1:
            at = at.repeat_interleave(tokens, dim=1)
        return network.backbone.write(memory, at, x).view(n, p, tokens, d)


def _vectors(network: Network, items: Tensor) -> tuple[Tensor, Tensor]:
    return cast(TokenVectors, network.tokens).of(network.table, items)
