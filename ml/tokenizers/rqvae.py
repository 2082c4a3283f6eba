"""RQ-VAE: an autoencoder whose latent vector is a sum of code vectors, one a level.

Zeghidour et al., "SoundStream" (2021) for residual quantisation; Rajput et al., "Recommender Systems with Generative
Retrieval" (TIGER, NeurIPS 2023), section 3.1, for its use on items. Rotation trick, moving averages, LETTER, LC-Rec,
MTGRec, UTGRec and residual quantisation without an encoder are switches of the same training.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from ml.artifacts import ArtifactError
from ml.tokenizers.base import CodebookParams, CodebookTokenizer, TokenizerParams, pack, unpack
from ml.tokenizers.items import ItemData
from ml.tokenizers.networks import Autoencoder, in_blocks
from ml.tokenizers.rqvae_training import Training
from ml.tokenizers.sinkhorn import reassign

_ENCODE_ROWS = 8192
# Re-assignment of colliding items when training itself was not balanced.
_EPSILON = 0.003
_MOVED = "moved."


class RQVAEParams(CodebookParams):
    """Parameters of `RQVAE`.

    Parameters
    ----------
    hidden
        Widths of the encoder's hidden layers; the decoder mirrors them.
    latent
        Width of a code vector; None for no encoder: the scaled vectors themselves are quantised (residual VQ).
    epochs
        Passes over the items with quantisation.
    warm_up
        Passes without it, before the k-means start.
    batch, lr, weight_decay
        AdamW; code books are not decayed.
    schedule
        Whether the learning rate falls to 0 along a cosine or stays.
    beta
        Weight of the commitment loss.
    gradient
        How the reconstruction's gradient passes the quantisation: unchanged, or turned (Fifty et al., arXiv:2410.06424).
    books
        Whether code vectors learn by gradient or are moving averages of their items (van den Oord et al.,
        arXiv:1711.00937, appendix A.1).
    decay
        Of the moving averages, a batch.
    kmeans_start
        Whether k-means puts the code books in place before quantisation begins.
    reset_dead
        Whether codes that no item chose during an epoch are moved to where items are.
    sinkhorn
        Where positive, training spreads each batch evenly over the last level's codes, with this entropy (LC-Rec,
        arXiv:2311.09049).
    reassign
        Whether items that share all codes at the end of fitting are given other last codes (LC-Rec).
    alignment
        Weight of the contrastive loss against behaviour vectors (LETTER, arXiv:2405.07314).
    diversity, clusters
        Weight of the loss that keeps code vectors apart, and into how many clusters each level is grouped (LETTER).
    cooccurrence, cooccurrence_reconstruction
        Weights of the losses between items that follow each other in histories (UTGRec, arXiv:2504.04405).
    temperature
        Of the contrastive losses between items.
    checkpoints
        How many of the last epochs' states are kept, each of which gives items another identifier (MTGRec,
        arXiv:2504.04400).
    """

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256,)
    latent: Annotated[int, Field(ge=1)] | None = 64
    epochs: Annotated[int, Field(ge=1)] = 300
    warm_up: Annotated[int, Field(ge=0)] = 10
    batch: Annotated[int, Field(ge=1)] = 256
    lr: Annotated[float, Field(gt=0)] = 5e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    beta: Annotated[float, Field(ge=0)] = 0.25
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    books: Literal["gradient", "ema"] = "gradient"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    kmeans_start: bool = True
    reset_dead: bool = True
    sinkhorn: Annotated[float, Field(ge=0)] = 0.0
    reassign: bool = False
    alignment: Annotated[float, Field(ge=0)] = 0.0
    diversity: Annotated[float, Field(ge=0)] = 0.0
    clusters: Annotated[int, Field(ge=1)] = 10
    cooccurrence: Annotated[float, Field(ge=0)] = 0.0
    cooccurrence_reconstruction: Annotated[float, Field(ge=0)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 0.1
    checkpoints: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.diversity > 0 and self.books == "ema":
            raise ValueError("the diversity loss needs books that learn by gradient")
        if self.checkpoints > self.epochs:
            raise ValueError("there are fewer epochs than checkpoints to keep")
        return self


class RQVAE(CodebookTokenizer):
    """Tokenizer with learned code books in the latent space of an autoencoder."""

    kind: ClassVar[str] = "rqvae"
    Params: ClassVar[type[TokenizerParams]] = RQVAEParams

    def __init__(self, params: RQVAEParams) -> None:
        super().__init__(params)
        # Oldest checkpoint first; the last one gives the codes.
        self._networks: list[Autoencoder] = []
        # Items that were re-assigned, with their nearest and their given codes.
        self._moved: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    @property
    def identifiers(self) -> int:
        """Identifiers that every item has; see `MultiIdentifier`."""
        return int(self.params.checkpoints)

    def encode_all(self, items: ItemData) -> NDArray[np.int32]:
        """Return the codes by each checkpoint, int32 [identifiers, n, levels]; see `MultiIdentifier`."""
        last = self.encode(items)
        scaled = self._scaled(items)
        earlier = [_codes(network, scaled) for network in self._networks[:-1]]
        return np.stack([*earlier, last])

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Train; see `Training.run` for the report, to which ``reassigned`` items are added."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = self._network(scaled.shape[1])
            if start is not None:
                _copy(start._trained()[-1], network)
            data = torch.from_numpy(scaled).to(device)
            rng = np.random.default_rng(seed)
            training = Training(network.to(device), data, items, self.params, rng, start is not None)
        trained = training.run()
        self._networks = trained.networks
        self._moved = self._reassign(scaled, items) if self.params.reassign else {}
        return {**trained.report, "reassigned": len(self._moved)}

    @torch.inference_mode()
    def _reassign(
        self, scaled: NDArray[np.float32], items: ItemData
    ) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        network = self._networks[-1]
        nearest = _codes(network, scaled)
        rest = [
            network.quantizer(network.encoder(block)).residuals[-1]
            for block in torch.from_numpy(scaled).split(_ENCODE_ROWS)
        ]
        book = network.quantizer.books[-1].numpy()
        given = reassign(nearest, torch.cat(rest).numpy(), book, self.params.sinkhorn or _EPSILON)
        return {
            item: (tuple(before), tuple(after))
            for item, before, after in zip(items.item_ids, nearest.tolist(), given.tolist(), strict=True)
            if before != after
        }

    def _encode(self, scaled: NDArray[np.float32], items: ItemData) -> NDArray[np.int32]:
        """Return codes; an item that fitting re-assigned has what it was given as long as its nearest codes stand."""
        codes = _codes(self._trained()[-1], scaled)
        for row, item in enumerate(items.item_ids) if self._moved else ():
            if item in self._moved and self._moved[item][0] == tuple(codes[row].tolist()):
                codes[row] = self._moved[item][1]
        return codes

    @torch.inference_mode()
    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return what the decoder makes of the sum of code vectors."""
        decoded: NDArray[np.float32] = (
            self._trained()[-1].decode(torch.from_numpy(codes.astype(np.int64))).numpy()
        )
        return decoded

    def _tensors(self) -> dict[str, NDArray[Any]]:
        tensors = {
            f"network{place}.{name}": value.numpy()
            for place, network in enumerate(self._trained())
            for name, value in network.state_dict().items()
        }
        if self._moved:
            moved = {**pack(self._moved), "codes": np.array(list(self._moved.values()), np.int32)}
            tensors |= {f"{_MOVED}{name}": value for name, value in moved.items()}
        return tensors

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._networks = []
        for place in range(self.params.checkpoints):
            prefix = f"network{place}."
            network = self._network(len(self._fitted().mean))
            if place < self.params.checkpoints - 1:
                network.drop_decoder()
            network.load_state_dict(
                {
                    name.removeprefix(prefix): torch.from_numpy(value)
                    for name, value in tensors.items()
                    if name.startswith(prefix)
                }
            )
            self._networks.append(network.eval())
        moved = {
            name.removeprefix(_MOVED): value for name, value in tensors.items() if name.startswith(_MOVED)
        }
        if moved:
            pairs = [(tuple(nearest), tuple(given)) for nearest, given in moved["codes"].tolist()]
            self._moved = dict(zip(unpack(moved), pairs, strict=True))

    def _network(self, width: int) -> Autoencoder:
        params = self.params
        decay = params.decay if params.books == "ema" else None
        return Autoencoder(width, params.hidden, params.latent, params.levels, params.code_size, decay)

    def _trained(self) -> list[Autoencoder]:
        if not self._networks:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._networks


def _codes(network: Autoencoder, scaled: NDArray[np.float32]) -> NDArray[np.int32]:
    data = torch.from_numpy(scaled)
    return in_blocks(len(data), len(network.quantizer.books), lambda rows: network.codes(data[rows]))


def _copy(source: Autoencoder, target: Autoencoder) -> None:
    """Copy all weights and books.

    Raises
    ------
    ArtifactError
        If the networks are of different shapes.
    """
    ours: dict[str, Tensor] = target.state_dict()
    theirs = source.state_dict()
    if {name: value.shape for name, value in ours.items()} != {
        name: value.shape for name, value in theirs.items()
    }:
        raise ArtifactError(
            "rqvae: the tokenizer to begin from has other layers; give it the same hidden and latent"
        )
    target.load_state_dict(theirs)
