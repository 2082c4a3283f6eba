"""Parts of the marts, and which of them have passed already.

A mart is a folder of parts, each a period of days, and the manifest of the marts names the content of each. A part that
has passed a suite passes it again until one of them changes, so that a night checks what the night has changed. No key
is lost by that: the keys of dated marts hold the date that says which part a row is in, so two rows with one key are
in one part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml.artifacts import MANIFEST, ArtifactError, hash_file, read_json, write_json


@dataclass(frozen=True)
class Part:
    """A file of a mart.

    Parameters
    ----------
    path
        Where it is.
    content
        Hash of what it holds.
    """

    path: Path
    content: str


def mart_parts(marts: Path, name: str) -> dict[str, Part]:
    """Return the parts of a mart by name, in order; empty where there is no such mart."""
    paths = {path.stem: path for path in sorted((marts / name).glob("*.parquet"))}
    try:
        known = read_json(marts / MANIFEST)["inputs"]
    except (ArtifactError, KeyError):
        known = {}
    return {part: Part(path, known.get(f"{name}/{part}") or hash_file(path)) for part, path in paths.items()}


def to_check(kept: Path, suite: str, version: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return the parts that have not passed as they are.

    Parameters
    ----------
    kept
        Folder of what :func:`remember_passed` wrote.
    suite
        Name of the suite.
    version
        Hash of its rules and of everything else that they depend on.
    parts
        All parts that there are.
    """
    try:
        record = read_json(kept / f"{suite}.json")
    except ArtifactError:
        record = {}
    passed = record.get("parts", {}) if record.get("version") == version else {}
    return {name: part for name, part in parts.items() if passed.get(name) != part.content}


def remember_passed(kept: Path, suite: str, version: str, parts: Mapping[str, Part]) -> None:
    """Record that these parts, and no others, pass the suite."""
    passed = {name: part.content for name, part in parts.items()}
    write_json(kept / f"{suite}.json", {"version": version, "parts": passed})


def batch_of(names: list[str]) -> str:
    """Return a name for parts or days that are checked together."""
    first, last = min(names), max(names)
    return first if first == last else f"{first}_{last}"
