"""Residual quantisation as a layer: code books that learn by gradient or by moving averages.

Zeghidour et al., "SoundStream" (arXiv:2107.03312), for residual quantisation and moving averages; van den Oord et al.,
"Neural Discrete Representation Learning" (arXiv:1711.00937), for straight-through gradients (section 3.2) and moving
averages (appendix A.1); Fifty et al., "Restructuring Vector Quantization with the Rotation Trick" (arXiv:2410.06424).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ml.tokenizers.kmeans import kmeans, nearest
from ml.tokenizers.sinkhorn import sinkhorn


class Quantised(NamedTuple):
    """What quantisation made of latent vectors.

    Parameters
    ----------
    codes
        int64 [n, levels].
    residuals
        What each level was given, [levels, n, latent]; carries the encoder's gradient.
    chosen
        Code vectors, [levels, n, latent]; carries the code books' gradient.
    """

    codes: Tensor
    residuals: Tensor
    chosen: Tensor


class ResidualQuantizer(nn.Module):
    """Code books [levels, code_size, width], each for what the books before it left over.

    Parameters
    ----------
    levels, code_size, width
        Shape of the books.
    decay
        Of the moving averages of items and their sum, from which code vectors are made; None where they are learned
        by gradient.
    """

    def __init__(self, levels: int, code_size: int, width: int, decay: float | None = None) -> None:
        super().__init__()
        start = torch.empty(levels, code_size, width).uniform_(-1 / code_size, 1 / code_size)
        self.books = nn.Parameter(start, requires_grad=decay is None)
        self.decay = decay
        # Items of a code in a batch, and their sum; only training needs them.
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer("counts", torch.ones(levels, code_size), persistent=False)
        self.register_buffer("sums", start.clone(), persistent=False)

    def forward(self, latent: Tensor, balance: float = 0.0) -> Quantised:
        """Quantise latent vectors [n, width].

        Parameters
        ----------
        latent
            Float [n, width].
        balance
            Where positive, the ``epsilon`` by which the last level spreads the batch evenly over its codes.
        """
        codes, residuals, chosen = [], [], []
        rest = latent
        for level, book in enumerate(self.books):
            closeness = rest @ book.T - 0.5 * book.square().sum(dim=1)
            if balance > 0 and level == len(self.books) - 1:
                with torch.no_grad():
                    distances = rest.square().sum(dim=1, keepdim=True) - 2 * closeness
                    closeness = sinkhorn(distances, balance)
            code = closeness.argmax(dim=1)
            vector = nn.functional.embedding(code, book)
            codes.append(code)
            residuals.append(rest)
            chosen.append(vector)
            rest = rest - vector.detach()
        return Quantised(torch.stack(codes, dim=1), torch.stack(residuals), torch.stack(chosen))

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the sums of code vectors [n, width] that codes [n, levels] stand for."""
        total: Tensor = self.books[torch.arange(len(self.books), device=codes.device), codes].sum(dim=1)
        return total

    @torch.no_grad()
    def start(self, latent: Tensor, rng: np.random.Generator) -> None:
        """Put the books where residual k-means on latent vectors [n, width] puts them."""
        rest = latent.cpu().numpy()
        for level in range(len(self.books)):
            book = kmeans(rest, self.books.shape[1], rng)
            self.books[level] = torch.from_numpy(book)
            rest = rest - book[nearest(rest, book)[0]]

    @torch.no_grad()
    def start_averages(self, latent: Tensor, batch: int) -> None:
        """Make the moving averages what batches of the given size would bring them to, the books standing still."""
        codes = self(latent).codes
        for level, column in enumerate(codes.T):
            counts = torch.bincount(column, minlength=self.books.shape[1]).float()
            self.counts[level] = (counts * batch / len(latent)).clamp(min=0.1)
        self.sums.copy_(self.books * self.counts[:, :, None])

    @torch.no_grad()
    def update(self, quantised: Quantised) -> None:
        """Move averages, and with them code vectors, by one batch; nothing where books learn by gradient."""
        if self.decay is None:
            return
        for level, code in enumerate(quantised.codes.T):
            counts = torch.bincount(code, minlength=self.books.shape[1])
            sums = torch.zeros_like(self.sums[level]).index_add_(0, code, quantised.residuals[level])
            self.counts[level].lerp_(counts.to(self.counts.dtype), 1 - self.decay)
            self.sums[level].lerp_(sums, 1 - self.decay)
        counts = self.counts[:, :, None]
        # A code that nobody chose for very long stays where it is, rather than at 0 / 0.
        self.books.copy_(torch.where(counts > 1e-6, self.sums / counts.clamp(min=1e-6), self.books))

    @torch.no_grad()
    def reset(self, dead: Tensor, latent: Tensor) -> None:
        """Move dead codes to what is left over of random items.

        Parameters
        ----------
        dead
            bool [levels, code_size].
        latent
            Latent vectors of random items, at least as many as a level has dead codes.
        """
        residuals = self(latent).residuals
        for level, gone in enumerate(dead):
            places = torch.nonzero(gone).squeeze(1)
            self.books[level, places] = residuals[level, : len(places)]
            self.counts[level, places] = 1.0
            self.sums[level, places] = residuals[level, : len(places)]


def straight_through(latent: Tensor, total: Tensor) -> Tensor:
    """Return ``total`` [n, d] with a gradient that reaches ``latent`` [n, d] unchanged."""
    return latent + (total - latent).detach()


def rotation(latent: Tensor, total: Tensor) -> Tensor:
    """Return ``total`` [n, d] with a gradient that is turned and scaled as ``total`` is against ``latent`` [n, d].

    The rotation that takes the direction e of ``latent`` to the direction q of ``total`` is
    ``I - 2 r r^T + 2 q e^T`` with ``r = (e + q) / |e + q|`` (section 4 of the paper); it counts as a constant.
    """
    with torch.no_grad():
        length, target = latent.norm(dim=1, keepdim=True), total.norm(dim=1, keepdim=True)
        e, q = latent / length.clamp(min=1e-12), total / target.clamp(min=1e-12)
        r = nn.functional.normalize(e + q, dim=1)
        scale = target / length.clamp(min=1e-12)
    turned = (
        latent - 2 * (latent * r).sum(dim=1, keepdim=True) * r + 2 * (latent * e).sum(dim=1, keepdim=True) * q
    )
    # The value is the sum of code vectors to the last bit; only the gradient goes by the rotation.
    turned = scale * turned
    return turned + (total - turned).detach()
