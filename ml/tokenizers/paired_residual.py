"""Residual quantisation of one latent vector for two spaces: network, losses, training.

Zeghidour et al., "SoundStream" (2021) for residual quantisation; the k-means start and the re-use of dead codes as in
`ml.tokenizers.rqvae`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ml.tokenizers.networks import mlp
from ml.tokenizers.paired import PairedNetwork, PairedParams, Views
from ml.tokenizers.quantizers import Quantised, ResidualQuantizer

_START_ROWS_PER_CODE = 64


class ResidualPairParams(PairedParams):
    """Parameters of a tokenizer of two spaces whose codes refine one another.

    Parameters
    ----------
    warm_up
        Passes over the items before codes come in; ``epochs`` are those with codes.
    beta
        Weight of the commitment loss.
    unseen
        Share of the items of a batch that are shown as if they had no history, so that new items meet a model that
        knows their like.
    """

    warm_up: Annotated[int, Field(ge=0)] = 20
    beta: Annotated[float, Field(ge=0)] = 0.25
    unseen: Annotated[float, Field(ge=0, lt=1)] = 0.2


class ResidualPairNetwork(PairedNetwork):
    """Code books [levels, code_size, latent] and a decoder for each space; a family adds its encoder, `latent`."""

    def __init__(self, widths: tuple[int, int], params: ResidualPairParams) -> None:
        super().__init__()
        back = [params.latent, *params.hidden[::-1]]
        self.to_text = mlp([*back, widths[0]])
        self.to_behaviour = mlp([*back, widths[1]])
        self.quantizer = ResidualQuantizer(params.levels, params.code_size, params.latent)

    @abstractmethod
    def latent(self, views: Views) -> Tensor:
        """Return one vector an item, [n, latent]."""

    def codes(self, views: Views) -> Tensor:
        """Return codes int64 [n, levels]."""
        codes: Tensor = self.quantizer(self.latent(views)).codes
        return codes

    def text_of(self, codes: Tensor) -> Tensor:
        """Return what the decoder makes of the sum of code vectors."""
        decoded: Tensor = self.to_text(self.code_vectors(codes))
        return decoded

    def code_vectors(self, codes: Tensor) -> Tensor:
        """Return the sum of code vectors [n, latent] of codes [n, levels]."""
        return self.quantizer.vectors(codes)


def quantisation_loss(quantised: Quantised, beta: float) -> Tensor:
    """Return the code-book loss plus ``beta`` times the commitment loss, summed over levels."""
    books = nn.functional.mse_loss(quantised.chosen, quantised.residuals.detach())
    commitment = nn.functional.mse_loss(quantised.residuals, quantised.chosen.detach())
    return len(quantised.chosen) * (books + beta * commitment)


def masked_mse(predicted: Tensor, truth: Tensor, known: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared error over known rows, 0 where there are none.

    Parameters
    ----------
    predicted, truth
        [n, width].
    known
        bool [n].
    weights
        Of rows, [n]; all 1 if not given.
    """
    weight = known.float() if weights is None else known * weights
    squares = (predicted - truth).square().mean(dim=1)
    return (weight * squares).sum() / weight.sum().clamp_min(1e-12)


def train(
    network: ResidualPairNetwork,
    views: Views,
    params: ResidualPairParams,
    rng: np.random.Generator,
    loss: Callable[[Views, Views, Tensor, bool], tuple[Tensor, Quantised | None]],
    *,
    warm: bool,
    extra: list[nn.Parameter] | None = None,
    before_codes: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train without codes, put the code books where residual k-means puts them, and train with codes.

    Parameters
    ----------
    network, views
        On one device.
    params
        Of the tokenizer.
    rng
        Source of the order of items and of who is shown without history.
    loss
        From the views of a batch as shown (``known`` false for some that are known), the views as they are, the
        batch's rows, and whether codes take part, to the loss and to what quantisation gave.
    warm
        Whether the network was trained before: then nothing is started anew and codes take part from the first pass.
    extra
        Further parameters, trained without weight decay.
    before_codes
        Called once when codes come in.

    Returns
    -------
    dict[str, Any]
        ``reset``: codes that nobody chose during a pass and that were given a new place, in all; ``loss`` of the last
        pass.
    """
    decayed = [value for name, value in network.named_parameters() if name != "quantizer.books"]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": params.weight_decay},
            {"params": [network.quantizer.books, *(extra or [])], "weight_decay": 0.0},
        ],
        lr=params.lr,
    )
    n, device = len(views.text), views.text.device
    warm_up = 0 if warm else params.warm_up
    reset, total = 0, 0.0
    for epoch in range(warm_up + params.epochs):
        with_codes = epoch >= warm_up
        if epoch == warm_up:
            if not warm:
                _start_books(network, views, params, rng)
            if before_codes is not None:
                before_codes()
        used = torch.zeros(params.levels, params.code_size, dtype=torch.bool, device=device)
        shown = views.known & torch.from_numpy(rng.random(n) >= params.unseen).to(device)
        total = 0.0
        for rows in torch.from_numpy(rng.permutation(n)).to(device).split(params.batch):
            batch = views.take(rows)
            value, quantised = loss(batch._replace(known=shown[rows]), batch, rows, with_codes)
            if quantised is not None:
                used[torch.arange(params.levels, device=device), quantised.codes] = True
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            total += float(value.detach()) * len(rows) / n
        # The last pass resets nothing: a code that is put in place then would never be trained.
        if with_codes and epoch < warm_up + params.epochs - 1:
            reset += _reset_dead(network, views, used, rng)
    return {"reset": reset, "loss": total}


@torch.no_grad()
def _start_books(
    network: ResidualPairNetwork, views: Views, params: ResidualPairParams, rng: np.random.Generator
) -> None:
    rows = np.sort(rng.permutation(len(views.text))[: _START_ROWS_PER_CODE * params.code_size])
    network.quantizer.start(network.latent(views.take(torch.from_numpy(rows).to(views.text.device))), rng)


@torch.no_grad()
def _reset_dead(network: ResidualPairNetwork, views: Views, used: Tensor, rng: np.random.Generator) -> int:
    """Move codes that no item chose to the residual of a random item; return how many there were."""
    dead = int((~used).sum())
    if dead:
        rows = rng.integers(len(views.text), size=int((~used).sum(dim=1).max()))
        taken = views.take(torch.from_numpy(rows).to(views.text.device))
        network.quantizer.reset(~used, network.latent(taken))
    return dead
