"""Tell the whole next session: each of its items is a target of the state at the end of the sessions before it.

SessionRec (Huang et al. 2025, arXiv:2502.10157). What the paper ranks inside a session is what the user took against what was
shown; histories hold no impressions, so here it is what the user did more with against what less was done with (rarer event
types count as more: a purchase above a view). Of a log with one event type nothing is ranked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ml.recommenders.batches import Sequences, Windows, windows
from ml.recommenders.generative.objectives.autoregressive import Autoregressive, AutoregressiveParams
from ml.recommenders.generative.objectives.mixture import plain_loss
from ml.recommenders.generative.parts import Facts, Objective
from ml.recommenders.generative.tokens.session import SessionTokens

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network


class SessionParams(AutoregressiveParams):
    """Parameters of `NextSession`, beside those of the codes.

    Parameters
    ----------
    target
        The whole next ``session``, or its first item alone (``item``).
    rank
        Weight of the rank loss inside a session.
    """

    kind: Literal["next_session"] = "next_session"  # type: ignore[assignment]
    target: Literal["session", "item"] = "session"
    rank: float = Field(default=0.1, ge=0)

    def check(self, whole: GenerativeParams) -> None:
        """Raise a ValueError of one line where the part does not go with the other parameters."""
        if whole.tokens.kind != "session":
            raise ValueError("objective next_session needs tokens of kind session")
        if not getattr(whole.backbone, "causal", True):
            raise ValueError("objective next_session needs a causal backbone")

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return NextSession(self, facts)


class NextSession(Autoregressive):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    params: SessionParams

    def __init__(self, params: SessionParams, facts: Facts) -> None:
        super().__init__(params, plain_loss(params, facts))
        types = torch.zeros(facts.behaviours, dtype=torch.int64)
        if facts.train is not None:
            types = torch.bincount(
                torch.from_numpy(facts.train.event_types).long(), minlength=facts.behaviours
            )
        # Only training asks for it.
        self.register_buffer("seen", types, persistent=False)
        self.seen: Tensor

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return windows(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; targets of a window's first session count for nothing."""
        session, first = target_sessions(network, sequences)
        wanted = (session > 0) & (targets >= 0)
        if self.params.target == "item":
            wanted &= first
        leaves = torch.where(wanted, network.trie.place[targets.clamp(min=0)], -1)
        known = leaves >= 0
        memory = network.read(sequences)
        states = network.states(memory, session, targets)[known]
        if len(states):
            path = self.chosen(network, states, leaves[known])
            loss = self.path_loss(path)
            if self.params.rank:
                scores = path.new_zeros(known.shape).masked_scatter(known, path.sum(dim=1))
                loss = loss + self.params.rank * self.rank_loss(scores, known, session, sequences, targets)
        else:
            loss = states.sum()
        return loss, known.sum()

    def rank_loss(
        self, scores: Tensor, known: Tensor, session: Tensor, sequences: Sequences, targets: Tensor
    ) -> Tensor:
        """Return the mean of ``log(1 + exp(lesser - greater))`` over the pairs of a session's items that differ in type.

        Parameters
        ----------
        scores, known, session, targets
            [n, length]: log-probabilities, whether there is one, and session and item of each target.
        """
        count = self.seen[sequences.target_types]
        pair = (session[:, :, None] == session[:, None, :]) & (targets[:, :, None] != targets[:, None, :])
        pair &= known[:, :, None] & known[:, None, :] & (count[:, :, None] < count[:, None, :])
        margin = scores[:, :, None] - scores[:, None, :]
        return softplus(-margin[pair]).mean() if bool(pair.any()) else scores.sum() * 0


def target_sessions(network: Network, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Return the session of each target, int64 [n, length], and whether it is the first of its session."""
    tokens = network.tokens
    assert isinstance(tokens, SessionTokens)
    first = (sequences.target_times - sequences.times) > tokens.gap
    return tokens.sessions(sequences) + first, first & sequences.real
