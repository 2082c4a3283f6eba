"""Jobs run one after the other over a home, each in a process of its own, and what each night published kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.data import run
from ml.artifacts import current, publish, read_json, write_json
from orchestration.ingest.files import find_files
from orchestration.ingest.spec import SourceSpec

KEPT = "kept.json"
ASKED = "asked.json"


@dataclass(frozen=True)
class Landing:
    """A folder of landing files into which the days come one by one, as they came when the log was written.

    Parameters
    ----------
    spec
        The source.
    logs
        Folder of all its files. Where one file holds many days it is read where it is, and the partitions alone keep
        the future out; a catalogue without days is known whole from the first night on.
    folder
        Where files are linked to.
    """

    spec: SourceSpec
    logs: Path
    folder: Path

    @property
    def path(self) -> Path:
        """The folder that a home reads."""
        return self.folder if self.spec.events.daily else self.logs

    def reveal(self, upto: date) -> None:
        """Let the files of all days up to and with ``upto`` land."""
        if not self.spec.events.daily:
            return
        patterns = [self.spec.events.path, *([self.spec.items.path] if self.spec.items else [])]
        for file in (file for pattern in patterns for file in find_files(pattern, self.logs)):
            target = self.folder / file.name
            if (file.day is None or file.day <= upto) and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, target)


def claim(work: Path, asked: Mapping[str, Any]) -> None:
    """Note in a work folder what is asked, or see that it is what the nights in it were lived for.

    Parameters
    ----------
    work
        Where homes and kept nights go.
    asked
        All that decides what the nights come to, JSON-able.

    Raises
    ------
    SystemExit
        If it holds nights of another call: their models may have seen the days that are to be replayed.
    """
    note = work / ASKED
    if not any((work / name).exists() for name in (ASKED, "start", "kept")):
        write_json(note, asked)
        return
    stood = read_json(note) if note.is_file() else {}
    differs = sorted(name for name in {*stood, *asked} if stood.get(name) != asked.get(name))
    if differs:
        raise SystemExit(
            f"error: {work} holds nights of another replay, whose {', '.join(differs)} differed: "
            "remove that folder, or name another by --folder"
        )


def do(home: Path, landing: Landing, job: str, first: date, last: date) -> dict[str, Any]:
    """Run a job for a range of days; return seconds by stage and peak memory.

    Raises
    ------
    SystemExit
        If it fails.
    """
    landing.reveal(last)
    os.environ["TESSERA_SOURCE"] = landing.spec.name
    return run(home, landing.path, first, last, job)


def keep(home: Path, folder: Path, told: Mapping[str, Any]) -> None:
    """Copy what a night published: every user's list, what is popular, every item's semantic ID."""
    with publish(folder) as staging:
        published = read_json(home / "champion.json")
        shutil.copyfile(
            home / published["recommendations"] / "recommendations.parquet",
            staging / "recommendations.parquet",
        )
        shutil.copyfile(current(home / "semantic_ids") / "items.parquet", staging / "items.parquet")
        write_json(staging / "champion.json", published)
        write_json(staging / KEPT, dict(told))


def has_kept(folder: Path) -> bool:
    """Tell whether a night was kept."""
    return (folder / KEPT).is_file()


def begin(base: Path, home: Path) -> None:
    """Make ``home`` a copy of ``base``, unless it is there."""
    if not home.exists():
        with publish(home) as staging:
            shutil.copytree(base, staging, dirs_exist_ok=True)
