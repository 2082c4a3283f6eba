"""What the catalogue tells of its items, as tensors that item nets read."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from ml.recommenders.sequential.parts import Facts, PartParams
from ml.snapshot import Catalogue

_NOISE = 1e-3


class VectorMapParams(PartParams):
    """Parameters of `VectorMap`.

    Parameters
    ----------
    view
        Vectors of the catalogue to read: ``vectors``, or ``text``, which nobody's behaviour went into.
    whiten
        Principal directions to keep, each scaled to variance 1; None takes the vectors as they are.
    hidden
        Width of a hidden layer beside the linear map; 0 for none.
    """

    view: Literal["vectors", "text"] = "vectors"
    whiten: int | None = Field(default=None, ge=1)
    hidden: int = Field(default=0, ge=0)


class VectorMap(nn.Module):
    """Map the vectors of the catalogue into the width of the network: linear, plus a hidden layer where asked.

    With whitening, the adaptor of UniSRec (Hou et al., KDD 2022, arXiv:2206.05941, section 2.1), of one expert. An item
    without a vector becomes zeros.

    Parameters
    ----------
    facts
        The catalogue.
    params
        What to read, and how.
    """

    def __init__(self, facts: Facts, params: VectorMapParams) -> None:
        super().__init__()
        self.vectors = Vectors(getattr(facts.catalogue, params.view), params.whiten)
        width = self.vectors.width
        self.linear = nn.Linear(width, facts.d, bias=False)
        # Rows begin about as long as those of free vectors: 0.02 a number.
        nn.init.normal_(
            self.linear.weight, std=0.02 if params.whiten is None else 0.02 * max(width, 1) ** -0.5
        )
        self.hidden = self.out = None
        if params.hidden:
            self.hidden = nn.Linear(width, params.hidden, bias=False)
            self.out = nn.Linear(params.hidden, facts.d, bias=False)
            nn.init.normal_(self.out.weight, std=0.02 * params.hidden**-0.5)

    @property
    def known(self) -> Tensor:
        """Tell which items have a vector, bool [n_items]."""
        return self.vectors.known

    def forward(self, index: Tensor | None = None) -> Tensor:
        """Map the items of ``index``, int64 [m], or all; float [m, d]."""
        x = self.vectors.ready if index is None else self.vectors.ready[index]
        y: Tensor = self.linear(x)
        if self.hidden is not None and self.out is not None:
            y = y + self.out(gelu(self.hidden(x)))
        return y


class Vectors(nn.Module):
    """Vectors of the catalogue, whitened where asked. What whitens is saved with the weights; the vectors are not.

    Parameters
    ----------
    vectors
        float32 array [n_items, width]; rows of zeros where unknown.
    keep
        See `VectorMapParams.whiten`.
    """

    known: Tensor
    ready: Tensor
    mean: Tensor
    map: Tensor

    def __init__(self, vectors: object, keep: int | None) -> None:
        super().__init__()
        raw = torch.as_tensor(vectors)
        self.raw = raw
        self.register_buffer("known", (raw != 0).any(dim=1), persistent=False)
        self.register_buffer("ready", raw, persistent=False)
        if keep is not None:
            mean, onto = whitening(raw[self.known], keep)
            self.register_buffer("mean", mean)
            self.register_buffer("map", onto)
            self._whiten()
            # The directions are those of the training, whatever this machine makes of the same vectors.
            self.register_load_state_dict_post_hook(lambda module, _: module._whiten())

    @property
    def width(self) -> int:
        """Width of what is read."""
        return self.ready.shape[1]

    def _whiten(self) -> None:
        raw = self.raw.to(self.map.device)
        self.ready = torch.where(self.known[:, None], (raw - self.mean) @ self.map, 0.0)


def whitening(vectors: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return mean [width] and map [width, m] such that ``(vectors - mean) @ map`` has covariance 1.

    Directions of (almost) no variance are left out, so that ``m`` is ``keep`` at most.
    """
    if not vectors.numel():
        return torch.zeros(vectors.shape[1]), torch.zeros(vectors.shape[1], 0)
    mean = vectors.mean(dim=0)
    centred = (vectors - mean).double()
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(vectors))
    variance, directions = variance.flip(0)[:keep], directions.flip(1)[:, :keep]
    told = variance > _NOISE * variance[0]
    onto = directions[:, told] / variance[told].sqrt()
    return mean, onto.to(vectors.dtype)


def category_paths(catalogue: Catalogue, depth: int) -> tuple[Tensor, list[int]]:
    """Give the categories of each item a number: level ``l`` tells its path down to there, not the name alone.

    Returns
    -------
    int64 [n_items, depth], 0 where an item has no category at that level, and for each level one more than the
    greatest number. Where the items' paths have fewer levels than ``depth``, so do these.
    """
    depth = min(depth, max(map(len, catalogue.categories), default=0))
    columns, sizes = [], []
    for level in range(1, depth + 1):
        paths = [tuple(path[:level]) if len(path) >= level else None for path in catalogue.categories]
        number = {path: i for i, path in enumerate(sorted({path for path in paths if path}), start=1)}
        columns.append(torch.tensor([number[path] if path else 0 for path in paths], dtype=torch.int64))
        sizes.append(len(number) + 1)
    return torch.stack(columns, dim=1) if columns else torch.zeros(
        len(catalogue), 0, dtype=torch.int64
    ), sizes
