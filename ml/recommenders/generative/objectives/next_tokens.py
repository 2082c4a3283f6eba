"""All codes of the next item at once: where a history has the first code of an item, the first code of the next, and so on.

RecGPT (Jiang et al., 2025, arXiv:2506.06270): what is read of the last item, one place a code, tells the codes of the next
item in one step, each without knowing the others. So a history is read once and no decoder runs. The paper finds items by
beam search over the trie; as no code waits for another, the exact best items are one sum over the catalogue, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences, Windows, windows
from ml.recommenders.generative.beam import beam_search
from ml.recommenders.generative.one_pass import code_sums, rank_all
from ml.recommenders.generative.parts import Facts, Memory, Objective, PartParams

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network


class NextTokensParams(PartParams):
    """Parameters of `NextTokens`.

    Parameters
    ----------
    normalise
        Whether a code's probability is over all codes of its level, as in the paper, or over those that any item of the
        catalogue has there; training and decoding do the same.
    beam
        Hypotheses kept of a beam search over the trie, at least as many as items asked for; None scores every item.
    """

    kind: Literal["next_tokens"] = "next_tokens"
    normalise: Literal["vocabulary", "catalogue"] = "vocabulary"
    beam: int | None = Field(default=None, ge=1)

    def check(self, whole: GenerativeParams) -> None:
        """See `ml.recommenders.generative.parts.PartParams.check`."""
        if any(whole.tokens.per_item(levels) != levels for levels in (2, 3)):
            raise ValueError("objective next_tokens needs tokens with one place for each code")
        if getattr(whole.backbone, "causal", True) is not True:
            raise ValueError("objective next_tokens needs a causal backbone")

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return NextTokens(self)


class NextTokens(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    def __init__(self, params: NextTokensParams) -> None:
        super().__init__()
        self.params = params

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return windows(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; the sum over codes, and a missing ID counts for nothing."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        known = (asked >= 0) & (network.trie.place[asked.clamp(min=0)] >= 0)
        states = last_item(memory, at)[known]
        table = network.table
        codes = table.rows(asked[known]) - table.offsets
        loss = states.sum() * 0
        if len(states):
            for level, present in enumerate(self._present(network)):
                logits = table.logits(states[:, level], level, present).float()
                place = (
                    codes[:, level]
                    if present is None
                    else torch.searchsorted(present, codes[:, level].contiguous())
                )
                loss = loss + nn.functional.cross_entropy(logits, place)
        return loss, known.sum()

    def scores(self, network: Network, sequences: Sequences) -> list[Tensor]:
        """Return the log-probabilities of the codes of each level, float [n, size of the level]; -inf for none."""
        states = last_item(network.read(sequences), sequences.lengths[:, None])[:, 0]
        table, found = network.table, []
        for level, present in enumerate(self._present(network)):
            told = table.logits(states[:, level], level, present).float().log_softmax(-1)
            if present is not None:
                every = told.new_full((len(told), table.code_sizes[level]), -torch.inf)
                told = every.index_copy(1, present, told)
            found.append(told)
        return found

    def _present(self, network: Network) -> list[Tensor | None]:
        """Return the codes of each level that a probability is over, int64, rising; None for all."""
        table = network.table
        if self.params.normalise == "vocabulary":
            return [None] * table.levels
        codes = (table.item_rows - table.offsets)[network.trie.place >= 0]
        return [column.unique() for column in codes.T]

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; with a beam as wide as the catalogue it is exact."""
        scores, trie = self.scores(network, sequences), network.trie
        if self.params.beam is not None:
            n = len(sequences.lengths)
            return beam_search(_Told(scores), trie, n, self.params.beam, k, excluded)
        values = torch.cat(scores, dim=1)
        rows = network.table.item_rows
        return rank_all(lambda users: code_sums(values[users], rows), trie, len(values), k, excluded)


class _Told:
    """Codes of all levels scored beforehand, as a `ml.recommenders.generative.beam.Decoder`."""

    def __init__(self, scores: list[Tensor]) -> None:
        self.scores, self.level = scores, 0

    def start(self) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        return self.scores[0][:, None]

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        self.level += 1
        return self.scores[self.level][:, None].expand(-1, codes.shape[1], -1)


def last_item(memory: Memory, at: Tensor) -> Tensor:
    """Return the states of the codes of the last of the first ``at`` items, int64 [n, p]; float [n, p, per_item, d].

    Where there is no item, the state of the start stands for all.
    """
    place = (at[..., None] - 1) * memory.per_item + 1 + torch.arange(memory.per_item, device=at.device)
    index = place.clamp(min=0).flatten(1)[..., None].expand(-1, -1, memory.states.shape[-1])
    return memory.states.gather(1, index).unflatten(1, place.shape[1:])
