"""Items told by their metadata alone, after M2TRec, and the heads that go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from ml.recommenders.batches import Sequences
from ml.recommenders.sequential.item_nets.features import VectorMap, VectorMapParams, category_paths
from ml.recommenders.sequential.parts import Facts, PartParams

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network


class MetadataParams(VectorMapParams):
    """Parameters of `Metadata`, beside those of the map of the vectors.

    Parameters
    ----------
    depth
        Levels of the category path that have embeddings.
    mix
        Width of the layer that mixes categories and text; 0 adds them up.
    """

    kind: Literal["metadata"] = "metadata"
    depth: int = Field(default=4, ge=0)
    mix: int = Field(default=0, ge=0)

    def build(self, facts: Facts) -> Metadata:
        """Make the part.

        Raises
        ------
        ValueError
            If the catalogue knows nothing of its items.
        """
        made = Metadata(facts, self)
        if not bool(made.known.any()):
            raise ValueError(f"items are told by categories and {self.view}, and the catalogue has none")
        return made


class Metadata(nn.Module):
    """Map categories and vectors to what an item is: no item has anything of its own, so a new one is as good as any.

    Item encoder of M2TRec (Shalaby et al., RecSys 2022, arXiv:2209.11824, section 3): embeddings of attributes and a
    map of the text, put together. A level's embedding begins at zero, so that a category without training
    says nothing beyond its parents.

    Parameters
    ----------
    facts
        The catalogue.
    params
        What to read.
    """

    paths: Tensor

    def __init__(self, facts: Facts, params: MetadataParams) -> None:
        super().__init__()
        paths, sizes = category_paths(facts.catalogue, params.depth)
        self.map = VectorMap(facts, params)
        self.register_buffer("paths", paths, persistent=False)
        self.levels = nn.ParameterList([nn.Parameter(torch.zeros(size, facts.d)) for size in sizes])
        self.mix = self.out = None
        if params.mix:
            self.mix, self.out = nn.Linear(facts.d, params.mix), nn.Linear(params.mix, facts.d, bias=False)
            nn.init.zeros_(self.out.weight)

    @property
    def known(self) -> Tensor:
        """Tell which items have a vector or a category, bool [n_items]."""
        return self.map.known | (self.paths > 0).any(dim=1)

    def forward(self, index: Tensor | None = None) -> Tensor:
        """See `ItemNet`; with an index, int64 [m], its rows alone."""
        table: Tensor = self.map(index)
        paths = self.paths if index is None else self.paths[index]
        for level, weight in enumerate(self.levels):
            number = paths[:, level]
            table = table + torch.where((number > 0)[:, None], weight[number], 0.0)
        if self.mix is not None and self.out is not None:
            # The layer reads what is about as long as its own start: tables are a few hundredths a number.
            table = table + self.out(gelu(self.mix(table / _SCALE)))
        return table

    def rows(self, index: Tensor) -> Tensor:
        """See `ByRows`."""
        return self(index)

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: every item of which anything is known means something."""
        placed = self.known
        return torch.where(placed[:, None], self(), 0.0), placed


class NextCategoriesParams(PartParams):
    """Parameters of `NextCategories`.

    Parameters
    ----------
    weight
        Of this loss.
    depth
        Levels of the category path that are told: category, sub-category, ...
    """

    kind: Literal["next_categories"] = "next_categories"
    weight: float = Field(default=0.1, gt=0)
    depth: int = Field(default=2, ge=1)

    def build(self, facts: Facts) -> NextCategories:
        """Make the part."""
        return NextCategories(facts, self.weight, self.depth)


class NextCategories(nn.Module):
    """Tell the category of the next item, level by level, from the state that tells the item.

    Multi-task heads of M2TRec (arXiv:2209.11824, section 3): mean cross-entropy of each level, over the targets that have
    a category there.
    """

    paths: Tensor

    def __init__(self, facts: Facts, weight: float, depth: int) -> None:
        super().__init__()
        self.weight = weight
        paths, sizes = category_paths(facts.catalogue, depth)
        self.register_buffer("paths", paths, persistent=False)
        self.heads = nn.ModuleList([nn.Linear(facts.d, size) for size in sizes])

    def forward(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """See `ml.recommenders.sequential.parts.Auxiliary`."""
        wanted = targets >= 0
        told, numbers = states[wanted], self.paths[targets[wanted]]
        value = states.new_zeros(())
        for level, head in enumerate(self.heads):
            has = numbers[:, level] > 0
            if bool(has.any()):
                value = value + cross_entropy(head(told[has]), numbers[has, level])
        return self.weight * value


_SCALE = 0.02
