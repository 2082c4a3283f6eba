"""Write the ID of the next item, code by code; items are found by beam search over the trie.

TIGER (Rajput et al., NeurIPS 2023, arXiv:2305.05065). The paper's user token is left out: a recommender is given
histories, not users, so that it can answer for anyone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences, Windows, sliding, windows
from ml.recommenders.generative.beam import Normalise, beam_search, code_scores
from ml.recommenders.generative.exact import exact_search
from ml.recommenders.generative.losses import LikelihoodParams, PrefixAwareParams
from ml.recommenders.generative.network import Decoding
from ml.recommenders.generative.parts import Facts, Memory, Objective, PartParams, PathLoss

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.network import Network

PathLossParams = Annotated[LikelihoodParams | PrefixAwareParams, Field(discriminator="kind")]


class AutoregressiveParams(PartParams):
    """Parameters of `Autoregressive`.

    Parameters
    ----------
    loss
        ``{kind: ..., its parameters}``; see `ml.recommenders.generative.losses`.
    normalise
        See `ml.recommenders.generative.beam.beam_search`; training and decoding do the same. ``trie`` is the softmax
        over permissible codes of MSCGRec (arXiv:2602.03713).
    temperature
        Of the softmax over codes in training; below 1 the hardest wrong codes weigh most (LETTER, arXiv:2405.07314).
    beam
        Hypotheses kept, at least as many as items asked for.
    search
        ``beam``, or ``exact``: score every item (`ml.recommenders.generative.exact`).
    """

    kind: Literal["autoregressive"] = "autoregressive"
    loss: PathLossParams = LikelihoodParams()
    normalise: Normalise = "trie"
    temperature: float = Field(default=1.0, gt=0)
    beam: int = Field(default=20, ge=1)
    search: Literal["beam", "exact"] = "beam"

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return Autoregressive(self, self.loss.build(facts))


class Autoregressive(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    def __init__(self, params: AutoregressiveParams, path_loss: PathLoss) -> None:
        super().__init__()
        self.params, self.path_loss = params, path_loss

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return (windows if causal else sliding)(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; targets without an ID count for nothing."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        trie = network.trie
        leaves = torch.where(asked >= 0, trie.place[asked.clamp(min=0)], -1)
        known = leaves >= 0
        states = network.states(memory, at, asked)[known]
        loss = states.sum()
        if len(states):
            rivals = self._rivals(network, memory, at, leaves) if self.path_loss.rivals else None
            loss = self.path_loss(self.chosen(network, states, leaves[known]), rivals)
        for part in network.auxiliary:
            loss = loss + part(network, sequences, targets, memory)
        return loss, known.sum()

    def chosen(self, network: Network, states: Tensor, leaves: Tensor) -> Tensor:
        """Return the log-probabilities of the codes that lead to items.

        Parameters
        ----------
        states
            float [m, levels, d]; see `Network.states`.
        leaves
            int64 [m], of the trie.

        Returns
        -------
        float [m, levels].
        """
        return path_scores(network, states, leaves, self.params.normalise, self.params.temperature)

    def _rivals(self, network: Network, memory: Memory, at: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Draw rivals of the targets with an ID; see `ml.recommenders.generative.parts.PathLoss`."""
        trie, known, n = network.trie, leaves >= 0, self.path_loss.rivals
        drawn = torch.randint(len(trie), (*leaves.shape, n), device=leaves.device)
        states = network.states(memory, at.repeat_interleave(n, dim=1), trie.items[drawn].flatten(1))
        states, drawn = states.unflatten(1, (-1, n))[known], drawn[known]
        chosen = self.chosen(network, states.flatten(0, 1), drawn.flatten()).unflatten(0, (-1, n))
        paths = torch.cat([leaves[known][:, None], drawn], dim=1)
        apart = []
        for depth in range(1, trie.levels + 1):
            nodes = trie.above(depth, paths)
            met = (nodes[:, :, None] == nodes[:, None, :]).triu(diagonal=1).any(dim=1)
            apart.append(~met[:, 1:])
        return chosen, torch.stack(apart, dim=-1)

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; an exact search is a beam as wide as the catalogue."""
        n, params = len(sequences.lengths), self.params
        decoding = Decoding(network, sequences, params.normalise)
        if params.search == "exact":
            return exact_search(decoding, network.trie, n, k, excluded, params.normalise)
        return beam_search(decoding, network.trie, n, params.beam, k, excluded, params.normalise)


def path_scores(
    network: Network, states: Tensor, leaves: Tensor, normalise: Normalise, temperature: float = 1.0
) -> Tensor:
    """Return the log-probabilities of the first codes of items.

    Parameters
    ----------
    states
        float [m, codes, d], before each code.
    leaves
        int64 [m], of the trie.
    normalise, temperature
        See `AutoregressiveParams`.

    Returns
    -------
    float [m, codes].
    """
    trie, table, found = network.trie, network.table, [states.new_zeros(len(states), 0)]
    for depth in range(states.shape[1]):
        nodes = trie.above(depth, leaves)
        _, codes, exists = trie.children(depth, nodes)
        if normalise == "table":
            logits = table.log_probabilities(states[:, depth], depth, temperature)
        else:
            logits = table.logits(states[:, depth], depth).float() / temperature
        scores = code_scores(logits, codes, exists, normalise)
        taken = trie.above(depth + 1, leaves) - trie.first[depth][nodes]
        found.append(scores.gather(1, taken[:, None]))
    return torch.cat(found, dim=1)
