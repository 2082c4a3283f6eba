"""Which files a path pattern names, and which day each of them belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from orchestration.ingest.errors import IngestError, one_line_errors
from orchestration.ingest.spec import day_format

_PART = re.compile(r"\{[^{}]*\}|\*|[^{*]+")
_DAY_PARTS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}"}


@dataclass(frozen=True)
class LandedFile:
    """A file that landed.

    Parameters
    ----------
    path
        Where it is.
    name
        Its path relative to the data folder, with forward slashes.
    day
        The day in its name; ``None`` where the pattern holds none.
    """

    path: Path
    name: str
    day: date | None

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.path.stat().st_size


def find_files(pattern: str, data_dir: Path) -> list[LandedFile]:
    """Return the files that a pattern names, ordered by name.

    Parameters
    ----------
    pattern
        Path below ``data_dir``; ``{day}`` stands for a day, ``*`` for anything but a slash.
    data_dir
        Folder of the source's files.

    Raises
    ------
    IngestError
        If ``data_dir`` is no folder or cannot be read, or if a file is a link that leads out of it.
    """
    if not data_dir.is_dir():
        raise IngestError(f"{data_dir}: there is no such folder of landing files")
    form = day_format(pattern)
    expression = _compiled(pattern)
    with one_line_errors(f"cannot list {data_dir}"):
        found = list(_matches(expression, _fixed_folder(pattern), data_dir, form))
    return sorted(found, key=lambda file: file.name)


def expected_name(pattern: str, day: date) -> str:
    """Return the name that the file of ``day`` should have."""
    return re.sub(r"\{[^{}]*\}", day.strftime(day_format(pattern) or ""), pattern)


def takes(pattern: str, name: str) -> bool:
    """Tell whether a pattern names a file of this name."""
    return _compiled(pattern).fullmatch(name) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    form = day_format(pattern)
    return re.compile("".join(_expression(part, form) for part in _PART.findall(pattern)))


def _expression(part: str, form: str | None) -> str:
    if part == "*":
        return r"[^/]*"
    if not part.startswith("{"):
        return re.escape(part)
    pieces = re.split(r"(%[Ymd])", form or "")
    return "(?P<day>" + "".join(_DAY_PARTS.get(piece) or re.escape(piece) for piece in pieces) + ")"


def _fixed_folder(pattern: str) -> str:
    fixed = re.split(r"[{*]", pattern, maxsplit=1)[0]
    return fixed.rpartition("/")[0]


def _matches(
    expression: re.Pattern[str], folder: str, data_dir: Path, form: str | None
) -> Iterator[LandedFile]:
    root = data_dir.resolve()
    for path in (data_dir / folder).rglob("*"):
        name = path.relative_to(data_dir).as_posix()
        match = expression.fullmatch(name)
        if match is None or path.name.startswith(".") or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise IngestError(f"{name}: is a link that leads out of {data_dir}; put the file there itself")
        if not name.isprintable():  # which also finds what is not UTF-8
            raise IngestError(f"{name!a}: no file can have such a name")
        if form is None:
            yield LandedFile(path, name, None)
            continue
        try:
            yield LandedFile(path, name, datetime.strptime(match["day"], form).date())
        except ValueError:
            continue  # 2025-02-30 has the shape of a day but is none
