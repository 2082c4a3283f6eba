"""An item of a history as a set of token vectors, one of its behaviour and several of its text.

SETRec (Lin et al., SIGIR 2025, arXiv:2502.10833, section 3.1): tokens are vectors and not codes. The behaviour token is a
projection of a vector that others have trained; the text tokens are what an encoder makes of the text vector, and a
decoder must find that vector again in them (the first two terms of the paper's loss are trained together).
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import Facts, PartParams, Tokens


class SetTokensParams(PartParams):
    """Parameters of `SetTokens`.

    Parameters
    ----------
    behaviour
        Whether there is a token of the catalogue's fused vectors. (The paper's is of behaviour alone, which a catalogue
        does not hold.)
    semantic
        Tokens of the text.
    semantic_of
        What they are made of: the catalogue's ``text`` vectors, or the ``fused`` ones.
    hidden
        Width between a text vector and its tokens.
    reconstruction
        Weight of the loss of finding the text vector again.
    """

    kind: Literal["set"] = "set"
    behaviour: bool = True
    semantic: int = Field(default=4, ge=0)
    semantic_of: Literal["text", "fused"] = "text"
    hidden: int = Field(default=256, ge=1)
    reconstruction: float = Field(default=0.7, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.behaviour + self.semantic:
            raise ValueError("a set needs a token: of behaviour, or semantic")
        return self

    def per_item(self, levels: int) -> int:
        """Return the places of an item."""
        return self.behaviour + self.semantic

    def build(self, facts: Facts) -> Tokens:
        """Make the part.

        Raises
        ------
        ValueError
            If the catalogue has no vectors of the kind that is asked for.
        """
        return SetTokens(self, facts)


class SetTokens(nn.Module):
    """See the module, `SetTokensParams` and `ml.recommenders.generative.parts.Tokens`."""

    def __init__(self, params: SetTokensParams, facts: Facts) -> None:
        super().__init__()
        self.per_item, self.weight = facts.per_item, params.reconstruction
        fused = _scaled(facts.catalogue.vectors)
        text = fused if params.semantic_of == "fused" else _scaled(facts.catalogue.text)
        self.register_buffer("fused", fused, persistent=False)
        self.register_buffer("text", text, persistent=False)
        self.fused: Tensor
        self.text: Tensor
        self.of_behaviour = _linear(_width(fused, "fused"), facts.d, facts.d) if params.behaviour else None
        self.encoder: nn.Sequential | None = None
        if params.semantic:
            width, wide = _width(text, params.semantic_of), params.semantic * facts.d
            self.encoder = nn.Sequential(
                nn.Linear(width, params.hidden), nn.ReLU(), _linear(params.hidden, wide, facts.d)
            )
            self.decoder = nn.Sequential(
                nn.Linear(wide, params.hidden), nn.ReLU(), nn.Linear(params.hidden, width)
            )

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`."""
        return self._made(sequences.items)

    def of(self, table: CodeTable, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token vectors of items [m], the behaviour's first, float [m, per_item, d], and their loss."""
        vectors = self._made(items)
        if self.encoder is None or not self.weight:
            return vectors, vectors.new_zeros(())
        again = self.decoder(vectors[:, int(self.of_behaviour is not None) :].flatten(1))
        return vectors, self.weight * mse_loss(again, self.text[items])

    def _made(self, items: Tensor) -> Tensor:
        found = []
        if self.of_behaviour is not None:
            found.append(self.of_behaviour(self.fused[items])[..., None, :])
        if self.encoder is not None:
            places = self.per_item - len(found)
            found.append(self.encoder(self.text[items]).unflatten(-1, (places, -1)))
        return torch.cat(found, dim=-2)


def _scaled(vectors: object) -> Tensor:
    """Return rows whose entries are about 1; rows of zeros stay."""
    rows = torch.as_tensor(vectors, dtype=torch.float32)
    return normalize(rows, dim=1) * rows.shape[1] ** 0.5


def _width(vectors: Tensor, name: str) -> int:
    if not vectors.shape[1]:
        raise ValueError(f"tokens of the kind set need {name} vectors, and the catalogue has none")
    return vectors.shape[1]


def _linear(width: int, out: int, d: int) -> nn.Linear:
    """Return a map whose vectors of width ``d`` begin with a length of about 1, as those of codes do."""
    made = nn.Linear(width, out)
    nn.init.normal_(made.weight, std=(width * d) ** -0.5)
    nn.init.zeros_(made.bias)
    return made
