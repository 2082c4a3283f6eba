"""Homes in which somebody is champion and nights have published, made of files that say nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml.artifacts import Manifest, read_json, write_manifest, write_text
from ml.bindings import bind
from orchestration import publications
from orchestration.models import read_decision, write_decision
from orchestration.publications import make_live
from orchestration.settings import Settings


def part(settings: Settings, path: str, content: str | None = None) -> str:
    if not (settings.home / path).exists():
        write_text(settings.home / path / "content.json", content or path)
        write_manifest(settings.home / path, Manifest(kind="part", version=Path(path).name))
    return path


def choose(settings: Settings, recipe: str, version: str | None = None) -> dict[str, Any]:
    parts = {
        "recommender": part(settings, f"models/{recipe}/h/full"),
        "catalogue": part(settings, "snapshots/s"),
        "tokenizer": part(settings, "tokenizers/t"),
    }
    decision = {
        "recipe": recipe,
        "model": parts["recommender"],
        "snapshot": parts["catalogue"],
        "registry_version": version,
        "parts": parts,
        "bound": bind({name: settings.home / path for name, path in parts.items()}),
    }
    write_decision(settings, decision)
    return decision


def night(settings: Settings, number: int, **more: Any) -> publications.Publication:
    """Build and publish for whoever is champion, as the nightly job does."""
    decision = read_decision(settings)
    served = {
        "index": part(settings, f"index/{decision['recipe']}{number}"),
        "trie": part(settings, f"tries/{decision['recipe']}"),
        "recommendations": part(settings, f"recommendations/{number}"),
    }
    champion = {key: decision[key] for key in ("recipe", "model", "snapshot")}
    return make_live(settings, champion | served | {"heuristic": None, "popular": ["i"]} | more)


def told(settings: Settings) -> dict[str, Any]:
    content: dict[str, Any] = read_json(settings.home / "champion.json")
    return content
