"""Readers of a home, who read on and on while others write, and tell of anything that no reader should see.

``python watchers.py HOME FOUND USER...`` appends a line to FOUND for each fault, and one, ``rounds N``, after each round.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from ml.artifacts import (
    CURRENT,
    MANIFEST,
    consistently,
    current,
    hash_file,
    read_json,
    read_manifest,
)

NOW = datetime(2025, 3, 9, tzinfo=UTC)


def read_marts(marts: Path) -> dict[str, str]:
    """Return the content hash of every part, all of one publication; each is readable and the one in the manifest."""

    def read() -> dict[str, str]:
        manifest = read_manifest(marts)
        files = {p.relative_to(marts).with_suffix("").as_posix(): p for p in marts.rglob("*.parquet")}
        hashes = {name: hash_file(path) for name, path in files.items()}
        rows: dict[str, int] = {}
        for name in {name.partition("/")[0] for name in files}:
            path = marts / name
            rows[name] = pq.read_table(path if path.is_dir() else path.with_suffix(".parquet")).num_rows
        assert hashes == manifest.inputs, "marts and their manifest differ"
        assert rows == manifest.metrics["rows"], "marts lack rows"
        return hashes

    return consistently(marts, read)


def read_days(lake: Path) -> dict[str, str]:
    """Return the content hash of every lake day; each is whole."""
    days = {}
    for folder in sorted((lake / "events").glob("day=*")):

        def read(folder: Path = folder) -> str:
            content = hash_file(folder / "events.parquet")
            assert content == read_json(folder / MANIFEST)["content_hash"], (
                f"{folder.name} is not its manifest's"
            )
            return content

        days[folder.name] = consistently(folder, read)
    return days


def read_versions(home: Path) -> dict[str, str]:
    """Return the live version of every folder of versions; each is complete."""
    pointers = [*home.glob(f"*/{CURRENT}"), *home.glob(f"vectors/*/{CURRENT}")]
    return {
        str(pointer.parent.relative_to(home)): read_manifest(current(pointer.parent)).version
        for pointer in pointers
    }


class OnlineReader:
    """Reads users' features; whoever was there once must stay."""

    def __init__(self, home: Path, users: Sequence[str]) -> None:
        self._home, self._users = home, users
        self._seen: set[str] = set()
        self._applied = False

    def read(self) -> int:
        """Open the store anew, read every user, and return how many were there."""
        from serving.feature_store import FeatureStoreError
        from serving.features import FeatureLookup

        try:
            lookup = FeatureLookup(self._home, clock=lambda: NOW)
        except (FeatureStoreError, FileNotFoundError):
            if self._applied:
                raise
            return 0
        self._applied = True
        for user in self._users:
            features = lookup.user(user)
            history = features.history
            if history is None:
                assert user not in self._seen, f"{user} vanished: {dict(features.absent)}"
                continue
            assert len(history.items) == len(history.types) == len(history.times) <= history.length
            self._seen.add(user)
        return len(self._seen)


def watch(home: Path, found: Path, users: Sequence[str]) -> None:
    """Read until killed."""
    online = OnlineReader(home, users)
    checks: tuple[Callable[[], object], ...] = (
        lambda: read_marts(home / "marts") if (home / "marts").is_dir() else None,
        lambda: read_days(home / "lake"),
        lambda: read_versions(home),
        online.read,
    )
    handle = os.open(found, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    rounds = 0
    while True:
        for check in checks:
            try:
                check()
            except Exception:
                os.write(handle, f"fault {traceback.format_exc()!r}\n".encode())
        rounds += 1
        os.write(handle, f"rounds {rounds}\n".encode())
        time.sleep(0.05)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
