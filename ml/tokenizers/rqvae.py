"""RQ-VAE: an autoencoder whose latent vector is a sum of code vectors, one a level.

Zeghidour et al., "SoundStream" (2021) for residual quantisation; Rajput et al., "Recommender Systems with Generative
Retrieval" (TIGER, NeurIPS 2023), section 3.1, for its use on items. The paper's settings collapse on text vectors of
unit length; what keeps all codes alive here: scaled inputs, a short training without quantisation followed by a
k-means start, and the re-use of codes that nobody chose during an epoch.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.tokenizers.base import CodebookParams, CodebookTokenizer, TokenizerParams
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest

_ENCODE_ROWS = 8192


class RQVAEParams(CodebookParams):
    """Parameters of `RQVAE`.

    Parameters
    ----------
    hidden
        Widths of the encoder's hidden layers; the decoder mirrors them.
    latent
        Width of a code vector.
    epochs
        Passes over the items with quantisation.
    warm_up
        Passes without it, before the k-means start.
    batch, lr, weight_decay
        AdamW; code books are not decayed.
    beta
        Weight of the commitment loss.
    """

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (512, 256)
    latent: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[int, Field(ge=1)] = 60
    warm_up: Annotated[int, Field(ge=0)] = 10
    batch: Annotated[int, Field(ge=1)] = 512
    lr: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    beta: Annotated[float, Field(ge=0)] = 0.25


class _Network(nn.Module):
    """Encoder, decoder, and code books [levels, code_size, latent]."""

    def __init__(self, width: int, params: RQVAEParams) -> None:
        super().__init__()
        widths = [width, *params.hidden, params.latent]
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.books = nn.Parameter(torch.zeros(params.levels, params.code_size, params.latent))

    def quantise(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes [n, levels], residuals before each level and chosen code vectors [levels, n, latent]."""
        codes, residuals, chosen = [], [], []
        rest = latent
        for book in self.books:
            code = (rest @ book.T - 0.5 * book.square().sum(dim=1)).argmax(dim=1)
            vector = book[code]
            codes.append(code)
            residuals.append(rest)
            chosen.append(vector)
            rest = rest - vector.detach()
        return torch.stack(codes, dim=1), torch.stack(residuals), torch.stack(chosen)


class RQVAE(CodebookTokenizer):
    """Tokenizer with learned code books in the latent space of an autoencoder."""

    kind: ClassVar[str] = "rqvae"
    Params: ClassVar[type[TokenizerParams]] = RQVAEParams

    def __init__(self, params: RQVAEParams) -> None:
        super().__init__(params)
        self._network: _Network | None = None

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Train.

        Returns
        -------
        dict[str, Any]
            ``residual``: share of the input's variance that reconstruction misses, last epoch;
            ``reset``: codes that were given a new place, in all.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._network = _Network(scaled.shape[1], self.params)
        network = self._network.to(device)
        report = _train(
            network, torch.from_numpy(scaled).to(device), self.params, np.random.default_rng(seed)
        )
        network.cpu().eval()
        return report

    @torch.inference_mode()
    def _encode(self, scaled: NDArray[np.float32]) -> NDArray[np.int32]:
        network = self._trained()
        codes = [np.zeros((0, self.params.levels), np.int32)]
        for block in torch.from_numpy(scaled).split(_ENCODE_ROWS):
            codes.append(network.quantise(network.encoder(block))[0].numpy().astype(np.int32))
        return np.concatenate(codes)

    @torch.inference_mode()
    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return what the decoder makes of the sum of code vectors."""
        network = self._trained()
        levels = torch.arange(self.params.levels)
        latent = network.books[levels, torch.from_numpy(codes.astype(np.int64))].sum(dim=1)
        decoded: NDArray[np.float32] = network.decoder(latent).numpy()
        return decoded

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {f"network.{name}": value.numpy() for name, value in self._trained().state_dict().items()}

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._network = _Network(len(self._fitted().mean), self.params)
        state = {name.removeprefix("network."): torch.from_numpy(value) for name, value in tensors.items()}
        self._network.load_state_dict(state)
        self._network.eval()

    def _trained(self) -> _Network:
        if self._network is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._network


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for left, right in itertools.pairwise(widths):
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _train(network: _Network, data: Tensor, params: RQVAEParams, rng: np.random.Generator) -> dict[str, Any]:
    weights = [*network.encoder.parameters(), *network.decoder.parameters()]
    groups = [
        {"params": weights, "weight_decay": params.weight_decay},
        {"params": [network.books], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=params.lr)
    reset, missed = 0, 0.0
    for epoch in range(params.warm_up + params.epochs):
        quantised = epoch >= params.warm_up
        if epoch == params.warm_up:
            _start_books(network, data, params, rng)
        used = torch.zeros(params.levels, params.code_size, dtype=torch.bool, device=data.device)
        missed = 0.0
        order = torch.from_numpy(rng.permutation(len(data))).to(data.device)
        for rows in order.split(params.batch):
            batch = data[rows]
            reconstruction, loss = _loss(network, batch, params, used if quantised else None)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            missed += float(reconstruction) * len(rows) / len(data)
        # The last epoch resets nothing: a code that is put in place then would never be trained.
        if quantised and epoch < params.warm_up + params.epochs - 1:
            reset += _reset_dead(network, data, used, rng)
    return {"residual": missed, "reset": reset, "rows": len(data)}


def _loss(
    network: _Network, batch: Tensor, params: RQVAEParams, used: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return reconstruction loss and whole loss; mark the codes that were chosen in ``used``."""
    latent = network.encoder(batch)
    if used is None:
        reconstruction = nn.functional.mse_loss(network.decoder(latent), batch)
        return reconstruction.detach(), reconstruction
    codes, residuals, chosen = network.quantise(latent)
    used[torch.arange(params.levels, device=used.device), codes] = True
    # Straight-through: the decoder sees the code vectors, the encoder gets their gradient.
    straight = latent + (chosen.sum(dim=0) - latent).detach()
    reconstruction = nn.functional.mse_loss(network.decoder(straight), batch)
    books = nn.functional.mse_loss(chosen, residuals.detach())
    commitment = nn.functional.mse_loss(residuals, chosen.detach())
    return reconstruction.detach(), reconstruction + params.levels * (books + params.beta * commitment)


@torch.no_grad()
def _start_books(network: _Network, data: Tensor, params: RQVAEParams, rng: np.random.Generator) -> None:
    """Put the code books where residual k-means on the present latent vectors puts them."""
    rows = np.sort(rng.permutation(len(data))[: 64 * params.code_size])
    rest = network.encoder(data[torch.from_numpy(rows).to(data.device)]).cpu().numpy()
    for level in range(params.levels):
        book = kmeans(rest, params.code_size, rng)
        network.books[level] = torch.from_numpy(book).to(data.device)
        rest = rest - book[nearest(rest, book)[0]]


@torch.no_grad()
def _reset_dead(network: _Network, data: Tensor, used: Tensor, rng: np.random.Generator) -> int:
    """Move codes that no item chose to the residual of a random item; return how many there were."""
    dead = int((~used).sum())
    if dead == 0:
        return 0
    rows = rng.integers(len(data), size=int((~used).sum(dim=1).max()))
    _, residuals, _ = network.quantise(network.encoder(data[torch.from_numpy(rows).to(data.device)]))
    for level, alive in enumerate(used):
        empty = torch.nonzero(~alive).squeeze(1)
        network.books[level, empty] = residuals[level, : len(empty)]
    return dead
