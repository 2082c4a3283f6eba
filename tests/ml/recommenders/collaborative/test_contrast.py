from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.recommenders.collaborative.contrast import (
    CrossLayerParams,
    NeighboursParams,
    TwoViewsParams,
    add_noise,
    spherical_kmeans,
)

N_USERS, N_ITEMS = 4, 3


class Graph:
    """Three layers of fixed vectors; noise is written down."""

    n_users = N_USERS

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(0)
        self.fixed = [torch.randn(N_USERS + N_ITEMS, 5, generator=made) for _ in range(3)]
        self.asked: list[float] = []

    def layers(self, noise: float = 0.0) -> list[Tensor]:
        self.asked.append(noise)
        # Each noisy pass is another one.
        return [layer + noise * len(self.asked) for layer in self.fixed]

    def final(self, layers: list[Tensor]) -> Tensor:
        return torch.stack(layers).mean(dim=0)


def by_hand(first: Tensor, second: Tensor, nodes: list[int], temperature: float) -> float:
    """Return the mean over nodes of -log of the softmax, over the nodes' second pictures, of their cosines."""

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    losses = []
    for n in nodes:
        likes = [np.exp(cosine(first[n], second[m]) / temperature) for m in nodes]
        losses.append(-np.log(likes[nodes.index(n)] / sum(likes)))
    return float(np.mean(losses))


USERS, ITEMS = torch.tensor([2, 0, 2]), torch.tensor([1, 1, 2])
USER_NODES, ITEM_NODES = [0, 2], [N_USERS + 1, N_USERS + 2]


def test_noise_keeps_signs_and_has_its_size() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    moved = add_noise(x, 0.1)
    torch.testing.assert_close((moved - x).norm(dim=1), torch.full((50,), 0.1))
    assert torch.equal(torch.sign(moved), torch.sign(x))


def test_two_views_are_two_noisy_passes() -> None:
    graph = Graph()
    part = TwoViewsParams(weight=0.5, temperature=0.3, noise=0.2).build(layers=2)
    found = part(graph, graph.fixed, USERS, ITEMS)
    assert graph.asked == [0.2, 0.2]
    first, second = (torch.stack(graph.fixed).mean(dim=0) + shift for shift in (0.2, 0.4))
    expected = sum(by_hand(first, second, nodes, 0.3) for nodes in (USER_NODES, ITEM_NODES))
    assert found.item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_cross_layer_reads_the_pass_that_is_scored() -> None:
    graph = Graph()
    part = CrossLayerParams(weight=0.5, temperature=0.3, noise=0.2, layer=1).build(layers=2)
    found = part(graph, graph.fixed, USERS, ITEMS)
    assert graph.asked == []
    assert part.noise == 0.2
    final = torch.stack(graph.fixed).mean(dim=0)
    expected = sum(by_hand(final, graph.fixed[1], nodes, 0.3) for nodes in (USER_NODES, ITEM_NODES))
    assert found.item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_neighbours_and_prototypes_by_hand() -> None:
    graph = Graph()
    part = NeighboursParams(
        weight=0.7, prototype_weight=0.4, item_weight=2, temperature=0.3, layer=2, prototypes=2
    ).build(layers=2)
    torch.manual_seed(0)
    part.renew(graph)
    found = part(graph, graph.fixed, USERS, ITEMS)
    own, heard = graph.fixed[0], graph.fixed[2]
    expected = 0.0
    for nodes, first, share, (centres, cluster) in zip(
        (USER_NODES, ITEM_NODES), (0, N_USERS), (1, 2), part.clusters, strict=True
    ):
        near = by_hand(heard, own, nodes, 0.3)
        likes = np.exp([[float(own[n] @ c / own[n].norm() / c.norm()) / 0.3 for c in centres] for n in nodes])
        mine = likes[range(len(nodes)), [int(cluster[n - first]) for n in nodes]]
        central = -np.log(mine / likes.sum(axis=1)).mean()
        expected += share * (0.7 * near + 0.4 * central)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_kmeans_finds_planted_directions() -> None:
    made = torch.Generator().manual_seed(3)
    planted = torch.arange(60) % 3
    x = torch.eye(3)[planted] * 5 + 0.1 * torch.randn(60, 3, generator=made)
    x *= torch.rand(60, 1, generator=made) + 0.5
    best = 0
    for seed in range(5):
        torch.manual_seed(seed)
        centres, cluster = spherical_kmeans(x, 3)
        assert centres.shape == (3, 3)
        own = (torch.nn.functional.normalize(x, dim=1) * centres[cluster]).sum(dim=1)
        best = max(best, int((own > 0.99).sum()))
        assert (own >= (torch.nn.functional.normalize(x, dim=1) @ centres.T).max(dim=1).values - 1e-6).all()
    assert best == 60


def test_no_more_centres_than_vectors() -> None:
    centres, cluster = spherical_kmeans(torch.eye(2), 5)
    assert centres.shape == (2, 2)
    assert sorted(cluster.tolist()) == [0, 1]


@pytest.mark.parametrize("params", [CrossLayerParams(layer=3), NeighboursParams(layer=4)])
def test_a_layer_that_is_not_there(params: CrossLayerParams | NeighboursParams) -> None:
    with pytest.raises(ValueError, match=r"contrast\.layer \(\d\) is beyond layers \(2\)"):
        params.build(layers=2)
