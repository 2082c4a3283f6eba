"""How RQ-VAE is trained: one loop for all of its variants.

The paper's settings collapse on text vectors of unit length. What keeps all codes alive here: scaled inputs, a short
training without quantisation followed by a k-means start, and the re-use of codes that nobody chose during an epoch.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ml.tokenizers.auxiliary import Auxiliary, Step, auxiliaries
from ml.tokenizers.items import ItemData
from ml.tokenizers.networks import Autoencoder
from ml.tokenizers.quantizers import Quantised, rotation, straight_through

if TYPE_CHECKING:
    from ml.tokenizers.rqvae import RQVAEParams

_GRADIENTS = {"straight_through": straight_through, "rotation": rotation}
_ROWS = 8192
# Of the learning rate, where the weights are another tokenizer's: enough to follow the items, too little to leave the codes.
_WARM_RATE = 0.1


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Parameters
    ----------
    networks
        State after the last epochs, oldest first, ``params.checkpoints`` of them; only the last has its decoder.
    report
        JSON-able.
    """

    networks: list[Autoencoder]
    report: dict[str, Any]


class Training:
    """One training of an autoencoder on scaled vectors.

    Parameters
    ----------
    network
        On the device of ``data``; trained in place.
    data
        float32 [n, width].
    items
        The same items, for auxiliary losses.
    params
        Of the tokenizer.
    rng
        Of every random choice beside initial weights.
    warm
        Whether the network comes from an earlier training: neither warm-up nor k-means start then, and smaller steps.
    """

    def __init__(
        self,
        network: Autoencoder,
        data: Tensor,
        items: ItemData,
        params: RQVAEParams,
        rng: np.random.Generator,
        warm: bool,
    ) -> None:
        self.network, self.data, self.params, self.rng, self.warm = network, data, params, rng, warm
        self.gradient = _GRADIENTS[params.gradient]
        self.auxiliaries: list[Auxiliary] = auxiliaries(params, items, data, network, self.passes)
        # Without an encoder there is nothing to train before quantisation.
        self.warm_up = 0 if warm or params.latent is None else params.warm_up
        heads = [weight for auxiliary in self.auxiliaries for weight in auxiliary.parameters()]
        weights = [*network.encoder.parameters(), *network.decoder.parameters(), *heads]
        groups = [
            {"params": weights, "weight_decay": params.weight_decay},
            {"params": [network.quantizer.books], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=params.lr, fused=True
        )

    def run(self) -> Trained:
        """Train.

        Returns
        -------
        Trained
            Its report: ``residual``, share of the input's variance that reconstruction misses at the end; ``reset``, codes that
            were given a new place, in all; ``losses``, means of the last epoch by name.
        """
        params = self.params
        for _ in range(self.warm_up):
            self._set_rate(0.0)
            for rows in self._batches():
                batch = self.data[rows]
                decoded = self.network.decoder(self.network.encoder(batch))
                self._descend(nn.functional.mse_loss(decoded, batch))
        self._start()
        reset, kept = 0, []
        losses: dict[str, float] = {}
        for epoch in range(params.epochs):
            self._set_rate(epoch / params.epochs)
            used, losses = self._epoch()
            # The last epochs reset nothing: a code that is put in place then would hardly be trained.
            if params.reset_dead and epoch < params.epochs - max(1, params.epochs // 10):
                reset += self._reset(~used)
            if epoch >= params.epochs - params.checkpoints:
                kept.append(copy.deepcopy(self.network).cpu().eval())
                if epoch < params.epochs - 1:
                    kept[-1].drop_decoder()
        return Trained(kept, {"residual": self._residual(), "reset": reset, "losses": losses})

    def passes(self, rows: Tensor) -> Tensor:
        """Quantise items, gradients passing; see `auxiliary.Passes`."""
        latent = self.network.encoder(self.data[rows])
        return self.gradient(latent, self.network.quantizer(latent).chosen.sum(dim=0))

    def _epoch(self) -> tuple[Tensor, dict[str, float]]:
        """Return which codes were chosen, bool [levels, code_size], and mean losses."""
        used = torch.zeros(self.network.quantizer.books.shape[:2], dtype=torch.bool, device=self.data.device)
        levels = torch.arange(len(used), device=used.device)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=used.device))
        for auxiliary in self.auxiliaries:
            auxiliary.begin_epoch(self.rng)
        for rows in self._batches():
            quantised, losses = self._losses(rows)
            self._descend(sum(losses.values(), torch.zeros((), device=used.device)))
            self.network.quantizer.update(quantised)
            used[levels, quantised.codes] = True
            for name, loss in losses.items():
                sums[name] += loss.detach() * (len(rows) / len(self.data))
        return used, {name: float(value) for name, value in sums.items()}

    def _losses(self, rows: Tensor) -> tuple[Quantised, dict[str, Tensor]]:
        params, batch = self.params, self.data[rows]
        latent = self.network.encoder(batch)
        quantised = self.network.quantizer(latent, params.sinkhorn)
        passed = self.gradient(latent, quantised.chosen.sum(dim=0))
        commitment = nn.functional.mse_loss(quantised.residuals, quantised.chosen.detach())
        losses = {
            "reconstruction": nn.functional.mse_loss(self.network.decoder(passed), batch),
            "commitment": params.levels * params.beta * commitment,
        }
        if params.books == "gradient":
            books = nn.functional.mse_loss(quantised.chosen, quantised.residuals.detach())
            losses["books"] = params.levels * books
        step = Step(rows, quantised, passed)
        return quantised, losses | {auxiliary.name: auxiliary.loss(step) for auxiliary in self.auxiliaries}

    def _descend(self, loss: Tensor) -> None:
        # Books by moving averages and no encoder: nothing learns by gradient.
        if loss.requires_grad:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def _batches(self) -> tuple[Tensor, ...]:
        order = torch.from_numpy(self.rng.permutation(len(self.data))).to(self.data.device)
        return order.split(self.params.batch)

    def _set_rate(self, progress: float) -> None:
        rate = self.params.lr * (_WARM_RATE if self.warm else 1.0)
        if self.params.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def _start(self) -> None:
        """Put code books in place."""
        quantizer = self.network.quantizer
        rows = np.sort(self.rng.permutation(len(self.data))[: 64 * self.params.code_size])
        latent = self._latent(rows)
        if self.params.kmeans_start and not self.warm:
            quantizer.start(latent, self.rng)
        quantizer.start_averages(latent, min(self.params.batch, len(self.data)))

    def _reset(self, dead: Tensor) -> int:
        """Move dead codes, bool [levels, code_size], to the residuals of random items; return how many there were."""
        count = int(dead.sum())
        if count:
            rows = self.rng.integers(len(self.data), size=int(dead.sum(dim=1).max()))
            self.network.quantizer.reset(dead, self._latent(rows))
        return count

    @torch.no_grad()
    def _latent(self, rows: np.ndarray[Any, Any]) -> Tensor:
        latent: Tensor = self.network.encoder(self.data[torch.from_numpy(rows).to(self.data.device)])
        return latent

    @torch.no_grad()
    def _residual(self) -> float:
        missed = 0.0
        for block in self.data.split(_ROWS):
            decoded = self.network.decode(self.network.codes(block))
            missed += float((decoded - block).square().sum(dtype=torch.float64))
        return missed / max(float(self.data.square().sum(dtype=torch.float64)), 1e-12)
