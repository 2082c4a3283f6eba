"""Write IDs code by code, and let items compete that no training event names.

The last codes of an untrained item were never a target, so that a beam search all but never ends in it. After LIGER (Yang
et al. 2024, arXiv:2411.18814, section 4), what the search found among trained items and all untrained items are ranked
together, by what an item's text says too. There a vector learned with the codes is compared with the texts; here it is the
weighted mean text of the user's recent items, which needs no training, and the codes keep their say: of a trained
item the probability of its ID, of an untrained one that of its first code, the part of its ID that was learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from ml.recommenders.base import item_counts
from ml.recommenders.batches import Sequences
from ml.recommenders.edges import text_vectors
from ml.recommenders.generative.beam import beam_search, ranked
from ml.recommenders.generative.network import Decoding
from ml.recommenders.generative.objectives.autoregressive import Autoregressive, AutoregressiveParams
from ml.recommenders.generative.parts import Facts, Objective, PathLoss
from ml.recommenders.generative.trie import build_trie
from ml.recommenders.heuristics.text_similarity import whitened

if TYPE_CHECKING:
    from ml.recommenders.generative.network import Network


class ColdStartParams(AutoregressiveParams):
    """Parameters of `ColdStart`, beside those of `Autoregressive`.

    Parameters
    ----------
    psi
        Weight of a cosine of texts in every item's score.
    prefix
        Weight of the log-probability of an untrained item's first code.
    offset
        Added to the score of untrained items: how readily they are shown; None keeps them out.
    recency_decay, whiten
        As in `ml.recommenders.heuristics.text_similarity.TextSimilarityParams`.
    search
        ``beam`` alone.
    """

    kind: Literal["cold_start"] = "cold_start"  # type: ignore[assignment]
    psi: float = Field(default=10.0, ge=0)
    prefix: float = Field(default=0.25, ge=0)
    offset: float | None = -5.75
    recency_decay: float = Field(default=0.6, gt=0, le=1)
    whiten: float = Field(default=0.5, ge=0, le=1)
    search: Literal["beam"] = "beam"

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return ColdStart(self, self.loss.build(facts), facts)


class ColdStart(Autoregressive):
    """See the module and `ml.recommenders.generative.parts.Objective`.

    Which items are trained is told at the training, and saved as their IDs, which they keep in a catalogue that grew.
    An item without a text has a cosine of 0.
    """

    params: ColdStartParams
    text: Tensor

    def __init__(self, params: ColdStartParams, path_loss: PathLoss, facts: Facts) -> None:
        super().__init__(params, path_loss)
        self._codes, self._sizes = facts.codes, facts.code_sizes
        told = torch.from_numpy(whitened(text_vectors(facts.catalogue), params.whiten))
        self.register_buffer("text", told, persistent=False)
        trained = facts.trie.place >= 0
        if facts.train is not None:
            trained &= torch.from_numpy(item_counts(facts.train, facts.n_items) > 0)
        self.set_extra_state(self._codes[trained])

    def get_extra_state(self) -> Tensor:
        """Return the IDs of trained items, int64 [n, levels]."""
        return self._trained

    def set_extra_state(self, state: Tensor) -> None:
        """Take the IDs of trained items, int64 [n, levels]; all other items with an ID are untrained."""
        self._trained, n = state.cpu(), len(state)
        number = torch.cat([self._trained, self._codes]).unique(dim=0, return_inverse=True)[1]
        known = torch.isin(number[n:], number[:n])
        self._seen = build_trie(torch.where(known[:, None], self._codes, -1).int().numpy(), self._sizes)
        self._new = torch.nonzero(~known & (self._codes[:, 0] >= 0))[:, 0]

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; scores are no log-probabilities."""
        params, device = self.params, self.text.device
        self._seen, self._new = self._seen.to(device), self._new.to(device)
        decoding, recent = _Generation(network, sequences, params.normalise), self._recent(sequences)
        n, width = len(recent), max(params.beam, k)
        items, scores = beam_search(decoding, self._seen, n, width, width, excluded, params.normalise)
        scores = scores + params.psi * torch.einsum("nw,nkw->nk", recent, self.text[items.clamp(min=0)])
        if params.offset is not None:
            items = torch.cat([items, self._new.expand(n, -1)], dim=1)
            first = decoding.first.log_softmax(dim=-1)
            scores = torch.cat([scores, self._untrained(first, recent, excluded) + params.offset], dim=1)
        scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
        return ranked(items.gather(1, best), scores, k)

    def _untrained(self, first: Tensor, recent: Tensor, excluded: Tensor | None) -> Tensor:
        """Score untrained items by their first code and their text, float [n, untrained]; -inf where excluded."""
        params, new = self.params, self._new
        codes = self._codes.to(new.device)[new, 0]
        scores = params.prefix * first[:, codes] + params.psi * (recent @ self.text[new].T)
        if excluded is not None:
            place = torch.full((len(self.text),), -1, device=new.device)
            place[new] = torch.arange(len(new), device=new.device)
            place = torch.where(excluded >= 0, place[excluded.clamp(min=0)], -1)
            user, column = torch.nonzero(place >= 0, as_tuple=True)
            scores[user, place[user, column]] = -torch.inf
        return scores

    def _recent(self, sequences: Sequences) -> Tensor:
        """Return the direction of the weighted mean text of each history, the latest item first, float [n, width]."""
        age = sequences.lengths[:, None] - 1 - torch.arange(sequences.items.shape[1], device=self.text.device)
        votes = torch.where(age >= 0, self.params.recency_decay ** age.clamp(min=0).to(self.text.dtype), 0.0)
        return normalize(torch.einsum("nl,nlw->nw", votes, self.text[sequences.items]), dim=1)


class _Generation(Decoding):
    """A generation that keeps the logits of the first code, float [n, size]."""

    first: Tensor

    def start(self) -> Tensor:
        logits = super().start()
        self.first = logits[:, 0]
        return logits
