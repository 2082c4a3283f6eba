"""Homes to measure the service on: a finished home's copy, with publications of any recipe beside each other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml.artifacts import current, read_json, set_current, write_json
from orchestration.settings import Settings

_LEFT_OUT = ("dagster", "mlflow", "quality", "quarantine", "warehouse.duckdb", ".lock")


def copy_home(source: Path, target: Path) -> Settings:
    """Copy a finished home, without what serving has no use for; what was copied before is kept.

    Raises
    ------
    FileNotFoundError
        If there is no finished home.
    """
    if not (source / "champion.json").is_file():
        raise FileNotFoundError(
            f"{source} has published nothing: run `make demo` first, or name another --home"
        )
    if not (target / "champion.json").is_file():
        beside = target.with_name(f".{target.name}")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source, beside, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
        beside.rename(target)
    remembered = {
        name: value
        for name, value in read_json(target / "settings.json").items()
        if name in ("source", "clock")
    }
    # None is to be removed for the sake of the next.
    return Settings(home=target, keep_publications=100, **remembered)


def publication(settings: Settings, recipe: str) -> dict[str, Any]:
    """Make a recipe the champion of a home, and return what is published then: the content of ``champion.json``.

    What is trained already is taken as it is; index, trie and lists are built as a night builds them.
    """
    from ml.train import train
    from orchestration.index import publish_champion

    snapshot = current(settings.snapshots)
    folder = train(snapshot, recipe, settings.models, settings.seed, ("full",), threads=1)
    decision = {
        "recipe": recipe,
        "model": _below(settings, folder / "full"),
        "snapshot": _below(settings, snapshot),
    }
    write_json(settings.evaluation / "champion.json", decision)
    publish_champion(settings)
    published: dict[str, Any] = read_json(settings.home / "champion.json")
    return published


@contextmanager
def another_tokenizer(settings: Settings) -> Iterator[Settings]:
    """Fit another tokenizer to the same items, give them its semantic IDs, and cut a snapshot with these.

    They are live until the block ends; then those before them are again.
    """
    from ml.snapshot import write_snapshot
    from orchestration.semantic_ids import assign, fit

    other = settings.model_copy(update={"seed": settings.seed + 1, "warm_start": False})
    folders = (other.tokenizers, other.semantic_ids, other.snapshots)
    before = [current(folder).name for folder in folders]
    fit(other)
    vectors, text = (current(other.vectors / name) for name in ("fused", "text"))
    folder = write_snapshot(other.marts, assign(other).folder, vectors, other.snapshots, text)
    set_current(other.snapshots, folder.name)
    try:
        yield other
    finally:
        for folder, name in zip(folders, before, strict=True):
            set_current(folder, name)


def _below(settings: Settings, path: Path) -> str:
    return str(path.relative_to(settings.home))
