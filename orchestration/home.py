"""A home: the folder that holds everything of one source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from ml import artifacts
from ml.artifacts import read_json, write_json, write_text
from ml.files import alone
from orchestration.settings import REMEMBERED, SettingsError

POSTGRES_SWITCH = "TESSERA_DAGSTER_POSTGRES"
DAGSTER_YAML: dict[str, Any] = {
    "telemetry": {"enabled": False},
    "nux": {"enabled": False},
    # A killed run must not hold its pools for ever.
    "run_monitoring": {"enabled": True, "free_slots_after_run_end_seconds": 60},
    # One writer for the warehouse file, one for the Feast registry; see the pools of the assets.
    # Two runs at once could mix two nights: marts and the CURRENT versions are shared.
    "concurrency": {"pools": {"granularity": "op", "default_limit": 1}, "runs": {"max_concurrent_runs": 1}},
}
_PUBLISHED = (
    "lake",
    "lake/events",
    "quarantine",
    "quarantine/events",
    "encoders",
    "tokenizers",
    "semantic_ids",
    "snapshots",
    "index",
    "tries",
    "recommendations",
    "newcomers",
)


def remembered_source(home: Path) -> str | None:
    """Return the source whose data a home holds, or ``None`` for a new home."""
    path = home / REMEMBERED
    return str(read_json(path)["source"]) if path.is_file() else None


def remembered_data(home: Path, source: str) -> str | None:
    """Return where the last demo of ``source`` found its landing files, if that was outside the home."""
    for folder in (home, _aside(home, source)):
        if remembered_source(folder) == source:
            data = read_json(folder / REMEMBERED).get("data")
            return None if data is None else str(data)
    return None


def forget_other_days(home: Path, days: Sequence[date]) -> None:
    """Remove lake and quarantine days that are not among ``days``."""
    kept = {"undated", *(day.isoformat() for day in days)}
    for stage in ("lake", "quarantine"):
        for folder in (home / stage / "events").glob("day=*"):
            if folder.name.removeprefix("day=") not in kept:
                shutil.rmtree(folder)


def claim(home: Path, source: str) -> None:
    """Make ``home`` the home of ``source``.

    A home of another source is set aside as ``HOME.SOURCE`` and comes back when that source does; nothing is lost.
    Each step is one rename, so a kill in between is mended by the next call.
    """
    held = remembered_source(home)
    if held is not None and held != source:
        aside = _aside(home, held)
        if aside.exists():
            raise SettingsError(f"{home} holds {held!r}, and so does {aside}: move one of them away")
        home.rename(aside)
    if not home.exists() and _aside(home, source).exists():
        _aside(home, source).rename(home)


def prepare(home: Path, remember: dict[str, Any]) -> None:
    """Create the home, write Dagster's instance configuration, and remember what it is the home of."""
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    configuration = home / "dagster" / "dagster.yaml"
    text = yaml.safe_dump(DAGSTER_YAML | _storage())
    if not configuration.is_file() or configuration.read_text(encoding="utf-8") != text:
        write_text(configuration, text)
    write_json(home / REMEMBERED, remember)


def _storage() -> dict[str, Any]:
    """Return where Dagster keeps its runs, if not in SQLite files. The file names the variable, never what it holds."""
    if not os.environ.get(POSTGRES_SWITCH):
        return {}
    return {"storage": {"postgres": {"postgres_url": {"env": POSTGRES_SWITCH}}}}


def sweep(home: Path) -> None:
    """Remove what killed publications left behind; only while :func:`only_one` is held."""
    for parent in (
        home,
        *(home / name for name in _PUBLISHED),
        *(home / "vectors").glob("*"),
        *(home / "models").glob("*/*"),
    ):
        artifacts.sweep(parent)


def only_one(home: Path) -> AbstractContextManager[None]:
    """Hold the home for this process.

    Raises
    ------
    SettingsError
        If another process holds it.
    """
    busy = SettingsError(f"another demo or UI is at work on {home}")
    return alone(home.parent / f"{home.name}.lock", busy)


def _aside(home: Path, source: str) -> Path:
    return home.with_name(f"{home.name}.{Path(source).stem}")
