"""What graph models are taught beside the pairs: two pictures of a node should be alike, those of two nodes should not.

``two_views`` is SimGCL (Yu et al., SIGIR 2022, arXiv:2112.08679), ``cross_layer`` XSimGCL (Yu et al., TKDE 2023,
arXiv:2209.02544), ``neighbours`` NCL (Lin et al., WWW 2022, arXiv:2202.06200). Sums over all nodes of NCL's Eq. 6 and 8
run over those of the batch, as in the other two.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

_LLOYD_STEPS = 10


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

    def renew(self, graph: Graph) -> None:
        """Look at the vectors as they are now."""
        ...

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """Return the weighted loss; users int64 [b] and items int64 [b] of a batch, items from 0."""
        ...


def add_noise(x: Tensor, size: float) -> Tensor:
    """Move each vector by ``size`` in a random direction of its own orthant (SimGCL, Eq. 7)."""
    return x + size * torch.sign(x) * normalize(torch.rand_like(x), dim=1)


def info_nce(queries: Tensor, keys: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of each query's own key among all keys, by cosine over temperature.

    Parameters
    ----------
    queries, keys
        float [b, d] and [m, d].
    own
        int64 [b], the place of a query's key.
    """
    return cross_entropy(normalize(queries, dim=1) @ normalize(keys, dim=1).T / temperature, own)


def pictures(first: Tensor, second: Tensor, nodes: Tensor, temperature: float) -> Tensor:
    """Contrast two pictures [n_nodes, d] of distinct nodes int64 [b] with one another."""
    return info_nce(
        first[nodes], second[nodes], torch.arange(len(nodes), device=nodes.device), temperature
    )


class TwoViews:
    """Two passes with noise of their own on every layer (SimGCL, Eq. 2)."""

    def __init__(self, weight: float, temperature: float, noise: float) -> None:
        self.weight, self.temperature, self.noise = weight, temperature, noise

    def renew(self, graph: Graph) -> None:
        """See `Contrast`: nothing is kept."""

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """See `Contrast`."""
        first, second = (graph.final(graph.layers(self.noise)) for _ in range(2))
        both = (users.unique(), items.unique() + graph.n_users)
        return self.weight * sum(
            (pictures(first, second, nodes, self.temperature) for nodes in both), start=first.new_zeros(())
        )


class CrossLayer:
    """The scored vectors against one layer of the same noisy pass (XSimGCL, Eq. 11)."""

    def __init__(self, weight: float, temperature: float, layer: int) -> None:
        self.weight, self.temperature, self.layer = weight, temperature, layer

    def renew(self, graph: Graph) -> None:
        """See `Contrast`: nothing is kept."""

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """See `Contrast`."""
        final, layer = graph.final(layers), layers[self.layer]
        both = (users.unique(), items.unique() + graph.n_users)
        return self.weight * sum(
            (pictures(final, layer, nodes, self.temperature) for nodes in both), start=final.new_zeros(())
        )


class Neighbours:
    """A node against its neighbours of an even layer (NCL, Eq. 6-8) and against its cluster's centre (Eq. 11-13).

    Parameters
    ----------
    weight, prototype_weight, item_weight
        Of the neighbours, of the centres, and of items against users in both.
    temperature
        Of both.
    layer
        Even: after as many steps a node of a kind has heard of nodes of its own kind.
    prototypes
        Clusters of users, and of items; at most one a node.
    """

    def __init__(
        self,
        weight: float,
        prototype_weight: float,
        item_weight: float,
        temperature: float,
        layer: int,
        prototypes: int,
    ) -> None:
        self.weight, self.prototype_weight, self.item_weight = weight, prototype_weight, item_weight
        self.temperature, self.layer, self.prototypes = temperature, layer, prototypes
        self.clusters: tuple[tuple[Tensor, Tensor], ...] = ()

    @torch.no_grad()
    def renew(self, graph: Graph) -> None:
        """Cluster users and items by their own vectors: the expectation step of NCL's Section 3.3."""
        nodes = graph.layers()[0]
        self.clusters = tuple(
            spherical_kmeans(some, self.prototypes) for some in (nodes[: graph.n_users], nodes[graph.n_users :])
        )

    def __call__(self, graph: Graph, layers: list[Tensor], users: Tensor, items: Tensor) -> Tensor:
        """See `Contrast`."""
        own, heard = layers[0], layers[self.layer]
        loss = own.new_zeros(())
        kinds = ((users.unique(), 0, 1.0), (items.unique(), graph.n_users, self.item_weight))
        for (some, first, share), (centres, cluster) in zip(kinds, self.clusters, strict=True):
            nodes = some + first
            near = pictures(heard, own, nodes, self.temperature)
            central = info_nce(own[nodes], centres, cluster[some], self.temperature)
            loss = loss + share * (self.weight * near + self.prototype_weight * central)
        return loss


def spherical_kmeans(x: Tensor, n_centres: int) -> tuple[Tensor, Tensor]:
    """Cluster vectors by cosine.

    Parameters
    ----------
    x
        float [n, d].
    n_centres
        Clusters; n where there are fewer vectors.

    Returns
    -------
    Centres float [k, d], and the cluster of each vector, int64 [n].
    """
    x = normalize(x, dim=1)
    n_centres = min(n_centres, len(x))
    centres = x[torch.randperm(len(x), device="cpu")[:n_centres].to(x.device)]
    for _ in range(_LLOYD_STEPS):
        cluster = _nearest(x, centres)
        # A centre without vectors becomes zero and wins none again.
        centres = normalize(torch.zeros_like(centres).index_add_(0, cluster, x), dim=1)
    return centres, _nearest(x, centres)


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([(part @ centres.T).argmax(dim=1) for part in x.split(4096)])
