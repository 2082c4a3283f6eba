"""Alignment with preferences, after training: of two items, the whole ID of the preferred becomes more likely.

The loss is that of direct preference optimisation (Rafailov et al., NeurIPS 2023, arXiv:2305.18290): no reinforcement
learning, and measured against the network as it was, of which only log-probabilities of the pairs are kept. The item that
is not preferred is one that beam search finds now, so that a later round meets what the round before has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ml.histories import NO_ITEM, Histories, ranges
from ml.recommenders import build
from ml.recommenders.batches import Plans, Sequences, Windows, sliding
from ml.recommenders.generative.objectives.autoregressive import Autoregressive
from ml.recommenders.generative.stages import Course, StageParams

if TYPE_CHECKING:
    from ml.recommenders.base import Recommender
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network

_ROWS = 1024

#: Makes pairs int64 [n, 2], preferred first, -1 where there is none, of places and what beam search found there.
Preference = Callable[["Places", NDArray[np.int32], np.random.Generator], NDArray[np.int64]]


class AlignmentParams(StageParams):
    """Parameters that kinds of alignment share.

    Parameters
    ----------
    beta
        How fast a pair is won: the larger, the less the network moves from what it was.
    weight
        Of the loss of pairs.
    likelihood
        Whether the likelihood of true next items is trained on beside it.
    pairs
        Places in training histories that are drawn for a round; None for all.
    candidates
        Items that beam search finds at a place.
    rounds
        How often pairs are made anew; the last is one that makes nothing better.
    """

    beta: float = Field(default=0.1, gt=0)
    weight: float = Field(default=1.0, ge=0)
    likelihood: bool = True
    pairs: int | None = Field(default=None, ge=1)
    candidates: int = Field(default=20, ge=2)
    rounds: int = Field(default=1, ge=1)

    def check(self, whole: GenerativeParams) -> None:
        """Refuse objectives that tell no probability of a whole ID."""
        if whole.objective.kind != "autoregressive":
            raise ValueError(f"alignment needs an autoregressive objective, not {whole.objective.kind}")

    def preference(self, course: Course) -> Preference:
        """Return what makes pairs."""
        raise NotImplementedError

    def run(self, course: Course) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `StageParams.run`."""
        prefer, rounds = self.preference(course), []
        for nth in range(self.rounds):
            rng = np.random.default_rng([course.seed, nth])
            places = draw(course, self.pairs, rng)
            found, _ = course.recommender.recommend(places.histories, self.candidates)
            rounds.append(self._round(f"alignment-{nth}", course, places, prefer(places, found, rng)))
            if not rounds[-1]["epochs"]:
                break
        epochs = [told["epochs"] for told in rounds]
        gained = sum(number > 0 for number in epochs)
        return {"rounds": rounds}, {"rounds": max(gained, 1), "epochs": max(epochs)}

    def _round(self, name: str, course: Course, places: Places, pairs: NDArray[np.int64]) -> dict[str, Any]:
        network = course.recommender.fitted()
        targets = places.targets.astype(np.int64)
        columns = [pairs[:, 1], targets]
        if (other := (pairs[:, 1] != NO_ITEM) & (pairs[:, 0] != targets)).any():
            columns.append(np.where(other, pairs[:, 0], targets))
        items = torch.from_numpy(np.column_stack(columns))
        before = told_before(network, places.sequences, items)
        margins = before[:, -1] - before[:, 0]
        plans = Plans(places.cut, course.recommender.params.batch_tokens)

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
            for group in plans.groups(rng):
                rows = torch.from_numpy(group)
                yield *taken(places.sequences, rows), items[rows], margins[rows]

        report = course.train(name, self, Aligned(self, network), batches, len(plans))
        del report["refit"]
        return {"pairs": int((items[:, 0] != NO_ITEM).sum()), **report}


class DirectParams(AlignmentParams):
    """Parameters of alignment without a reward: the true next item is preferred to one that beam search finds.

    DDRO (Mekonnen et al., SIGIR 2025, arXiv:2504.05181), there of documents that answer a query.
    """

    kind: Literal["ddro"] = "ddro"
    likelihood: bool = False

    def preference(self, course: Course) -> Preference:
        """See `AlignmentParams.preference`; of several wrong items any is drawn."""
        return against_found


class IterativeParams(AlignmentParams):
    """Parameters of alignment with a reward: of what beam search finds, the best is preferred to the worst.

    OneRec (Deng et al., 2025, arXiv:2502.18965).

    Parameters
    ----------
    reward
        The recommender, ``{kind: ..., its parameters}``, fitted to the training events, whose scores are the reward.
    depth
        Items of its lists; what is not on them is worth least.
    """

    kind: Literal["iterative"] = "iterative"
    rounds: int = Field(default=3, ge=1)
    reward: dict[str, Any] = Field(default={"kind": "transitions"}, validate_default=True)
    depth: int = Field(default=1000, ge=1)

    @field_validator("reward")
    @classmethod
    def _fill(cls, value: dict[str, Any]) -> dict[str, Any]:
        made = build(value)
        return {"kind": made.kind, **made.params.model_dump(mode="json")}

    def preference(self, course: Course) -> Preference:
        """See `AlignmentParams.preference`."""
        reward = build(self.reward)
        reward.fit(course.split, course.catalogue, course.seed)
        return lambda places, found, _: best_and_worst(found, self._rewards(reward, places.histories, found))

    def _rewards(
        self, reward: Recommender, histories: Histories, found: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Return what the reward says of what was found, float32 [n, candidates]."""
        worth = np.empty(found.shape, np.float32)
        for start in range(0, len(found), _ROWS):
            rows = slice(start, start + _ROWS)
            items, scores = reward.recommend(histories.rows(rows), self.depth, exclude_history=False)
            for column in range(found.shape[1]):
                here = (items == found[rows, column, None]) & (items != NO_ITEM)
                worth[rows, column] = np.where(here, scores, -np.inf).max(axis=1)
        return worth


@dataclass(frozen=True)
class Places:
    """Places in training histories, each with what came before and what came next.

    Parameters
    ----------
    cut
        A window for each place.
    histories
        Everything before a place, n rows.
    sequences
        The part that is read.
    targets
        int32 [n], what came next.
    """

    cut: Windows
    histories: Histories
    sequences: Sequences
    targets: NDArray[np.int32]


class Aligned(nn.Module):
    """A network with the loss of pairs."""

    def __init__(self, params: AlignmentParams, network: Network) -> None:
        super().__init__()
        self.params, self.network = params, network

    def forward(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, and its number of places.

        Parameters
        ----------
        batch
            The four tensors of `Sequences`; items int64 [n, 2 or 3]: not preferred (-1 for no pair), true, and
            preferred if that is not the true one; float [n], by how much the preferred was more likely before, as a
            logarithm.
        """
        *read, items, margins = batch
        scores = whole_ids(self.network, Sequences(*read), items)
        won = self.params.beta * (scores[:, -1] - scores[:, 0] - margins)
        loss = -self.params.weight * torch.where(items[:, 0] >= 0, logsigmoid(won), 0).mean()
        if self.params.likelihood:
            loss = loss - scores[:, 1].mean()
        return loss, torch.tensor(len(items), device=items.device)


def whole_ids(network: Network, sequences: Sequences, items: Tensor) -> Tensor:
    """Return the log-probability of each item's ID after each history, float [n, k].

    Parameters
    ----------
    items
        int64 [n, k], with an ID each; what stands for -1 has no meaning.
    """
    memory = network.read(sequences)
    states = network.states(memory, sequences.lengths[:, None], items)
    leaves = network.trie.place[items.clamp(min=0)].clamp(min=0)
    assert isinstance(network.objective, Autoregressive)
    codes = network.objective.chosen(network, states.flatten(0, 1), leaves.flatten())
    return codes.sum(dim=1).view(items.shape)


@torch.no_grad()
def told_before(network: Network, sequences: Sequences, items: Tensor) -> Tensor:
    """Return `whole_ids` of many histories, on CPU, by the network as it is."""
    network.eval()
    device = network.table.table.device
    found = []
    for rows in torch.arange(len(items)).split(_ROWS):
        some = taken(sequences, rows).to(device)
        found.append(whole_ids(network, some, items[rows].to(device)).cpu())
    return torch.cat(found) if found else torch.zeros(items.shape)


def taken(sequences: Sequences, rows: Tensor) -> Sequences:
    """Return some rows, no wider than they need to be."""
    lengths = sequences.lengths[rows]
    width = max(1, int(lengths.max())) if len(rows) else 1
    items, times, types = (
        tensor[rows, :width] for tensor in (sequences.items, sequences.times, sequences.types)
    )
    return Sequences(items, lengths, times, types)


def draw(course: Course, most: int | None, rng: np.random.Generator) -> Places:
    """Draw places whose next item has an ID."""
    train, params = course.split.train, course.recommender.params
    cut = sliding(train, params.length)
    before = np.maximum(train.lengths - 1, 0)
    users, ends = np.repeat(np.arange(len(train)), before), ranges(np.ones_like(before), before)
    targets = train.items[train.offsets[users] + ends]
    known = course.recommender.fitted().trie.place.cpu().numpy()[targets] >= 0
    drawn = np.sort(rng.permutation(np.flatnonzero(known))[:most])
    histories = train.rows(users[drawn]).head(ends[drawn])
    return Places(
        replace(cut, starts=cut.starts[drawn], lengths=cut.lengths[drawn]),
        histories,
        Sequences.of(histories, params.length),
        targets[drawn],
    )


def against_found(places: Places, found: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Prefer the true item to one of those found, drawn evenly from those that are not it."""
    wrong = (found != NO_ITEM) & (found != places.targets[:, None])
    lot = np.where(wrong, rng.random(found.shape), -1.0).argmax(axis=1)
    rejected = np.where(wrong.any(axis=1), found[np.arange(len(found)), lot], NO_ITEM)
    return np.column_stack([places.targets, rejected]).astype(np.int64)


def best_and_worst(found: NDArray[np.int32], worth: NDArray[np.float32]) -> NDArray[np.int64]:
    """Prefer the item of the highest reward to that of the lowest; of equals, the one found first.

    Parameters
    ----------
    found
        int32 [n, candidates], the likeliest first; -1 where there are fewer.
    worth
        float32 of that shape.
    """
    there, row = found != NO_ITEM, np.arange(len(found))
    best = np.where(there, worth, -np.inf).argmax(axis=1)
    worst = np.where(there, worth, np.inf).argmin(axis=1)
    differ = worth[row, best] > worth[row, worst]
    pairs = np.column_stack([found[row, best], found[row, worst]])
    return np.where(differ[:, None], pairs, NO_ITEM).astype(np.int64)
