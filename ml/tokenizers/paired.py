"""What tokenizers of two spaces share: an item's text, and its behaviour where users have shown any."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
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
    check_rows,
    check_start,
    check_vectors,
)
from ml.tokenizers.items import ItemData

_ENCODE_ROWS = 8192
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

    def take(self, rows: Tensor) -> Views:
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

    def fit(self, items: ItemData, seed: int, start: Self | None = None) -> dict[str, Any]:
        """Learn from the items that ``params.input`` knows; see `Tokenizer.fit`."""
        text = check_vectors(self.kind, items.space(self.params.input))
        behaviour = check_vectors(self.kind, items.space(self.params.behaviour))
        rows = np.flatnonzero(items.known(self.params.input))
        check_rows(self.kind, len(rows), max(self.code_sizes))
        known = items.known(self.params.behaviour)[rows]
        if not known.any():
            raise ArtifactError(f"{self.kind}: there are no items with {self.params.behaviour!r} vectors")
        text, behaviour = text[rows], behaviour[rows]
        widths = (text.shape[1], behaviour.shape[1])
        if start is not None:
            check_start(self, start, widths[0])
        self._scaler = start._scaler if start is not None else Scaler.of(text)
        self._second = start._second if start is not None else Scaler.of(behaviour[known])
        views = self._views(items.take(rows))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = self._build(widths)
        if start is not None:
            _continue(network, start._trained())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rng = np.random.default_rng(seed)
        report = self._learn(
            network.to(device), views.to(device), items.take(rows), rng, warm=start is not None
        )
        self._network = network.cpu().eval()
        return {"rows": len(rows), "rows_with_behaviour": int(known.sum()), **report}

    @torch.inference_mode()
    def encode(self, items: ItemData) -> NDArray[np.int32]:
        """Return codes; items that behaviour does not know get theirs from the other space alone."""
        network, views = self._trained(), self._views(items)
        codes = [np.zeros((0, self.params.levels), np.int32)]
        for rows in torch.arange(len(items)).split(_ENCODE_ROWS):
            codes.append(network.codes(views.take(rows)).numpy().astype(np.int32))
        return np.concatenate(codes)

    @torch.inference_mode()
    def code_vectors(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors [n, d] that codes look up, of both spaces alike; `decode` turns them into the first space.

        Neighbours among them are what `ml.tokenizers.domination.semantic_domination` is to be asked of.
        """
        network = self._trained()
        found: NDArray[np.float32] = network.code_vectors(torch.from_numpy(codes.astype(np.int64))).numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write kind, parameters and tensors into an existing folder."""
        self._trained()
        super().save(folder)

    def _views(self, items: ItemData) -> Views:
        first, second = self._fitted(), self._second
        assert second is not None
        text = check_vectors(self.kind, items.space(self.params.input), len(first.mean))
        behaviour = check_vectors(self.kind, items.space(self.params.behaviour), len(second.mean))
        known = items.known(self.params.behaviour)
        scaled = np.where(known[:, None], second.apply(behaviour), np.float32(0))
        return Views(torch.from_numpy(first.apply(text)), torch.from_numpy(scaled), torch.from_numpy(known))

    @torch.inference_mode()
    def _decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        decoded: NDArray[np.float32] = (
            self._trained().text_of(torch.from_numpy(codes.astype(np.int64))).numpy()
        )
        return decoded

    def _fit(
        self, scaled: NDArray[np.float32], items: ItemData, seed: int, start: Self | None
    ) -> dict[str, Any]:
        raise NotImplementedError("two spaces are fitted by `fit`")

    def _encode(self, scaled: NDArray[np.float32]) -> NDArray[np.int32]:
        raise NotImplementedError("two spaces are encoded by `encode`")

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
