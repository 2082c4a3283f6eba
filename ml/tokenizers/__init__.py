"""Vectors to semantic IDs. A tokenizer's module is imported when its kind is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ml.artifacts import ArtifactError

if TYPE_CHECKING:
    from ml.tokenizers.base import Tokenizer

_KINDS = {
    "category_index": ("ml.tokenizers.indexing.category", "CategoryIndex"),
    "collaborative_index": ("ml.tokenizers.indexing.collaborative", "CollaborativeIndex"),
    "composite": ("ml.tokenizers.composite", "Composite"),
    "fsq": ("ml.tokenizers.fsq", "FSQ"),
    "prism": ("ml.tokenizers.prism", "PRISM"),
    "product_quantization": ("ml.tokenizers.product_quantization", "ProductQuantization"),
    "prorec": ("ml.tokenizers.prorec", "PRORec"),
    "random_index": ("ml.tokenizers.indexing.random", "RandomIndex"),
    "residual_kmeans": ("ml.tokenizers.residual_kmeans", "ResidualKMeans"),
    "rqvae": ("ml.tokenizers.rqvae", "RQVAE"),
    "sequential_index": ("ml.tokenizers.indexing.sequential", "SequentialIndex"),
    "setrec": ("ml.tokenizers.setrec", "SETRec"),
}


def kinds() -> list[str]:
    """Return the names of all kinds."""
    return sorted(_KINDS)


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """Return the class of a kind.

    Raises
    ------
    ArtifactError
        If there is no such kind.
    """
    if kind not in _KINDS:
        raise ArtifactError(f"unknown tokenizer kind {kind!r}; known: {', '.join(kinds())}")
    module, name = _KINDS[kind]
    found: type[Tokenizer] = getattr(importlib.import_module(module), name)
    return found


def build(kind: str, params: dict[str, Any]) -> Tokenizer:
    """Make an unfitted tokenizer.

    Raises
    ------
    ArtifactError
        If the kind is unknown, or if its parameters are not valid.
    """
    found = tokenizer_class(kind)
    try:
        return found(found.Params.model_validate(params))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        told = first["msg"].removeprefix("Value error, ")
        # What no single parameter is to blame for has no place.
        raise ArtifactError(f"tokenizer {kind}: {f'parameter {where!r}: ' if where else ''}{told}") from None
