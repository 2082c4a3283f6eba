"""Codes that ask several views of an item's text, after CCFRec, and the losses that mask them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, normalize, scaled_dot_product_attention

from ml.recommenders.batches import Sequences
from ml.recommenders.losses import info_nce
from ml.recommenders.sequential.item_nets.features import VectorMap, VectorMapParams, category_paths
from ml.recommenders.sequential.parts import Facts, PartParams, heads_divide, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.model import SequentialParams
    from ml.recommenders.sequential.network import Network


class CodeGuidedParams(PartParams):
    """Parameters of `CodeGuided`.

    Parameters
    ----------
    whiten
        Principal directions of each view's vectors; see `ml.recommenders.sequential.item_nets.features.VectorMapParams`.
    depth
        Levels of the category path, each of which is a view.
    heads
        Of attention.
    hidden
        Width of the layer after attention.
    """

    kind: Literal["code_guided"] = "code_guided"
    whiten: int = Field(default=128, ge=1)
    depth: int = Field(default=3, ge=0)
    heads: int = Field(default=2, ge=1)
    hidden: int = Field(default=64, ge=1)

    def check(self, whole: SequentialParams) -> None:
        """See `ml.recommenders.sequential.parts.PartParams.check`."""
        heads_divide(self.heads, whole.d)

    def build(self, facts: Facts) -> CodeGuided:
        """Make the part.

        Raises
        ------
        ValueError
            If the catalogue knows nothing of its items.
        """
        made = CodeGuided(facts, self)
        if not bool(made.known.any()):
            raise ValueError("items are told by vectors and categories, and the catalogue has none")
        return made


class CodeGuided(nn.Module):
    """Each code of an item asks the views of its text; codes, answers and views add up to the item.

    Code-guided fusion of CCFRec (Liu et al., 2025, arXiv:2503.12183, section 3.2), of one layer. Views are the vectors of the
    catalogue, those of text where they are others, and the category at each level. Beside its codes every item asks
    with one question that all items share, so that one without codes has its views fused too.

    Parameters
    ----------
    facts
        The catalogue.
    params
        What to read, and how.
    """

    codes: Tensor
    paths: Tensor
    seen: Tensor

    def __init__(self, facts: Facts, params: CodeGuidedParams) -> None:
        super().__init__()
        d, catalogue = facts.d, facts.catalogue
        self.heads = params.heads
        # Row 0 is the shared question, the last one a masked code; codes of all levels stand between.
        sizes = catalogue.code_sizes
        starts = torch.tensor([1, *sizes], dtype=torch.int64).cumsum(0)
        numbered = torch.where(facts.codes >= 0, facts.codes + starts[:-1], -1)
        shared = torch.zeros(len(catalogue), 1, dtype=torch.int64)
        self.register_buffer("codes", torch.cat([shared, numbered], dim=1), persistent=False)
        self.masked = int(starts[-1])
        self.embedding = nn.Parameter(torch.randn(self.masked + 1, d) * _START)
        views: list[Literal["vectors", "text"]] = ["vectors", "text"]
        if np.array_equal(catalogue.vectors, catalogue.text):
            views = ["vectors"]
        maps = [
            VectorMap(facts, VectorMapParams(view=view, whiten=params.whiten))
            for view in views
            if getattr(catalogue, view).any()
        ]
        self.maps = nn.ModuleList(maps)
        paths, depths = category_paths(catalogue, params.depth)
        self.register_buffer("paths", paths, persistent=False)
        self.levels = nn.ParameterList([nn.Parameter(torch.zeros(size, d)) for size in depths])
        seen = [*(view.known for view in maps), *(paths > 0).T]
        none = torch.zeros(len(catalogue), 0, dtype=torch.bool)
        self.register_buffer("seen", torch.stack(seen, dim=1) if seen else none, persistent=False)
        self.question, self.key = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.value, self.answer = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.into, self.out = nn.Linear(d, params.hidden), nn.Linear(params.hidden, d, bias=False)
        nn.init.zeros_(self.out.weight)

    @property
    def known(self) -> Tensor:
        """Tell which items have a view, bool [n_items]."""
        return self.seen.any(dim=1)

    def forward(self) -> Tensor:
        """See `ItemNet`."""
        return self.rows(torch.arange(len(self.codes), device=self.codes.device))

    def rows(self, index: Tensor) -> Tensor:
        """See `ByRows`."""
        return self.fuse(index, self.codes[index])[0]

    def settled(self, trained: Tensor) -> tuple[Tensor, Tensor]:
        """See `ItemNet.settled`: an item does not ask with codes that no trained item has."""
        met = torch.zeros(len(self.embedding), dtype=torch.bool, device=trained.device)
        met[self.codes[trained].clamp(min=0).flatten()] = True
        codes = torch.where(met[self.codes.clamp(min=0)], self.codes, -1)
        codes[:, 0] = 0
        placed = trained | self.known
        table, _ = self.fuse(torch.arange(len(codes), device=codes.device), codes)
        return torch.where(placed[:, None], table, 0.0), placed

    def fuse(self, index: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Make items of codes and views.

        Parameters
        ----------
        index
            int64 [m], whose views to read.
        codes
            int64 [m, slots], rows of the embedding to ask with; -1 for none.

        Returns
        -------
        The items, float [m, d], and what became of each code, float [m, slots, d], zeros for none.
        """
        real, codes = (codes >= 0)[..., None], codes.clamp(min=0)
        views, keys, values = self._views(index)
        seen = self.seen[index]
        m, n_views, d = len(index), seen.shape[1], self.embedding.shape[1]
        x = self.embedding[codes]
        if n_views:
            # Questions are made for each code, not for each item.
            split = (m, -1, self.heads, d // self.heads)
            parts = [self.question(self.embedding / _START)[codes], keys, values]
            q, k, v = (part.reshape(split).transpose(1, 2) for part in parts)
            # An item without views would attend to nothing, which is no number: it attends to zeros.
            open_to = seen | ~seen.any(dim=1, keepdim=True)
            told = scaled_dot_product_attention(q, k, v, attn_mask=open_to[:, None, None, :])
            x = x + self.answer(told.transpose(1, 2).reshape(m, -1, d))
        x = torch.where(real, x + self.out(gelu(self.into(x / _START))), 0.0)
        return x.sum(dim=1) + views, x

    def _views(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of the views of items, float [m, d], and their keys and values, float [m, views, d]."""
        rows = [view(index) for view in self.maps]
        told = [(row, self.key(row / _START), self.value(row)) for row in rows]
        for level, weight in enumerate(self.levels):
            number = self.paths[index, level]
            # Number 0 stands for none. Keys and values are made for each category, not for each item.
            weight = torch.cat([weight.new_zeros(1, weight.shape[1]), weight[1:]])
            key, value = self.key(weight / _START), self.value(weight)
            told.append((weight[number], key[number], value[number]))
        if not told:
            nothing = self.embedding.new_zeros(len(index), 0, self.embedding.shape[1])
            return nothing.sum(dim=1), nothing, nothing
        views, keys, values = (torch.stack(part, dim=1) for part in zip(*told, strict=True))
        return views.sum(dim=1), keys, values


class CodeMaskingParams(PartParams):
    """Parameters of `CodeMasking`.

    Parameters
    ----------
    code_weight, sequence_weight
        Of masked code modelling and of masked sequence alignment; 0 leaves one out.
    share
        Of the codes that are masked.
    temperature
        Of the softmax of both.
    """

    kind: Literal["code_masking"] = "code_masking"
    needs: ClassVar[tuple[str, ...]] = ("code_guided",)
    code_weight: float = Field(default=0.1, ge=0)
    sequence_weight: float = Field(default=0.1, ge=0)
    share: float = Field(default=0.3, gt=0, lt=1)
    temperature: float = Field(default=0.1, gt=0)

    def build(self, facts: Facts) -> CodeMasking:
        """Make the part."""
        return CodeMasking(self)


class CodeMasking(nn.Module):
    """Codes are masked: they are to be told from the others and the views, and the history is to stay what it was.

    Masked code modelling and masked sequence alignment of CCFRec (arXiv:2503.12183, section 3.3). Masks are drawn
    for each item of the batch, for all its places.
    """

    def __init__(self, params: CodeMaskingParams) -> None:
        super().__init__()
        self.params = params

    def forward(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """See `ml.recommenders.sequential.parts.Auxiliary`."""
        net, params = cast(CodeGuided, network.item_net), self.params
        items, place = torch.unique(sequences.items, return_inverse=True)
        codes = net.codes[items]
        hides = (torch.rand(codes.shape, device=codes.device) < params.share) & (codes >= 0)
        hides[:, 0] = False
        value = states.new_zeros(())
        if not bool(hides.any()):
            return value
        vectors, told = net.fuse(items, codes.masked_fill(hides, net.masked))
        if params.code_weight:
            scores = normalize(told[hides], dim=1) @ normalize(net.embedding[: net.masked], dim=1).T
            value = value + params.code_weight * cross_entropy(scores / params.temperature, codes[hides])
        if params.sequence_weight:
            again = last_state(network.read(vectors[place], sequences), sequences.lengths)
            before = last_state(states, sequences.lengths)
            value = value + params.sequence_weight * info_nce(again, before, params.temperature)
        return value


#: About how long a number of an item's vector is at the start.
_START = 0.02
