"""What tokenizers of two spaces share: an item's text, and its behaviour where users have shown any."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.tokenizers.base import (
    CodebookParams,
    CodebookTokenizer,
    Scaler,
    TokenizerParams,
    check_vectors,
)
from ml.tokenizers.items import ItemData
from ml.tokenizers.networks import in_blocks

_SECOND_MEAN, _SECOND_SCALE = "behaviour.mean", "behaviour.scale"


class PairedParams(CodebookParams):
    """Parameters of a tokenizer that reads two spaces.

    Parameters
    ----------
    input
        The space that knows every item; items that it does not know take no part in fitting.
    behaviour
        The space that knows only items with history.
    hidden
        Widths of the hidden layers of encoders; decoders mirror them.
    latent
        Width of a code vector.
    epochs
        Passes over the items.
    batch, lr, weight_decay
        AdamW; code books are not decayed.
    """

    input: str = "text"
    behaviour: str = "behaviour"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256,)
    latent: Annotated[int, Field(ge=1)] = 64
    epochs: Annotated[int, Field(ge=1)] = 60
    batch: Annotated[int, Field(ge=2)] = 512
    lr: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class Views(NamedTuple):
    """Items in two spaces.

    Parameters
    ----------
    text
        float32 [n, w1], scaled.
    behaviour
        float32 [n, w2], scaled; zeros where unknown.
    known
        bool [n]: which items behaviour knows.
    """

    text: Tensor
    behaviour: Tensor
    known: Tensor

    def take(self, rows: Tensor | slice) -> Views:
        """Return the given rows."""
        return Views(self.text[rows], self.behaviour[rows], self.known[rows])

    def to(self, device: torch.device) -> Views:
        """Return the same on a device."""
        return Views(self.text.to(device), self.behaviour.to(device), self.known.to(device))


class PairedNetwork(nn.Module):
    """What a tokenizer of two spaces learns."""

    @abstractmethod
    def codes(self, views: Views) -> Tensor:
        """Return codes int64 [n, levels]."""

    @abstractmethod
    def code_vectors(self, codes: Tensor) -> Tensor:
        """Return what codes [n, levels] look up, [n, d]."""

    @abstractmethod
    def text_of(self, codes: Tensor) -> Tensor:
        """Return scaled vectors of the first space [n, w1] that codes [n, levels] stand for."""


class PairedTokenizer(CodebookTokenizer):
    """The half that tokenizers of two spaces share: scaling both, training, encoding, saving.

    A family gives its network and `_learn`. `decode` returns vectors of ``params.input``.
    """

    Params: ClassVar[type[TokenizerParams]] = PairedParams

    def __init__(self, params: PairedParams) -> None:
        super().__init__(params)
        self._second: Scaler | None = None
        self._network: PairedNetwork | None = None

    @abstractmethod
    def _build(self, widths: tuple[int, int]) -> PairedNetwork:
        """Make an untrained network for vectors of these widths."""

    @abstractmethod
    def _learn(
        self, network: PairedNetwork, views: Views, items: ItemData, rng: np.random.Generator, warm: bool
    ) -> dict[str, Any]:
        """Train the network on views of ``items``; ``warm`` where it has been trained before."""

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        """Train on both spaces; report ``rows_with_behaviour`` and what the family tells."""
        behaviour = check_vectors(self.kind, items.space(self.params.behaviour))
        known = items.known(self.params.behaviour)
        if not known.any():
            raise ArtifactError(f"{self.kind}: there are no items with {self.params.behaviour!r} vectors")
        self._second = start._second if start is not None else Scaler.of(behaviour[known])
        views = self._views(scaled, items)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = self._build((scaled.shape[1], behaviour.shape[1]))
        if start is not None:
            _continue(network, start._trained())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rng = np.random.default_rng(seed)
        report = self._learn(network.to(device), views.to(device), items, rng, warm=start is not None)
        self._network = network.cpu().eval()
        return {"rows_with_behaviour": int(known.sum()), **report}

    def _encode(self, scaled: NDArray[np.float32], items: ItemData) -> NDArray[np.int32]:
        """Return codes; items that behaviour does not know get theirs from the other space alone."""
        network, views = self._trained(), self._views(scaled, items)
        return in_blocks(len(items), self.params.levels, lambda rows: network.codes(views.take(rows)))

    @torch.inference_mode()
    def code_vectors(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors [n, d] that codes look up, of both spaces alike; `decode` turns them into the first space.

        Neighbours among them are what `ml.tokenizers.domination.semantic_domination` is to be asked of.
        """
        network = self._trained()
        found: NDArray[np.float32] = network.code_vectors(torch.from_numpy(codes.astype(np.int64))).numpy()
        return found

    def _views(self, scaled: NDArray[np.float32], items: ItemData) -> Views:
        """Return scaled vectors of the first space beside those of the second."""
        second = self._second
        assert second is not None
        behaviour = check_vectors(self.kind, items.space(self.params.behaviour), len(second.mean))
        known = items.known(self.params.behaviour)
        filled = np.where(known[:, None], second.apply(behaviour), np.float32(0))
        return Views(torch.from_numpy(scaled), torch.from_numpy(filled), torch.from_numpy(known))

    @torch.inference_mode()
    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        decoded: NDArray[np.float32] = (
            self._trained().text_of(torch.from_numpy(codes.astype(np.int64))).numpy()
        )
        return decoded

    def _tensors(self) -> dict[str, NDArray[Any]]:
        assert self._second is not None
        state = {f"network.{name}": value.numpy() for name, value in self._trained().state_dict().items()}
        return {_SECOND_MEAN: self._second.mean, _SECOND_SCALE: self._second.scale, **state}

    def _restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._second = Scaler(tensors.pop(_SECOND_MEAN), tensors.pop(_SECOND_SCALE))
        self._network = self._build((len(self._fitted().mean), len(self._second.mean)))
        state = {name.removeprefix("network."): torch.from_numpy(value) for name, value in tensors.items()}
        self._network.load_state_dict(state)
        self._network.eval()

    def _trained(self) -> PairedNetwork:
        if self._network is None:
            raise ArtifactError(f"{self.kind}: not fitted yet")
        return self._network


def _continue(network: PairedNetwork, start: PairedNetwork) -> None:
    """Take over what another network has learnt."""
    state = start.state_dict()
    shapes = [{name: value.shape for name, value in part.items()} for part in (network.state_dict(), state)]
    if shapes[0] != shapes[1]:
        raise ArtifactError("the tokenizer to begin from has other widths of layers or of behaviour vectors")
    network.load_state_dict(state)
