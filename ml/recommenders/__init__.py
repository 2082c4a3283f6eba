"""Recommenders by kind. A module is imported when its kind is first asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import ArtifactError, read_json

if TYPE_CHECKING:
    from ml.recommenders.base import Recommender
    from ml.snapshot import Catalogue

_KINDS = {
    "popularity": ("ml.recommenders.heuristics.popularity", "Popularity"),
    "transitions": ("ml.recommenders.heuristics.transitions", "Transitions"),
    "item_knn": ("ml.recommenders.heuristics.item_knn", "ItemKNN"),
    "text_similarity": ("ml.recommenders.heuristics.text_similarity", "TextSimilarity"),
    "blend": ("ml.recommenders.blend", "Blend"),
    "sequential": ("ml.recommenders.sequential.model", "Sequential"),
    "als": ("ml.recommenders.collaborative.als", "ALS"),
    "ease": ("ml.recommenders.collaborative.ease", "EASE"),
    "lightgcn": ("ml.recommenders.collaborative.lightgcn", "LightGCN"),
    "generative": ("ml.recommenders.generative.model", "Generative"),
    "language_model": ("ml.recommenders.generative.language_model", "LanguageModel"),
}


def kinds() -> list[str]:
    """Return the names of all kinds."""
    return sorted(_KINDS)


def recommender_class(kind: str) -> type[Recommender]:
    """Return the class of a kind.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind not in _KINDS:
        raise ValueError(f"unknown recommender kind {kind!r}; known: {', '.join(kinds())}")
    module, name = _KINDS[kind]
    found: type[Recommender] = getattr(importlib.import_module(module), name)
    return found


def build(recommender: dict[str, Any]) -> Recommender:
    """Make an untrained recommender from ``{"kind": ..., **parameters}``.

    Raises
    ------
    ValueError
        If the kind is unknown, or if its parameters are not valid.
    """
    params = dict(recommender)
    found = recommender_class(params.pop("kind", ""))
    return found(found.Params.model_validate(params))


def load_recommender(folder: Path, catalogue: Catalogue) -> Recommender:
    """Read a trained recommender of any kind.

    Raises
    ------
    ArtifactError
        If the folder holds none.
    """
    from ml.recommenders.base import CONFIG

    kind = read_json(folder / CONFIG).get("kind")
    if kind not in _KINDS:
        raise ArtifactError(f"{folder / CONFIG} names the unknown kind {kind!r}; known: {', '.join(kinds())}")
    return recommender_class(kind).load(folder, catalogue)
