"""Item nets: what an item is to a sequential recommender."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ml.recommenders.sequential.parts import Facts, PartParams


class IdParams(PartParams):
    """A free vector for every item."""

    kind: Literal["id"] = "id"

    def build(self, facts: Facts) -> IdEmbedding:
        """Make the part."""
        return IdEmbedding(facts.n_items, facts.d)


class IdAndVectorsParams(PartParams):
    """A free vector for every item, plus a linear map of what the catalogue knows."""

    kind: Literal["id_and_vectors"] = "id_and_vectors"

    def build(self, facts: Facts) -> IdAndVectors:
        """Make the part."""
        return IdAndVectors(facts.n_items, facts.d, facts.vectors)


class IdEmbedding(nn.Module):
    """A free vector for every item."""

    def __init__(self, n_items: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_items, d) * 0.02)

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        return self.weight

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: only trained items mean anything."""
        return torch.where(trained[:, None], self.weight, 0.0), trained


class IdAndVectors(nn.Module):
    """A free vector plus a linear map of what the catalogue knows, so that a new item has a place at once.

    Parameters
    ----------
    vectors
        float32 [n_items, width]; belongs to the catalogue and is not saved with the weights.
    """

    vectors: Tensor

    def __init__(self, n_items: int, d: int, vectors: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_items, d) * 0.02)
        self.project = nn.Linear(vectors.shape[1], d, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        projected: Tensor = self.project(self.vectors)
        return self.weight + projected

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: an untrained item with a vector gets the mean free vector of trained items."""
        mean = self.weight[trained].mean(dim=0)
        table = torch.where(trained[:, None], self.weight, mean) + self.project(self.vectors)
        placed = trained | (self.vectors != 0).any(dim=1)
        return torch.where(placed[:, None], table, 0.0), placed
