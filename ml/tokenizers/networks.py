"""The autoencoder around a residual quantiser."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.tokenizers.quantizers import ResidualQuantizer

_ROWS = 8192


class Autoencoder(nn.Module):
    """Encoder, residual quantiser, decoder.

    Parameters
    ----------
    width
        Of the vectors that go in and come out.
    hidden
        Widths of the encoder's hidden layers; the decoder mirrors them.
    latent
        Width of a code vector; None for no encoder: the vectors themselves are quantised.
    levels, code_size, decay
        Of the `ResidualQuantizer`.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        latent: int | None,
        levels: int,
        code_size: int,
        decay: float | None,
    ) -> None:
        super().__init__()
        widths = [width, *hidden, latent or width]
        self.encoder: nn.Module = mlp(widths) if latent else nn.Identity()
        self.decoder: nn.Module = mlp(widths[::-1]) if latent else nn.Identity()
        self.quantizer = ResidualQuantizer(levels, code_size, widths[-1], decay)

    def drop_decoder(self) -> None:
        """Forget how to decode: half the size, for where only codes are wanted."""
        self.decoder = nn.Identity()

    def codes(self, vectors: Tensor) -> Tensor:
        """Return the codes int64 [n, levels] of vectors [n, width]."""
        codes: Tensor = self.quantizer(self.encoder(vectors)).codes
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return vectors [n, width] of codes [n, levels]."""
        decoded: Tensor = self.decoder(self.quantizer.vectors(codes))
        return decoded


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for left, right in itertools.pairwise(widths):
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.inference_mode()
def in_blocks(n: int, levels: int, codes: Callable[[slice], Tensor]) -> NDArray[np.int32]:
    """Return codes int32 [n, levels], asked for some thousand rows at a time so that no layer holds them all."""
    found = np.empty((n, levels), np.int32)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        found[rows] = codes(rows).numpy()
    return found
