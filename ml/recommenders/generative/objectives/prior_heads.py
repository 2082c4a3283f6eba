"""Heads by what people know of a choice: adapters between states and logits, one for each label of a prior.

After "Don't Waste It: Guiding Generative Recommenders with Structured Human Priors via Multi-head Decoding" (Zhang et al.
2025, arXiv:2511.10492). A target trains the heads of its own labels. Heads of several priors are composed: the state goes
through the adapter of each prior's label, one prior after the other, so that heads for all combinations cost their
sum and not their product. A gate, trained on the same labels, says how likely each combination is; items are found under the
likeliest ones, and summed by their probability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, relu

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.network import Decoding
from ml.recommenders.generative.objectives.autoregressive import Autoregressive, AutoregressiveParams
from ml.recommenders.generative.objectives.mixture import plain_loss, search_mixture
from ml.recommenders.generative.parts import Facts, Memory, Objective

if TYPE_CHECKING:
    from ml.recommenders.generative.network import Network
    from ml.snapshot import Catalogue

Prior = Literal["behaviour", "term", "taxonomy"]
#: Labels of the prior ``term``.
NEW, LONG, SHORT = range(3)


class PriorHeadsParams(AutoregressiveParams):
    """Parameters of `PriorHeads`, beside those of the codes.

    Parameters
    ----------
    priors
        Those that have heads, in the order in which they are composed. ``behaviour``: the event type. ``term``: whether
        the target's first code is among those of the last ``recent`` items (2, a short-term interest), only among those
        of items before them (1, a long-term one), or among none (0). ``taxonomy``: the target's coarsest category,
        of which the ``groups - 1`` largest have a head each, and all others together one.
    recent, groups
        See ``priors``.
    width
        Of an adapter; 0 leaves the adapters out: only the gate is trained beside the codes.
    heads
        Combinations of labels, the likeliest of each history, under which items are searched.
    asked
        Prior to the label that is answered for, rather than all as likely as they are: steers the list.
    search
        ``beam`` alone.
    """

    kind: Literal["prior_heads"] = "prior_heads"  # type: ignore[assignment]
    priors: tuple[Prior, ...] = ("behaviour", "term", "taxonomy")
    recent: int = Field(default=3, ge=1)
    groups: int = Field(default=8, ge=1)
    width: int = Field(default=16, ge=0)
    heads: int = Field(default=4, ge=1)
    asked: dict[Prior, int] = Field(default_factory=dict)
    search: Literal["beam"] = "beam"

    def build(self, facts: Facts) -> Objective:
        """Make the part.

        Raises
        ------
        ValueError
            If a label is asked for that a prior does not have.
        """
        return PriorHeads(self, facts)

    def labels(self, facts: Facts) -> dict[Prior, int]:
        """Return the number of labels of each prior."""
        sizes: dict[Prior, int] = {"behaviour": facts.behaviours, "term": 3, "taxonomy": self.groups}
        return {prior: sizes[prior] for prior in self.priors}


class Adapters(nn.Module):
    """A residual bottleneck for each label; at first they change nothing."""

    def __init__(self, d: int, width: int, labels: int) -> None:
        super().__init__()
        self.labels = labels
        self.down = nn.Linear(d, labels * width, bias=False)
        self.up = nn.Linear(labels * width, d, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map [..., d] to the same shape, each by the adapter of its label, int64 that broadcasts to [...]."""
        inner = relu(self.down(x)).unflatten(-1, (self.labels, -1))
        own = one_hot(label, self.labels).to(x.dtype)[..., None]
        mapped: Tensor = x + self.up((inner * own).flatten(-2))
        return mapped


class PriorHeads(Autoregressive):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    params: PriorHeadsParams

    def __init__(self, params: PriorHeadsParams, facts: Facts) -> None:
        super().__init__(params, plain_loss(params, facts))
        self.sizes = params.labels(facts)
        for prior, label in params.asked.items():
            if not 0 <= label < self.sizes.get(prior, 0):
                raise ValueError(f"label {label} of prior {prior} is asked for; heads are {self.sizes}")
        adapted = self.sizes if params.width else {}
        self.adapters = nn.ModuleDict(
            {prior: Adapters(facts.d, params.width, size) for prior, size in adapted.items()}
        )
        self.gates = nn.ModuleDict({prior: nn.Linear(facts.d, size) for prior, size in self.sizes.items()})
        self.register_buffer("taxonomy", taxonomy(facts.catalogue, params.groups), persistent=False)
        self.taxonomy: Tensor

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        leaves = torch.where(asked >= 0, network.trie.place[asked.clamp(min=0)], -1)
        known = leaves >= 0
        states = network.states(memory, at, asked)[known]
        if len(states):
            labels = {
                prior: network.asked(sequences, label)[1][known]
                for prior, label in self.labels(network, sequences, targets).items()
            }
            adapted = self.adapt(states, {prior: label[:, None] for prior, label in labels.items()})
            loss = self.path_loss(self.chosen(network, adapted, leaves[known]))
            before = memory.after(at)[known]
            for prior, label in labels.items():
                loss = loss + cross_entropy(self.gates[prior](before).float(), label)
        else:
            loss = states.sum()
        return loss, known.sum()

    def labels(self, network: Network, sequences: Sequences, targets: Tensor) -> dict[Prior, Tensor]:
        """Return the labels of targets int64 [n, length] by prior, of the same shape; those of no target are any."""
        found: dict[Prior, Tensor] = {}
        for prior in self.sizes:
            if prior == "behaviour":
                found[prior] = sequences.target_types
            elif prior == "term":
                found[prior] = self._terms(network, sequences, targets)
            else:
                found[prior] = self.taxonomy[targets.clamp(min=0)]
        return found

    def _terms(self, network: Network, sequences: Sequences, targets: Tensor) -> Tensor:
        read = network.table.rows(sequences.items)[..., 0]
        wanted = network.table.rows(targets)[..., 0]
        place = torch.arange(targets.shape[1], device=targets.device)
        # Row: target, column: item read. Of the target in place i, items up to i are known.
        age = place[:, None] - place
        same = (wanted[:, :, None] == read[:, None, :]) & (age >= 0)
        short = (same & (age < self.params.recent)).any(dim=2)
        return torch.where(short, SHORT, torch.where(same.any(dim=2), LONG, NEW))

    def adapt(self, states: Tensor, labels: dict[Prior, Tensor]) -> Tensor:
        """Send states [..., d] through the head of their labels, each broadcasting to [...]."""
        for prior, adapter in self.adapters.items():
            states = adapter(states, labels[prior])  # type: ignore[index]
        return states

    def combinations(self, memory: Memory, at: Tensor) -> tuple[Tensor, dict[Prior, Tensor]]:
        """Return the combinations of labels to search under.

        Parameters
        ----------
        at
            int64 [n, 1], what precedes the item.

        Returns
        -------
        Log-probabilities float [n, m], and the label of each prior, int64 [n, m].
        """
        state = memory.after(at)[:, 0]
        total = state.new_zeros(len(state), 1, dtype=torch.float32)
        free = [prior for prior in self.sizes if prior not in self.params.asked]
        for prior in free:
            told = self.gates[prior](state).float().log_softmax(dim=-1)
            total = (total[:, :, None] + told[:, None, :]).flatten(1)
        weights, number = total.topk(min(self.params.heads, total.shape[1]), dim=1)
        labels: dict[Prior, Tensor] = {}
        for prior in reversed(free):
            labels[prior] = number % self.sizes[prior]
            number = number // self.sizes[prior]
        fixed = {prior: torch.full_like(number, label) for prior, label in self.params.asked.items()}
        return weights, labels | fixed

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; with all combinations and a wide beam it is exact."""
        decoding = PriorDecoding(network, sequences, self)
        return search_mixture(self._branches(decoding), network.trie, self.params, k, excluded)

    def _branches(self, decoding: PriorDecoding) -> Iterator[tuple[PriorDecoding, Tensor]]:
        weights, labels = self.combinations(decoding.memory, decoding.at)
        for head in range(weights.shape[1]):
            yield (
                decoding.under({prior: label[:, head, None] for prior, label in labels.items()}),
                weights[:, head],
            )


class PriorDecoding(Decoding):
    """A generation `under` labels, int64 [n, 1] by prior."""

    def __init__(self, network: Network, sequences: Sequences, objective: PriorHeads) -> None:
        super().__init__(network, sequences, objective.params.normalise)
        self.objective = objective
        self.labels: dict[Prior, Tensor] = {}
        self.begun = self.steps

    def under(self, labels: dict[Prior, Tensor]) -> PriorDecoding:
        """Start again under labels."""
        self.labels, self.level, self.steps, self.written = labels, 0, self.begun, None
        return self

    def logits(self, states: Tensor) -> Tensor:
        """See `Decoding.logits`."""
        return super().logits(self.objective.adapt(states, self.labels))


def taxonomy(catalogue: Catalogue, groups: int) -> Tensor:
    """Return the group of each item by its coarsest category, int64 [n_items]: the largest is 0, all small ones the last."""
    names = [path[0] if path else "" for path in catalogue.categories]
    order = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    number = {name: min(place, groups - 1) for place, (name, _) in enumerate(order)}
    return torch.tensor([number[name] for name in names], dtype=torch.int64)
