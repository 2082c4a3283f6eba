"""Matrix factorisation over a graph: LightGCN (He et al., SIGIR 2020, arXiv:2002.02126) and what is built on it.

Users and items have one free vector each; ``layers`` steps along the edges of who met what smooth them. Without layers
it is plain matrix factorisation: with the pairwise loss BPR-MF (Rendle et al., UAI 2009, arXiv:1205.2618).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from ml.evaluation.splits import Split
from ml.recommenders.base import RecommenderParams, reproducible
from ml.recommenders.collaborative.contrast import Contrast, CrossLayer, Neighbours, TwoViews, add_noise
from ml.recommenders.collaborative.factors import FactorRecommender, FoldInParams, known_items
from ml.recommenders.collaborative.pairs import Pairs, bpr
from ml.recommenders.collaborative.propagation import edges, normalised_adjacency, propagate
from ml.recommenders.sequential.parts import FullSoftmax, SampledSoftmax
from ml.recommenders.training import TrainingParams, train_network, validation_score

if TYPE_CHECKING:
    from ml.snapshot import Catalogue


class LightGCNParams(FoldInParams, TrainingParams):
    """Parameters of `LightGCN`, beside those of the fold-in and of training.

    Parameters
    ----------
    d, layers, first_layer
        Width; steps along the graph; the first layer of those whose mean is scored (0 is the free vectors).
    loss, negatives
        ``bpr`` against so many items that the user did not meet, ``full`` softmax over all items, or softmax over so
        many items that a batch shares, drawn ``uniform`` or ``log_uniform`` (`ml.recommenders.sequential.parts`).
    similarity, temperature
        Scores are the inner product (``dot``) or its cosine; over the temperature in the softmax.
    batch_size
        Pairs a step.
    contrast, contrast_weight, contrast_temperature
        See `ml.recommenders.collaborative.contrast`.
    noise
        Of ``two_views`` and ``cross_layer``.
    contrast_layer
        Of ``cross_layer`` and ``neighbours``.
    prototypes, prototype_weight, item_weight
        Of ``neighbours``.
    """

    d: int = Field(default=64, ge=1)
    layers: int = Field(default=3, ge=0)
    first_layer: int = Field(default=0, ge=0)
    loss: Literal["bpr", "full", "uniform", "log_uniform"] = "bpr"
    negatives: int = Field(default=1, ge=1)
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=2048, ge=1)
    contrast: Literal["none", "two_views", "cross_layer", "neighbours"] = "none"
    contrast_weight: float = Field(default=0.1, ge=0)
    contrast_temperature: float = Field(default=0.2, gt=0)
    noise: float = Field(default=0.1, ge=0)
    contrast_layer: int = Field(default=1, ge=1)
    prototypes: int = Field(default=1000, ge=1)
    prototype_weight: float = Field(default=1e-7, ge=0)
    item_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _layers_are_there(self) -> Self:
        if self.first_layer > self.layers:
            raise ValueError(f"first_layer ({self.first_layer}) is beyond layers ({self.layers})")
        if self.contrast in ("cross_layer", "neighbours") and self.contrast_layer > self.layers:
            raise ValueError(f"contrast_layer ({self.contrast_layer}) is beyond layers ({self.layers})")
        if self.contrast == "neighbours" and self.contrast_layer % 2:
            raise ValueError(f"contrast_layer ({self.contrast_layer}) must be even for neighbours")
        return self


class Network(nn.Module):
    """Free vectors of users, then items, smoothed along the graph.

    Parameters
    ----------
    params
        What it is.
    adjacency
        See `ml.recommenders.collaborative.propagation.normalised_adjacency`.
    counts
        Users of each item, int64 [n_items].
    """

    def __init__(self, params: LightGCNParams, adjacency: Tensor, counts: Tensor) -> None:
        super().__init__()
        self.params, self.n_users = params, len(adjacency) - len(counts)
        self.nodes = nn.Parameter(torch.empty(len(adjacency), params.d))
        nn.init.xavier_uniform_(self.nodes)
        # No buffers: processes would send them to each other at every step.
        self.adjacency, self.counts = adjacency, counts
        self.contrast = _contrast(params)

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
        """Return users [n_users, d] and items [n_items, d] whose inner product is the score."""
        final = self.final(layers)
        if self.params.similarity == "cosine":
            final = normalize(final, dim=1)
        return final[: self.n_users], final[self.n_users :]

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the pairs and their number; see `Pairs.batches`."""
        users, items, negatives = batch
        layers = self.layers(self.params.noise if self.params.contrast == "cross_layer" else 0.0)
        user, item = self.scored(layers)
        states = user[users] / self.params.temperature
        if self.params.loss == "bpr":
            loss = bpr(states, item, items, negatives)
        elif self.params.loss == "full":
            loss = FullSoftmax()(states, item, items)
        else:
            loss = self._sampled(users.device)(states, item, items)
        if self.contrast is not None:
            loss = loss + self.contrast(self, layers, users, items)
        return loss, loss.new_tensor(len(users))

    def _sampled(self, device: torch.device) -> SampledSoftmax:
        params = self.params
        return SampledSoftmax(self.counts.to(device), params.negatives, params.loss == "log_uniform")


class LightGCN(FactorRecommender):
    """Recommend the items whose smoothed vectors are near to those of the history."""

    kind: ClassVar[str] = "lightgcn"
    Params: ClassVar[type[RecommenderParams]] = LightGCNParams

    def fit(self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None) -> dict[str, Any]:
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
        pairs = Pairs(users, items, len(known), params.batch_size, params.negatives if params.loss == "bpr" else 0)
        with reproducible(seed):
            network = Network(params, adjacency, torch.from_numpy(np.bincount(items)))

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            if network.contrast is not None:
                network.contrast.renew(network)
            yield from pairs.batches(rng)

        @torch.no_grad()
        def serve() -> None:
            network.eval()
            self.serve(network.scored(network.layers())[1], known.to(network.nodes.device), split.train, n_items)

        look = validation_score(self, split, n_items, params.valid_users, seed)
        score = None if look is None else lambda: (serve(), look())[1]
        report = train_network(network, batches, len(pairs), params, seed, score, checkpoints)
        serve()
        return report | {"users": network.n_users, "edges": len(users), "untrained_items": n_items - len(known)}


def _contrast(params: LightGCNParams) -> Contrast | None:
    weight, temperature = params.contrast_weight, params.contrast_temperature
    if params.contrast == "two_views":
        return TwoViews(weight, temperature, params.noise)
    if params.contrast == "cross_layer":
        return CrossLayer(weight, temperature, params.contrast_layer)
    if params.contrast == "neighbours":
        return Neighbours(
            weight,
            params.prototype_weight,
            params.item_weight,
            temperature,
            params.contrast_layer,
            params.prototypes,
        )
    return None
