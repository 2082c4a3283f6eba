"""Parts of the marts, and which of them have passed already.

A dated mart is a folder of parts, each a period of days, and the manifest of the marts names the content of each. A part
that has passed a suite passes it again until one of them changes, so that a night checks what the night has changed. No key
is lost by that: the keys of dated marts hold the date that says which part a row is in, so two rows with one key are
in one part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    """Return the parts of a mart by name, in order, one of them named ``all`` where it is a single file.

    Empty where there is no such mart.
    """
    paths = {path.stem: (path, f"{name}/{path.stem}") for path in sorted((marts / name).glob("*.parquet"))}
    single = marts / f"{name}.parquet"
    if not paths and single.is_file():
        paths = {"all": (single, name)}
    try:
        known = read_json(marts / MANIFEST)["inputs"]
    except (ArtifactError, KeyError):
        known = {}
    return {part: Part(path, known.get(key) or hash_file(path)) for part, (path, key) in paths.items()}


@dataclass(frozen=True)
class Passed:
    """What a suite remembers of a mart.

    Parameters
    ----------
    path
        Where it is kept.
    version
        Hash of the suite's rules.
    parts
        Part to the content that has passed.
    failing
        Verdicts that failed since the last one that passed.
    """

    path: Path
    version: str
    parts: dict[str, str]
    failing: tuple[str, ...]

    def changed(self, parts: Mapping[str, Part]) -> dict[str, Part]:
        """Return the parts that have not passed as they are."""
        return {name: part for name, part in parts.items() if self.parts.get(name) != part.content}

    def remember(self, parts: Mapping[str, Part], checked: Collection[str], batch: str, passed: bool) -> None:
        """Record a verdict.

        Parameters
        ----------
        parts
            All parts that there are.
        checked
            Those that the verdict is about; where it failed, each is checked again, mended or not.
        batch
            Name of the verdict.
        passed
            Whether it found no error.
        """
        good = {name: part.content for name, part in parts.items() if passed or name not in checked}
        failing = [] if passed else sorted({*self.failing, batch})
        write_json(self.path, {"version": self.version, "parts": good, "failing": failing})


def read_passed(path: Path, version: str) -> Passed:
    """Return what is remembered; nothing where the rules have changed since."""
    try:
        record = read_json(path)
    except ArtifactError:
        record = {}
    parts = record.get("parts", {}) if record.get("version") == version else {}
    return Passed(path, version, parts, tuple(record.get("failing", ())))


def batch_of(names: list[str]) -> str:
    """Return a name for parts or days that are checked together."""
    first, last = min(names), max(names)
    return first if first == last else f"{first}_{last}"
