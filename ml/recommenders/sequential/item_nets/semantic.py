"""A semantic ID beside a free vector, after H2Rec, and the losses that align the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from ml.recommenders.batches import Sequences
from ml.recommenders.losses import info_nce
from ml.recommenders.sequential.item_nets.ids import FreeVectors
from ml.recommenders.sequential.parts import Facts, PartParams, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network


class IdAndCodesParams(PartParams):
    """Parameters of `IdAndCodes`.

    Parameters
    ----------
    prefixes
        Whether prefixes of two codes and more have embeddings, beside the codes alone.
    id_dropout
        Share of the items that are met without their free vector in a training step, as a new item is.
    """

    kind: Literal["id_and_codes"] = "id_and_codes"
    prefixes: bool = True
    id_dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, facts: Facts) -> IdAndCodes:
        """Make the part."""
        return IdAndCodes(facts, self.prefixes, self.id_dropout)


class IdAndCodes(nn.Module):
    """Two branches, added: a free vector (hash ID), and embeddings of the semantic ID that like items share.

    H2Rec (Liu et al., 2025, arXiv:2512.10388, section 3.2) with its branches joined at the item, so that answers stay
    one inner product. Items without a semantic ID have the first branch alone.

    Parameters
    ----------
    facts
        The catalogue, and which items are trained.
    prefixes, id_dropout
        See `IdAndCodesParams`.
    """

    def __init__(self, facts: Facts, prefixes: bool, id_dropout: float) -> None:
        super().__init__()
        self.free, self.semantic = FreeVectors(facts, id_dropout), CodeEmbedding(facts, prefixes)

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        table: Tensor = self.free() + self.semantic()
        return table

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: an untrained item is placed where a trained one shares a code with it."""
        semantic, met = self.semantic.settled(trained)
        placed = trained | met
        return torch.where(placed[:, None], self.free.settled(trained) + semantic, 0.0), placed


class CodeEmbedding(nn.Module):
    """The sum of embeddings of a semantic ID's units: the code of each level, and each longer prefix.

    Embeddings of prefixes begin at zero and those of codes do not, so that a prefix which nothing trained says what
    its codes say. Units of one item alone are left out: they are its index over again.

    Parameters
    ----------
    facts
        The catalogue.
    prefixes
        Whether there are units of two codes and more.
    """

    units: Tensor

    def __init__(self, facts: Facts, prefixes: bool) -> None:
        super().__init__()
        self.register_buffer("units", units(facts.codes, prefixes), persistent=False)
        n = int(self.units.max()) + 1 if self.units.numel() else 1
        codes = int(self.units[:, : facts.codes.shape[1]].max()) + 1 if self.units.numel() else 1
        self.weight = nn.Parameter(torch.zeros(n, facts.d))
        with torch.no_grad():
            self.weight[1:codes].normal_(std=0.02)

    @property
    def known(self) -> Tensor:
        """Tell which items have a unit, bool [n_items]."""
        return (self.units > 0).any(dim=1)

    def forward(self, index: Tensor | None = None) -> Tensor:
        """Return the branch of the items of ``index``, int64 [m], or of all; float [m, d], zeros without an ID."""
        return self._sum(self.weight, self.units if index is None else self.units[index])

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """Return the table to answer with, and which items have a unit that a trained item has.

        Units that no trained item has still stand where they began: they are taken as zeros.
        """
        met = torch.zeros(len(self.weight), dtype=torch.bool, device=trained.device)
        met[self.units[trained].flatten()] = True
        met[0] = False
        return self._sum(torch.where(met[:, None], self.weight, 0.0), self.units), met[self.units].any(dim=1)

    def _sum(self, weight: Tensor, units: Tensor) -> Tensor:
        # Unit 0 stands for none and is not trained.
        weight = torch.cat([weight.new_zeros(1, weight.shape[1]), weight[1:]])
        total = weight.new_zeros(len(units), weight.shape[1])
        for column in units.T:
            total = total + weight[column]
        return total


def units(codes: Tensor, prefixes: bool) -> Tensor:
    """Give what items share of their semantic IDs a number from 1; 0 where an item has none, or shares it with nobody.

    Parameters
    ----------
    codes
        int64 [n_items, levels]; a code below 0, and what follows it, is none.
    prefixes
        Whether to number prefixes of two codes and more as well.

    Returns
    -------
    int64 [n_items, levels], then [n_items, levels - 1] more with prefixes.
    """
    n, levels = codes.shape
    real = (codes >= 0).long().cumprod(dim=1).bool()
    spans = [codes[:, level : level + 1] for level in range(levels)]
    masks = [real[:, level] for level in range(levels)]
    if prefixes:
        spans += [codes[:, :length] for length in range(2, levels + 1)]
        masks += [real[:, length - 1] for length in range(2, levels + 1)]
    columns, first = [], 1
    for span, has in zip(spans, masks, strict=True):
        column = torch.zeros(n, dtype=torch.int64)
        if bool(has.any()):
            _, number, counts = torch.unique(span[has], dim=0, return_inverse=True, return_counts=True)
            shared = counts > 1
            column[has] = torch.where(shared, torch.cumsum(shared, dim=0) - 1 + first, 0)[number]
            first += int(shared.sum())
        columns.append(column)
    return torch.stack(columns, dim=1) if columns else codes.new_zeros(n, 0)


class BranchAlignmentParams(PartParams):
    """Parameters of `BranchAlignment`.

    Parameters
    ----------
    item_weight, user_weight
        Of the two levels; 0 leaves one out.
    temperature
        Of their softmax.
    """

    kind: Literal["branch_alignment"] = "branch_alignment"
    needs: ClassVar[tuple[str, ...]] = ("id_and_codes",)
    item_weight: float = Field(default=0.1, ge=0)
    user_weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.2, gt=0)

    def build(self, facts: Facts) -> BranchAlignment:
        """Make the part."""
        return BranchAlignment(self.item_weight, self.user_weight, self.temperature)


class BranchAlignment(nn.Module):
    """The two branches of `IdAndCodes` say the same of an item, and of a history.

    Dual-level alignment of H2Rec (arXiv:2512.10388, section 3.3). Of each item: its free vector is to find its semantic ID
    among those of the batch's items, where every item of the same ID counts as found. Of each history: the state read
    from semantic IDs alone is to find the state read from both branches.
    """

    def __init__(self, item_weight: float, user_weight: float, temperature: float) -> None:
        super().__init__()
        self.item_weight, self.user_weight, self.temperature = item_weight, user_weight, temperature

    def forward(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """See `ml.recommenders.sequential.parts.Auxiliary`."""
        net = cast(IdAndCodes, network.item_net)
        value = states.new_zeros(())
        known = net.semantic.known
        if self.item_weight:
            items = torch.unique(targets[targets >= 0])
            items = items[known[items]]
            if len(items):
                value = value + self.item_weight * group_nce(
                    net.free.weight[items], net.semantic(items), net.semantic.units[items], self.temperature
                )
        if self.user_weight and bool(known.any()):
            read = network.read(net.semantic()[sequences.items], sequences)
            alone, both = (last_state(part, sequences.lengths) for part in (read, states))
            value = value + self.user_weight * info_nce(alone, both, self.temperature)
        return value


def group_nce(first: Tensor, second: Tensor, group: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of finding, for each row, any row of its group among those of the other.

    Parameters
    ----------
    first, second
        float [n, d].
    group
        int64 [n, width]: rows that are equal are of one group.
    temperature
        Of the softmax.
    """
    scores = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    _, number = torch.unique(group, dim=0, return_inverse=True)
    same = number[:, None] == number
    found = torch.logsumexp(scores.masked_fill(~same, -torch.inf), dim=1)
    return (torch.logsumexp(scores, dim=1) - found).mean()
