"""Matrix factorisation over a graph: LightGCN (He et al., SIGIR 2020, arXiv:2002.02126) and what is built on it.

Users and items have one free vector each; ``layers`` steps along the edges of who met what smooth them. Without layers
it is plain matrix factorisation: with the pairwise loss BPR-MF (Rendle et al., UAI 2009, arXiv:1205.2618).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from ml.evaluation.splits import Split
from ml.recommenders.base import RecommenderParams, reproducible
from ml.recommenders.collaborative.contrast import (
    Contrast,
    CrossLayerParams,
    NeighboursParams,
    TwoViewsParams,
    add_noise,
)
from ml.recommenders.collaborative.factors import FactorRecommender, FoldInParams, known_items
from ml.recommenders.collaborative.pairs import BPRParams, Pairs, bpr
from ml.recommenders.collaborative.propagation import edges, normalised_adjacency, propagate
from ml.recommenders.losses import FullSoftmaxParams, SampledSoftmaxParams
from ml.recommenders.sequential.parts import Facts
from ml.recommenders.training import TrainingParams, train_network, validation_score

if TYPE_CHECKING:
    from ml.snapshot import Catalogue


LossParams = Annotated[BPRParams | FullSoftmaxParams | SampledSoftmaxParams, Field(discriminator="kind")]
ContrastParams = Annotated[TwoViewsParams | CrossLayerParams | NeighboursParams, Field(discriminator="kind")]


class LightGCNParams(FoldInParams, TrainingParams):
    """Parameters of `LightGCN`, beside those of the fold-in and of training.

    Parameters
    ----------
    d, layers, first_layer
        Width; steps along the graph; the first layer of those whose mean is scored (0 is the free vectors).
    loss, contrast
        ``{kind: ..., its parameters}``; see `ml.recommenders.collaborative.pairs`, `ml.recommenders.losses`
        and `ml.recommenders.collaborative.contrast`.
    temperature
        Score by cosine over this temperature; None scores by inner product.
    batch_size
        Pairs a step.
    """

    d: int = Field(default=64, ge=1)
    layers: int = Field(default=3, ge=0)
    first_layer: int = Field(default=0, ge=0)
    loss: LossParams = BPRParams()
    contrast: ContrastParams | None = None
    temperature: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _layers_are_there(self) -> Self:
        if self.first_layer > self.layers:
            raise ValueError(f"first_layer ({self.first_layer}) is beyond layers ({self.layers})")
        if self.contrast is not None:
            self.contrast.build(self.layers)
        return self


class Network(nn.Module):
    """Free vectors of users, then items, smoothed along the graph.

    Parameters
    ----------
    params
        What it is.
    adjacency
        See `ml.recommenders.collaborative.propagation.normalised_adjacency`.
    facts
        Of the items that are nodes.
    """

    def __init__(self, params: LightGCNParams, adjacency: Tensor, facts: Facts) -> None:
        super().__init__()
        self.params, self.n_users = params, len(adjacency) - len(facts.counts)
        self.nodes = nn.Parameter(torch.empty(len(adjacency), params.d))
        nn.init.xavier_uniform_(self.nodes)
        # No buffer: processes would send it to each other at every step.
        self.adjacency = adjacency
        self.softmax = None if params.loss.kind == "bpr" else params.loss.build(facts)
        self.contrast: Contrast | None = params.contrast.build(params.layers) if params.contrast else None

    def layers(self, noise: float = 0.0) -> list[Tensor]:
        """Return the nodes' vectors after 0, 1, ... steps, each a float [n_nodes, d]."""
        if self.adjacency.device != self.nodes.device:
            self.adjacency = self.adjacency.to(self.nodes.device)
        layers: list[Tensor] = [self.nodes]
        for _ in range(self.params.layers):
            moved = propagate(self.adjacency, layers[-1])
            layers.append(add_noise(moved, noise) if noise else moved)
        return layers

    def final(self, layers: list[Tensor]) -> Tensor:
        """Return the vectors that are scored, float [n_nodes, d]."""
        kept = layers[self.params.first_layer :]
        return torch.stack(kept).mean(dim=0) if len(kept) > 1 else kept[0]

    def scored(self, layers: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return users [n_users, d] and items [n_items, d]; their inner product, over the temperature, is the score."""
        final = self.final(layers)
        if self.params.temperature is not None:
            final = normalize(final, dim=1)
        return final[: self.n_users], final[self.n_users :]

    @torch.no_grad()
    def settled(self) -> tuple[Tensor, Tensor]:
        """Return the items to answer with, float [n_items, d]: what is scored, and what they send to who met them.

        What a user is, but for their own free vector, is the sum of what their items send.
        """
        layers = self.layers()
        sent = layers[max(self.params.first_layer - 1, 0) : -1]
        table = self.scored(layers)[1]
        return table, torch.stack(sent).mean(dim=0)[self.n_users :] if sent else table

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the pairs and their number; see `Pairs.batches`."""
        users, items, negatives = batch
        layers = self.layers(self.contrast.noise if self.contrast is not None else 0.0)
        user, item = self.scored(layers)
        states = user[users] / (self.params.temperature or 1.0)
        if self.softmax is None:
            loss = bpr(states, item, items, negatives)
        else:
            loss = self.softmax(states, item, items)
        if self.contrast is not None:
            loss = loss + self.contrast(self, layers, users, items)
        return loss, loss.new_tensor(len(users))


class LightGCN(FactorRecommender):
    """Recommend the items whose smoothed vectors are near to those of the history."""

    kind: ClassVar[str] = "lightgcn"
    Params: ClassVar[type[RecommenderParams]] = LightGCNParams

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Train; see `ml.recommenders.base.Recommender.fit`.

        Raises
        ------
        ValueError
            If there is no event, or if the loss is no longer finite.
        """
        params, n_items = self.params, len(catalogue)
        known = known_items(split.train, n_items)
        users, items = edges(split.train, n_items)
        users, items = np.unique(users, return_inverse=True)[1], np.searchsorted(known.numpy(), items)
        adjacency = normalised_adjacency(users, items, int(users.max()) + 1, len(known))
        negatives = params.loss.negatives if params.loss.kind == "bpr" else 0
        pairs = Pairs(users, items, len(known), params.batch_size, negatives)
        facts = Facts(catalogue, torch.from_numpy(np.bincount(items)), params.d, params.recent, 0.0)
        with reproducible(seed):
            network = Network(params, adjacency, facts)

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            if network.contrast is not None:
                network.contrast.renew(network)
            yield from pairs.batches(rng)

        def serve() -> None:
            network.eval()
            device = network.nodes.device
            self.serve(*network.settled(), known.to(device), split.train, n_items)

        score = validation_score(self, split, n_items, params.valid_users, seed)

        def look() -> float:
            serve()
            return score() if score else 0.0

        report = train_network(
            network, batches, len(pairs), params, seed, look if score else None, checkpoints
        )
        serve()
        return report | {
            "users": network.n_users,
            "edges": len(users),
            "untrained_items": n_items - len(known),
        }
