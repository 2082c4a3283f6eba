"""Free vectors, alone and beside what the catalogue knows."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.sequential.item_nets.features import VectorMap, VectorMapParams
from ml.recommenders.sequential.parts import Facts, PartParams


class IdParams(PartParams):
    """A free vector for every item."""

    kind: Literal["id"] = "id"

    def build(self, facts: Facts) -> IdEmbedding:
        """Make the part."""
        return IdEmbedding(facts.n_items, facts.d)


class IdAndVectorsParams(VectorMapParams):
    """Parameters of `IdAndVectors`.

    Parameters
    ----------
    id_dropout
        Share of the items that are met without their free vector in a training step, as a new item is.
    """

    kind: Literal["id_and_vectors"] = "id_and_vectors"
    id_dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, facts: Facts) -> IdAndVectors:
        """Make the part."""
        return IdAndVectors(facts, VectorMap(facts, self), self.id_dropout)


class VectorsParams(VectorMapParams):
    """A map of what the catalogue knows, and nothing of an item's own: see `Vectors`."""

    kind: Literal["vectors"] = "vectors"

    def build(self, facts: Facts) -> VectorsOnly:
        """Make the part.

        Raises
        ------
        ValueError
            If the catalogue has no vectors.
        """
        made = VectorsOnly(VectorMap(facts, self))
        if not bool(made.map.known.any()):
            raise ValueError(f"items are told by their {self.view}, and the catalogue has none")
        return made


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


class FreeVectors(nn.Module):
    """A free vector for every item, which a new item has not: it gets the mean of those of trained items.

    Parameters
    ----------
    facts
        Width, and which items are trained.
    dropout
        Share of the items that get the mean in a training step (after DropoutNet, Volkovs et al., NeurIPS 2017).
    """

    trained: Tensor

    def __init__(self, facts: Facts, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(facts.n_items, facts.d) * 0.02)
        self.dropout = dropout
        self.register_buffer("trained", facts.counts > 0, persistent=False)

    def forward(self) -> Tensor:
        """Return the table to train, float [n_items, d]."""
        if not self.training or not self.dropout:
            return self.weight
        stays = torch.rand(len(self.weight), 1, device=self.weight.device) >= self.dropout
        return torch.where(stays, self.weight, self.mean())

    def mean(self) -> Tensor:
        """Return what a new item has, float [d]."""
        share = self.trained.to(self.weight.dtype)
        return share @ self.weight / share.sum().clamp(min=1)

    def settled(self, trained: Tensor) -> Tensor:
        """Return the table to answer with, float [n_items, d]."""
        return torch.where(trained[:, None], self.weight, self.weight[trained].mean(dim=0))


class IdAndVectors(nn.Module):
    """A free vector plus a map of what the catalogue knows, so that a new item has a place at once.

    Parameters
    ----------
    facts
        Width, and which items are trained.
    map
        Of what the catalogue knows.
    id_dropout
        See `IdAndVectorsParams`.
    """

    def __init__(self, facts: Facts, map: VectorMap, id_dropout: float) -> None:
        super().__init__()
        self.free, self.map = FreeVectors(facts, id_dropout), map

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        table: Tensor = self.free() + self.map()
        return table

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: an untrained item with a vector gets the mean free vector of trained items."""
        placed = trained | self.map.known
        return torch.where(placed[:, None], self.free.settled(trained) + self.map(), 0.0), placed


class VectorsOnly(nn.Module):
    """A map of what the catalogue knows: items are alike to the recommender where they are alike there.

    Parameters
    ----------
    map
        Of what the catalogue knows.
    """

    def __init__(self, map: VectorMap) -> None:
        super().__init__()
        self.map = map

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        table: Tensor = self.map()
        return table

    def rows(self, index: Tensor) -> Tensor:
        """See `ByRows`."""
        made: Tensor = self.map(index)
        return made

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: every item with a vector means something."""
        return self.map(), self.map.known
