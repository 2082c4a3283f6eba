"""Think before recommending: the objective of ReaRec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from ml.histories import Histories
from ml.recommenders.batches import Sequences, Windows, sliding
from ml.recommenders.losses import info_nce
from ml.recommenders.sequential.parts import Facts, PartParams, Reading, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network


class ReasoningParams(PartParams):
    """Parameters of `Reasoning`.

    Parameters
    ----------
    steps
        Times that the last state is fed back.
    learning
        ``ensemble``: the mean of all steps is trained and asked, and steps are driven apart. ``progressive``: the last
        one is asked; those before it are trained at higher temperatures, the earlier the higher.
    divergence
        Ensemble: weight of the divergence between steps.
    anneal
        Progressive: factor of temperature from each step to the one before it.
    early
        Progressive: weight of the mean loss of the steps before the last.
    contrast, contrast_temperature, noise
        Progressive: weight of, and temperature in, finding a step that was disturbed by noise of this deviation.
    """

    kind: Literal["reasoning"] = "reasoning"
    steps: int = Field(default=2, ge=1)
    learning: Literal["ensemble", "progressive"] = "ensemble"
    divergence: float = Field(default=0.05, ge=0)
    anneal: float = Field(default=2.0, ge=1)
    early: float = Field(default=1.0, ge=0)
    contrast: float = Field(default=0.1, ge=0)
    contrast_temperature: float = Field(default=0.1, gt=0)
    noise: float = Field(default=0.01, ge=0)

    @property
    def more_places(self) -> int:
        """See `PartParams.more_places`: one for each step."""
        return self.steps

    @property
    def whole_window(self) -> bool:
        """See `PartParams.whole_window`: a window is read for its end alone."""
        return True

    def build(self, facts: Facts) -> Reasoning:
        """Make the part."""
        return Reasoning(facts.d, self)


class Reasoning(nn.Module):
    """Predict what comes next after some more passes, each with the state before it appended as if it were an item.

    Tang et al., "Think Before Recommend: Unleashing the Latent Reasoning Power for Sequential Recommendation"
    (arXiv:2503.22675, sections 3.1 to 3.3). A state is fed back with a vector of its step in place of that of a place,
    at the time of the last item. A window is cut for each event of a history, as only its end thinks. Every pass reads
    the whole sequence, with dropout of its own: any causal block serves, and ``steps`` cost as many passes more.

    Parameters
    ----------
    d
        Width.
    params
        See `ReasoningParams`.
    """

    causal = True

    def __init__(self, d: int, params: ReasoningParams) -> None:
        super().__init__()
        self.params = params
        self.step = nn.Parameter(torch.randn(params.steps, d) * 0.02)

    def windows(self, histories: Histories, max_length: int) -> Windows:
        """See `ml.recommenders.sequential.parts.Objective`."""
        return sliding(histories, max_length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.sequential.parts.Objective`."""
        table = network.item_net()
        x, reading = self.opening(network, sequences, table)
        states = network.encode(x, reading)
        start = last_state(states, sequences.lengths)
        thoughts = self.thoughts(network, x, reading, start, sequences.lengths)
        wanted = network.row[last_state(targets[..., None], sequences.lengths)[:, 0]]
        if self.params.learning == "ensemble":
            value = self.ensemble_loss(network, thoughts, table, wanted)
        else:
            value = self.progressive_loss(network, thoughts, table, wanted)
            if self.params.contrast:
                disturbed = self.thoughts(network, x, reading, start, sequences.lengths, self.params.noise)
                value = value + self.params.contrast * torch.stack(
                    [
                        info_nce(disturbed[:, k], thoughts[:, k], self.params.contrast_temperature)
                        for k in range(1, thoughts.shape[1])
                    ]
                ).mean(dim=0)
        for auxiliary in network.auxiliary:
            value = value + auxiliary(network, sequences, targets, states, table)
        return value, torch.tensor(len(wanted), device=wanted.device)

    def ensemble_loss(self, network: Network, thoughts: Tensor, table: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of the mean of the steps, less their weighted mean divergence over the whole catalogue."""
        asked, rows = network.comparable(thoughts.mean(dim=1), table[network.trained])
        value = network.loss(asked, rows, wanted)
        if not self.params.divergence:
            return value
        each, _ = network.comparable(thoughts, rows[:0])
        return value - self.params.divergence * mean_divergence(each @ rows.T)

    def progressive_loss(self, network: Network, thoughts: Tensor, table: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of the last step and the weighted mean of those before it, at their temperatures."""
        each, rows = network.comparable(thoughts, table[network.trained])
        steps = self.params.steps
        losses = [
            network.loss(each[:, k] / self.params.anneal ** (steps - k), rows, wanted)
            for k in range(steps + 1)
        ]
        return losses[-1] + self.params.early * torch.stack(losses[:-1]).mean(dim=0)

    def ask(self, network: Network, sequences: Sequences, table: Tensor) -> Tensor:
        """See `ml.recommenders.sequential.parts.Objective`."""
        x, reading = self.opening(network, sequences, table)
        start = last_state(network.encode(x, reading), sequences.lengths)
        thoughts = self.thoughts(network, x, reading, start, sequences.lengths)
        return thoughts.mean(dim=1) if self.params.learning == "ensemble" else thoughts[:, -1]

    def opening(self, network: Network, sequences: Sequences, table: Tensor) -> tuple[Tensor, Reading]:
        """Return what the first pass reads: vectors float [n, length, d], and where they stand."""
        reading = Reading.of(sequences, network.max_length, self.causal)
        return network.placed(table[sequences.items], reading), reading

    def thoughts(
        self,
        network: Network,
        x: Tensor,
        reading: Reading,
        start: Tensor,
        lengths: Tensor,
        noise: float = 0.0,
    ) -> Tensor:
        """Return the states after 0, 1, ... steps, float [n, steps + 1, d], from the state after none."""
        found = [start]
        for k in range(self.params.steps):
            thought = found[-1] + self.step[k]
            if noise:
                thought = thought + noise * torch.randn_like(thought)
            x, reading = appended(x, reading, thought, lengths + k)
            found.append(last_state(network.encode(x, reading), lengths + k + 1))
        return torch.stack(found, dim=1)


def appended(x: Tensor, reading: Reading, thought: Tensor, lengths: Tensor) -> tuple[Tensor, Reading]:
    """Put a vector, float [n, d], behind each sequence of the given lengths, one place on, at the latest time."""
    end = torch.arange(x.shape[1] + 1, device=x.device) == lengths[:, None]
    places = torch.where(end, last_state(reading.places, lengths)[:, None] + 1, pad(reading.places, (0, 1)))
    times = torch.where(end, last_state(reading.times, lengths)[:, None], pad(reading.times, (0, 1)))
    longer = torch.where(end[..., None], thought[:, None], pad(x, (0, 0, 0, 1)))
    return longer, Reading(pad(reading.real, (0, 1)) | end, places, times, reading.causal)


def mean_divergence(scores: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence between the softmaxes of any two steps, scores [n, steps, items]."""
    logs = torch.log_softmax(scores, dim=2)
    crossed = torch.einsum("nsi,nti->nst", logs.exp(), logs)
    divergence = torch.diagonal(crossed, dim1=1, dim2=2)[:, :, None] - crossed
    steps = scores.shape[1]
    return divergence.sum() / (len(scores) * steps * (steps - 1))
