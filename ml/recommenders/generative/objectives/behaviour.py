"""Tell first what the user will do, then with which item: the event type is the first code that is written.

MBGen (Liu et al., CIKM 2024, arXiv:2405.16871). At inference the type is one that is asked for, or the likeliest, or items
are summed over all types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.network import Decoding
from ml.recommenders.generative.objectives.autoregressive import Autoregressive, AutoregressiveParams
from ml.recommenders.generative.objectives.mixture import plain_loss, search_mixture
from ml.recommenders.generative.parts import Facts, Memory, Objective

if TYPE_CHECKING:
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network


class BehaviourParams(AutoregressiveParams):
    """Parameters of `BehaviourFirst`, beside those of the codes.

    Parameters
    ----------
    asked
        What is answered for: every event type as likely as it is (``marginal``), the ``likeliest`` alone, or the type
        of this number, that is its place in the snapshot's names.
    search
        ``beam`` alone.
    """

    kind: Literal["behaviour_first"] = "behaviour_first"  # type: ignore[assignment]
    asked: Literal["marginal", "likeliest"] | int = "marginal"
    search: Literal["beam"] = "beam"

    def check(self, whole: GenerativeParams) -> None:
        """Raise a ValueError of one line where the part does not go with the other parameters."""
        if whole.tokens.kind == "disentangled":
            raise ValueError("objective behaviour_first cannot write tokens of kind disentangled")

    def build(self, facts: Facts) -> Objective:
        """Make the part.

        Raises
        ------
        ValueError
            If the type that is asked for does not occur in training.
        """
        if isinstance(self.asked, int) and not 0 <= self.asked < facts.behaviours:
            raise ValueError(f"event type {self.asked} is asked for; training has {facts.behaviours}")
        return BehaviourFirst(self, facts)


class BehaviourFirst(Autoregressive):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    params: BehaviourParams

    def __init__(self, params: BehaviourParams, facts: Facts) -> None:
        super().__init__(params, plain_loss(params, facts))
        scale = facts.d**-0.5
        self.ask = nn.Parameter(torch.randn(facts.d) * scale)
        self.types = nn.Parameter(torch.randn(facts.behaviours, facts.d) * scale)
        self.bias = nn.Parameter(torch.zeros(facts.behaviours))

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; the type is a step of the target's path."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        _, types = network.asked(sequences, sequences.target_types)
        leaves = torch.where(asked >= 0, network.trie.place[asked.clamp(min=0)], -1)
        known = leaves >= 0
        states = self.states(network, memory, at, asked, types)[known]
        if len(states):
            told = self.type_scores(states[:, 0]).gather(1, types[known][:, None])
            path = torch.cat([told, self.chosen(network, states[:, 1:], leaves[known])], dim=1)
            loss = self.path_loss(path)
        else:
            loss = states.sum()
        return loss, known.sum()

    def states(self, network: Network, memory: Memory, at: Tensor, targets: Tensor, types: Tensor) -> Tensor:
        """Return the states before the type and before every code, float [n, p, 1 + levels, d].

        Parameters
        ----------
        at, targets, types
            int64 [n, p]; see `ml.recommenders.generative.network.Network.asked`.
        """
        codes = network.table.inputs(network.table.rows(targets)[..., :-1])
        ask = self.ask.expand(*targets.shape, 1, -1)
        first = codes[..., :1, :] + embedding(types, self.types)[..., None, :]
        return network.backbone.write(memory, at, torch.cat([ask, first, codes[..., 1:, :]], dim=-2))

    def type_scores(self, states: Tensor) -> Tensor:
        """Return log-probabilities of the event types, float [..., behaviours], by states [..., d]."""
        return (states @ self.types.T + self.bias).float().log_softmax(dim=-1)

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; scores are log-probabilities of items.

        Those of an item under a type that was asked for do not count how likely that type is.
        """
        decoding = BehaviourDecoding(network, sequences, self)
        return search_mixture(self._branches(decoding), network.trie, self.params, k, excluded)

    def _branches(self, decoding: BehaviourDecoding) -> Iterator[tuple[BehaviourDecoding, Tensor]]:
        asked, told = self.params.asked, decoding.told
        if asked == "marginal":
            for kind in range(told.shape[1]):
                yield decoding.under(torch.full_like(decoding.at[:, 0], kind)), told[:, kind]
        elif asked == "likeliest":
            best = told.max(dim=1)
            yield decoding.under(best.indices), best.values
        else:
            yield decoding.under(torch.full_like(decoding.at[:, 0], asked)), torch.zeros_like(told[:, 0])


class BehaviourDecoding(Decoding):
    """A generation that begins by telling the event type; `under` one of them it goes on."""

    def __init__(self, network: Network, sequences: Sequences, objective: BehaviourFirst) -> None:
        super().__init__(network, sequences, objective.params.normalise)
        self.objective = objective
        states, self.asked = self.steps.write(objective.ask.expand(len(self.at), 1, -1))
        #: Log-probabilities of the event types, float [n, behaviours].
        self.told = objective.type_scores(states[:, 0])
        self.types = self.at[:, 0]

    def under(self, types: Tensor) -> BehaviourDecoding:
        """Start again where each user does the event type given, int64 [n]."""
        self.types, self.level, self.steps = types, 0, self.asked
        return self

    def start(self) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        table = self.network.table
        x = table.inputs(table.offsets.new_zeros(len(self.at), 1, 0))
        return self._advance(x + embedding(self.types, self.objective.types)[:, None, None], None)
