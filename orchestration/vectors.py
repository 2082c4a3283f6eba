"""Which encoder makes text vectors, and which vectors new ones must be comparable with, without Dagster."""

from __future__ import annotations

from pathlib import Path

from ml.artifacts import CURRENT, current, is_complete, read_manifest
from orchestration.settings import Settings


def encoder_in_use(settings: Settings) -> str:
    """Return the tuned encoder where one is wanted and there is one, else the one that the settings name."""
    if settings.tune_encoder and (settings.encoders / CURRENT).is_file():
        return str(current(settings.encoders))
    return settings.encoder


def anchors(settings: Settings) -> dict[str, Path]:
    """Return the vectors that the live tokenizer was fitted to, by name; empty where there is no tokenizer yet.

    Its code books read tomorrow's items, so tomorrow's vectors have to lie in the same space.
    """
    if not (settings.tokenizers / CURRENT).is_file():
        return {}
    fused = settings.vectors / "fused" / read_manifest(current(settings.tokenizers)).inputs.get("vectors", "")
    if not is_complete(fused):
        return {}
    versions = read_manifest(fused).recipe.get("versions", {})
    return {"fused": fused} | {name: settings.vectors / name / made for name, made in versions.items()}
