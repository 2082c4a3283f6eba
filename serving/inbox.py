"""Posted events, on disk before anybody is told that they were taken: files that the next night reads.

A file holds the events of one day of arrival (UTC), in JSON lines. Each event is in it once, by its id, however many
processes write and however often a client tries again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


class LandingForm(BaseModel):
    """Where posted events land, and in which form, so that ingestion reads them like any other file of the source.

    Parameters
    ----------
    path
        Below the home unless absolute; ``{day}`` stands for the day of arrival (UTC).
    columns
        Canonical field to key of the line; a field that is not named is left out. Empty keeps the canonical names.
    event_types
        Canonical event type to that of the source; others stay as they are.
    time_unit
        How times are written.
    """

    model_config = ConfigDict(frozen=True)

    path: str = "landing/posted/{day}.jsonl"
    columns: dict[str, str] = {}
    event_types: dict[str, str] = {}
    time_unit: Literal["s", "ms", "us", "iso"] = "iso"

    def line(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event as the source would log it; fields without a value are left out."""
        told = {name: value for name, value in event.items() if value is not None}
        told["event_type"] = self.event_types.get(told["event_type"], told["event_type"])
        time: datetime = told["event_ts"]
        scale = _PER_SECOND.get(self.time_unit)
        told["event_ts"] = (
            time.isoformat(timespec="microseconds") if scale is None else int(time.timestamp() * scale)
        )
        if not self.columns:
            return told
        return {self.columns[name]: value for name, value in told.items() if name in self.columns}


class Inbox:
    """The files of posted events.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    form
        Where and how.
    """

    def __init__(self, home: Path, form: LandingForm) -> None:
        self._home = home
        self._form = form
        self._key = form.columns.get("event_id", "event_id")
        self._read_to: dict[Path, int] = {}
        self._known: dict[Path, set[str]] = {}

    def add(self, events: Sequence[Mapping[str, Any]], now: datetime) -> list[bool]:
        """Write events that are not there yet, and return for each whether it was new.

        An id counts as known if it arrived on this day or the one before.

        Parameters
        ----------
        events
            Canonical fields; ``event_id``, ``event_type`` and ``event_ts`` (with a time zone) are needed.
        now
            Tells the day of arrival.

        Raises
        ------
        OSError
            If the disk refuses; then nothing was written, or what was written is taken back.
        """
        path, before = self._file(now), self._file(now - timedelta(days=1))
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: what is left in one after an error would be written again when the file is cut or closed.
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            known = self._ids(before, None) | self._ids(path, file)
            self._forget({path, before})
            new, lines = [], []
            for event in events:
                new.append(event["event_id"] not in known)
                if new[-1]:
                    known.add(event["event_id"])
                    lines.append(json.dumps(self._form.line(event), ensure_ascii=False) + "\n")
            if lines:
                _append(file, "".join(lines).encode())
        return new

    def _file(self, day: datetime) -> Path:
        return self._home / self._form.path.replace("{day}", day.date().isoformat())

    def _ids(self, path: Path, file: IO[bytes] | None) -> set[str]:
        """Return the ids in a file; only what was appended since the last time is read."""
        known, start = self._known.setdefault(path, set()), self._read_to.get(path, 0)
        if file is None:
            if not path.is_file():
                return known
            with path.open("rb") as opened:
                return self._ids(path, opened)
        if file.seek(0, os.SEEK_END) < start:  # it was replaced
            known.clear()
            start = 0
        file.seek(start)
        for line in file.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                start += len(line)
                if (found := _id_of(line, self._key)) is not None:
                    known.add(found)
        self._read_to[path] = start
        return known

    def _forget(self, kept: set[Path]) -> None:
        for path in self._known.keys() - kept:
            self._known.pop(path)
            self._read_to.pop(path, None)


def _id_of(line: bytes, key: str) -> str | None:
    try:
        found = json.loads(line).get(key)
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _append(file: IO[bytes], content: bytes) -> None:
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        # A process that was killed may have left half a line.
        content = content if file.read(1) == b"\n" else b"\n" + content
    try:
        while content:
            content = content[file.write(content) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise
