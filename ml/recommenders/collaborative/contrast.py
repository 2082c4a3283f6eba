"""What graph models are taught beside the pairs: two pictures of a node should be alike, those of two nodes should not.

``two_views`` is SimGCL (Yu et al., SIGIR 2022, arXiv:2112.08679), ``cross_layer`` XSimGCL (Yu et al., TKDE 2023,
arXiv:2209.02544), ``neighbours`` NCL (Lin et al., WWW 2022, arXiv:2202.06200). NCL's sums over all nodes run over those
of the batch, as in the other two, and its clusters are there from the first epoch. Of several processes each contrasts its
own share of a batch.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ml.recommenders.clusters import spherical_kmeans
from ml.recommenders.losses import info_nce
from ml.recommenders.sequential.parts import PartParams


class Graph(Protocol):
    """The part of a network that contrasts look at; nodes are users, then items."""

    n_users: int

    def layers(self, noise: float = 0.0) -> list[Tensor]:
        """Return the nodes' vectors after 0, 1, ... steps, float [n_nodes, d]."""
        ...

    def final(self, layers: list[Tensor]) -> Tensor:
        """Return the vectors that are scored, float [n_nodes, d]."""
        ...


class Contrast(Protocol):
    """One loss of its kind; `renew` is called before every epoch."""

    #: Of every layer of the pass that is scored, too.
    noise: float

    def renew(self, graph: Graph) -> None:
        """Look at the vectors as they are now."""
        ...

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """Return the weighted loss; users int64 [b] and items int64 [b] of a batch, items from 0."""
        ...


def add_noise(x: Tensor, size: float) -> Tensor:
    """Move each vector by ``size`` in a random direction of its own orthant (SimGCL)."""
    return x + size * torch.sign(x) * normalize(torch.rand_like(x), dim=1)


class TwoViewsParams(PartParams):
    """Two passes, each with noise of its own on every layer (SimGCL).

    Parameters
    ----------
    weight, temperature, noise
        See SimGCL: lambda, tau and epsilon.
    """

    kind: Literal["two_views"] = "two_views"
    weight: float = Field(default=0.5, ge=0)
    temperature: float = Field(default=0.2, gt=0)
    noise: float = Field(default=0.1, ge=0)

    def build(self, layers: int) -> TwoViews:
        """Make the part."""
        return TwoViews(self)


class CrossLayerParams(PartParams):
    """The scored vectors against those of one layer of the same, noisy pass (XSimGCL).

    Parameters
    ----------
    weight, temperature, noise, layer
        See XSimGCL: lambda, tau, epsilon and l*.
    """

    kind: Literal["cross_layer"] = "cross_layer"
    weight: float = Field(default=0.2, ge=0)
    temperature: float = Field(default=0.2, gt=0)
    noise: float = Field(default=0.1, ge=0)
    layer: int = Field(default=1, ge=1)

    def build(self, layers: int) -> CrossLayer:
        """Make the part; raise a ValueError of one line where there is no such layer."""
        if self.layer > layers:
            raise ValueError(f"contrast.layer ({self.layer}) is beyond layers ({layers})")
        return CrossLayer(self)


class NeighboursParams(PartParams):
    """A node against its neighbours of an even layer and against its cluster's centre (NCL).

    Parameters
    ----------
    weight, prototype_weight, item_weight
        Of the neighbours, of the centres, and of items against users in both.
    temperature
        Of both.
    layer
        Even: after as many steps a node has heard of nodes of its own kind.
    prototypes
        Clusters of users, and of items; at most one a node.
    """

    kind: Literal["neighbours"] = "neighbours"
    weight: float = Field(default=1e-2, ge=0)
    prototype_weight: float = Field(default=1e-2, ge=0)
    item_weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    layer: int = Field(default=2, ge=2, multiple_of=2)
    prototypes: int = Field(default=500, ge=1)

    def build(self, layers: int) -> Neighbours:
        """Make the part; raise a ValueError of one line where there is no such layer."""
        if self.layer > layers:
            raise ValueError(f"contrast.layer ({self.layer}) is beyond layers ({layers})")
        return Neighbours(self)


class TwoViews:
    """See `TwoViewsParams`."""

    noise = 0.0

    def __init__(self, params: TwoViewsParams) -> None:
        self.params = params

    def renew(self, graph: Graph) -> None:
        """See `Contrast`: nothing is kept."""

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """See `Contrast`."""
        first, second = (graph.final(graph.layers(self.params.noise)) for _ in range(2))
        user, item = (
            info_nce(first[nodes], second[nodes], self.params.temperature)
            for nodes in _nodes(graph, users, items)
        )
        return self.params.weight * (user + item)


class CrossLayer:
    """See `CrossLayerParams`."""

    def __init__(self, params: CrossLayerParams) -> None:
        self.params, self.noise = params, params.noise

    def renew(self, graph: Graph) -> None:
        """See `Contrast`: nothing is kept."""

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """See `Contrast`."""
        final, layer = graph.final(layers), layers[self.params.layer]
        user, item = (
            info_nce(final[nodes], layer[nodes], self.params.temperature)
            for nodes in _nodes(graph, users, items)
        )
        return self.params.weight * (user + item)


class Neighbours:
    """See `NeighboursParams`."""

    noise = 0.0

    def __init__(self, params: NeighboursParams) -> None:
        self.params = params
        self.clusters: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def renew(self, graph: Graph) -> None:
        """Cluster users and items by their own vectors: the expectation step of NCL."""
        own = graph.layers()[0]
        kinds = (own[: graph.n_users], own[graph.n_users :])
        self.clusters = [spherical_kmeans(vectors, self.params.prototypes) for vectors in kinds]

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """See `Contrast`."""
        params, own, heard = self.params, layers[0], layers[self.params.layer]
        losses = []
        for nodes, first, (centres, cluster) in zip(
            _nodes(graph, users, items), (0, graph.n_users), self.clusters, strict=True
        ):
            near = info_nce(heard[nodes], own[nodes], params.temperature)
            likeness = normalize(own[nodes], dim=1) @ centres.T / params.temperature
            central = cross_entropy(likeness, cluster[nodes - first])
            losses.append(params.weight * near + params.prototype_weight * central)
        user, item = losses
        return user + params.item_weight * item


def _nodes(graph: Graph, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct users and items of a batch as nodes."""
    return users.unique(), items.unique() + graph.n_users
