"""Histories that led to the same item meant the same: the auxiliary losses of ICSRec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ml.histories import Histories
from ml.recommenders.batches import Sequences, sliding
from ml.recommenders.clusters import nearest_centres, spherical_kmeans
from ml.recommenders.sequential.parts import Facts, PartParams, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network

_ROWS = 1024


class IntentContrastParams(PartParams):
    """Parameters of `IntentContrast`.

    Parameters
    ----------
    coarse, fine
        Weights of the two losses; 0 leaves one out.
    intents
        Prototypes.
    temperature
        Of cosines.
    """

    kind: Literal["intent_contrast"] = "intent_contrast"
    coarse: float = Field(default=0.1, ge=0)
    fine: float = Field(default=0.1, ge=0)
    intents: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)

    def build(self, facts: Facts) -> IntentContrast:
        """Make the part."""
        train = facts.train or Histories.of([])
        return IntentContrast(
            train, facts.max_length, facts.d, self.coarse, self.fine, self.intents, self.temperature
        )


class IntentContrast(nn.Module):
    """What precedes an event stands for an intent, told coarsely by the event's item and finely by clusters.

    Qin et al., "Intent Contrastive Learning with Cross Subsequences for Sequential Recommendation" (WSDM 2024,
    arXiv:2310.14318, sections 3.3 and 3.4). Every history is cut into what came before each of its events (dynamic
    sliding). Coarse: a sequence is nearer to another one that led to the same item than to the rest of the batch. Fine:
    it is nearer to its prototype, the nearest of the centres of all of them at the start of the epoch, than to others'.
    In neither is another row of the same item, or of the same prototype, a negative. The paper compares by inner
    products; states here end in a layer norm, so cosines over a temperature are compared.

    Parameters
    ----------
    train, max_length
        Training histories and how much of them is read: where partners come from.
    d
        Width.
    coarse, fine, intents, temperature
        See `IntentContrastParams`.
    """

    prototypes: Tensor

    def __init__(
        self,
        train: Histories,
        max_length: int,
        d: int,
        coarse: float,
        fine: float,
        intents: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.coarse, self.fine, self.temperature = coarse, fine, temperature
        self.cut = sliding(train, max_length)
        targets = train.items[self.cut.starts + self.cut.lengths].astype(np.int64)
        #: Windows sorted by target, and where those of each target begin.
        self.by_target = np.argsort(targets, kind="stable")
        self.offsets = np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=1))])
        n = min(intents, len(targets))
        self.register_buffer("prototypes", torch.zeros(n, d), persistent=False)

    @torch.no_grad()
    def begin_epoch(self, network: Network, rng: np.random.Generator) -> None:
        """Cluster the states of all training windows."""
        if not self.fine:
            return
        network.eval()
        table, device = network.item_net(), self.prototypes.device
        states = torch.empty(len(self.cut.starts), self.prototypes.shape[1], device=device)
        for rows in np.split(by_length := np.argsort(self.cut.lengths), range(_ROWS, len(by_length), _ROWS)):
            read = self.windows(rows, device)
            states[rows] = network.objective.ask(network, read, table).float()
        self.prototypes.copy_(spherical_kmeans(states, len(self.prototypes))[0])

    def windows(self, rows: np.ndarray, device: torch.device) -> Sequences:
        """Read training windows."""
        read = self.cut.events.take(self.cut.starts[rows], self.cut.lengths[rows])
        return read.to(device)

    def partners(self, targets: Tensor) -> np.ndarray:
        """Draw for each target, int64 [n], a window that led to it, int64 [n]."""
        drawn, wanted = torch.rand(len(targets)).numpy().astype(np.float64), targets.cpu().numpy()
        first, size = self.offsets[wanted], self.offsets[wanted + 1] - self.offsets[wanted]
        return self.by_target[first + np.minimum((drawn * size).astype(np.int64), size - 1)]

    def forward(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """See `ml.recommenders.sequential.parts.Auxiliary`."""
        wanted = last_state(targets[..., None], sequences.lengths)[:, 0]
        other = self.windows(self.partners(wanted), states.device)
        views = [
            last_state(states, sequences.lengths),
            last_state(network.states(other, table), other.lengths),
        ]
        value = self.coarse * contrast(views[0], views[1], wanted, self.temperature)
        if self.fine:
            for view in views:
                mine = self.nearest(view)
                value = value + self.fine * contrast(view, self.prototypes[mine], mine, self.temperature)
        return value

    def nearest(self, states: Tensor) -> Tensor:
        """Return the prototype of each state, int64 [n]."""
        return nearest_centres(states.detach().float(), self.prototypes)


def contrast(first: Tensor, second: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of finding each row's partner among all rows of both, but for those of its own label.

    Parameters
    ----------
    first, second
        float [n, d]; partners stand in the same row.
    labels
        int64 [n], of both: rows of one label are no negatives of each other.
    temperature
        Of cosines.
    """
    both, twice = normalize(torch.cat([first, second]), dim=1), torch.cat([labels, labels])
    place = torch.arange(len(both), device=both.device)
    partner = (place + len(labels)) % len(both)
    hidden = twice[:, None] == twice
    hidden[place, partner] = False
    return cross_entropy((both @ both.T / temperature).masked_fill(hidden, -torch.inf), partner)
