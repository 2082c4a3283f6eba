"""Finite scalar quantization: an autoencoder whose latent numbers are rounded to a few levels each.

Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (ICLR 2024, arXiv:2309.15505), section 3: no code book
is learned, so none can collapse, and no loss but reconstruction is needed. RecGPT (arXiv:2506.06270) turns the text of
items into codes with it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.tokenizers.base import CodebookTokenizer, TokenizerParams
from ml.tokenizers.items import ItemData
from ml.tokenizers.networks import in_blocks, mlp


class FSQParams(TokenizerParams):
    """Parameters of `FSQ`.

    Parameters
    ----------
    input
        The space that is read, a key of `ItemData.spaces`.
    codes
        Codes of an item, the de-duplicating one not counted.
    levels
        Levels of the latent numbers that make one code, so that it has ``prod(levels)`` values: every code has a group
        of ``len(levels)`` numbers to itself. With one entry, each number is a code.
    hidden
        Widths of the encoder's hidden layers; the decoder mirrors them.
    epochs, batch, lr, weight_decay
        AdamW; the learning rate falls to 0 along a half cosine.
    """

    input: str = "fused"
    codes: Annotated[int, Field(ge=1, le=64)] = 4
    levels: Annotated[tuple[Annotated[int, Field(ge=2, le=256)], ...], Field(min_length=1)] = (8, 6, 5)
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (512, 256)
    epochs: Annotated[int, Field(ge=1)] = 60
    batch: Annotated[int, Field(ge=1)] = 512
    lr: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class _Network(nn.Module):
    """Encoder to ``codes * len(levels)`` numbers, and decoder."""

    _levels: Tensor

    def __init__(self, width: int, params: FSQParams) -> None:
        super().__init__()
        widths = [width, *params.hidden, params.codes * len(params.levels)]
        self.encoder = mlp(widths)
        self.decoder = mlp(widths[::-1])
        self.register_buffer("_levels", torch.tensor(params.levels * params.codes), persistent=False)

    def bound(self, latent: Tensor) -> Tensor:
        """Squash latent numbers [n, k] so that rounding gives each exactly its levels.

        An even number of levels lies half a step off the middle, so a shift before the squashing keeps 0 at 0.
        """
        reach = (self._levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(latent + torch.atanh(offset / reach)) * reach - offset

    def round(self, latent: Tensor) -> Tensor:
        """Round bounded numbers, the gradient going straight through, and scale them to about -1 to 1."""
        bounded = self.bound(latent)
        return (bounded + (bounded.round() - bounded).detach()) / (self._levels // 2)

    def digits(self, latent: Tensor) -> Tensor:
        """Return the level of each number, int64 [n, k], from 0."""
        return self.bound(latent).round().long() + self._levels // 2

    def numbers(self, digits: Tensor) -> Tensor:
        """Return what the decoder is given for levels [n, k]."""
        half = self._levels // 2
        return (digits - half) / half


class FSQ(CodebookTokenizer):
    """Tokenizer of parallel codes on a fixed grid in the latent space of an autoencoder."""

    kind: ClassVar[str] = "fsq"
    Params: ClassVar[type[TokenizerParams]] = FSQParams
    ordered: ClassVar[bool] = False

    def __init__(self, params: FSQParams) -> None:
        super().__init__(params)
        self._network: _Network | None = None

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Exclusive upper bound of each code."""
        return (math.prod(self.params.levels),) * self.params.codes

    @property
    def _least_rows(self) -> int:
        return 1

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Train; report ``residual``, the share of the input's variance that reconstruction misses, last epoch."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _Network(scaled.shape[1], self.params)
        if start is not None:
            network.load_state_dict(start._trained().state_dict())
        data = torch.from_numpy(scaled).to(device)
        missed = _train(network.to(device), data, self.params, np.random.default_rng(seed))
        self._network = network.cpu().eval()
        return {"residual": missed}

    def _encode(self, scaled: NDArray[np.float32], items: ItemData) -> NDArray[np.int32]:
        network, data = self._trained(), torch.from_numpy(scaled)
        places = torch.from_numpy(self._places)

        def codes(rows: slice) -> Tensor:
            digits = network.digits(network.encoder(data[rows]))
            return digits.unflatten(1, (self.params.codes, len(places))) @ places

        return in_blocks(len(scaled), self.params.codes, codes)

    @torch.inference_mode()
    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        network = self._trained()
        digits = codes[:, :, None] // self._places % np.array(self.params.levels)
        numbers = network.numbers(
            torch.from_numpy(digits.reshape(len(codes), self.params.codes * len(self.params.levels)))
        )
        decoded: NDArray[np.float32] = network.decoder(numbers).numpy()
        return decoded

    @property
    def _places(self) -> NDArray[np.int64]:
        """What one step of each number of a group adds to the code, int64 [len(levels)]; the first varies fastest."""
        return np.cumprod([1, *self.params.levels[:-1]])

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {name: value.numpy() for name, value in self._trained().state_dict().items()}

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._network = _Network(len(self._fitted().mean), self.params)
        self._network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        self._network.eval()

    def _trained(self) -> _Network:
        if self._network is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._network


def _train(network: _Network, data: Tensor, params: FSQParams, rng: np.random.Generator) -> float:
    """Return the mean squared error of the last epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    steps = params.epochs * -(-len(data) // params.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    missed = torch.zeros((), device=data.device)
    for _ in range(params.epochs):
        missed.zero_()
        order = torch.from_numpy(rng.permutation(len(data))).to(data.device)
        for rows in order.split(params.batch):
            batch = data[rows]
            loss = nn.functional.mse_loss(network.decoder(network.round(network.encoder(batch))), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            missed += loss.detach() * (len(rows) / len(data))
    return float(missed)
