"""Items that must not be served any more, from the next request on, whatever was published with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ml.artifacts import ArtifactError, read_json, write_json
from ml.files import SharedFile, alone
from serving.answers import EngineError

FILE = "withdrawn.json"
_log = logging.getLogger(__name__)


class WithdrawnFileError(EngineError, ArtifactError):
    """The file of withdrawn items makes no sense, or cannot be changed; the message is one line."""


class _Stored(BaseModel):
    """Item IDs, and when each was withdrawn."""

    model_config = ConfigDict(extra="forbid")

    items: dict[str, AwareDatetime]


class WithdrawnItems:
    """``TESSERA_HOME/withdrawn.json``; every request asks for it, and it is read again when it has changed.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._file = SharedFile[frozenset[str]](self._path, self._ids, frozenset())
        self._last: frozenset[str] | None = None

    def now(self) -> frozenset[str]:
        """Return the IDs; the same object as before where nothing has changed.

        Raises
        ------
        WithdrawnFileError
            If the file makes no sense, and made none before: what must not be served is not known then.
        """
        return self._file.now()

    def add(self, item_ids: Iterable[str]) -> None:
        """Withdraw items; the file is on disk when this returns. Those that are withdrawn keep their time.

        Raises
        ------
        WithdrawnFileError
            If the file makes no sense, or if the disk refuses.
        """
        self._change(set(item_ids), set())

    def remove(self, item_ids: Iterable[str]) -> None:
        """Serve items again; raises as :meth:`add` does."""
        self._change(set(), set(item_ids))

    def _change(self, come: set[str], go: set[str]) -> None:
        try:
            with alone(self._path.with_suffix(".lock")):
                items = self._read().items if self._path.is_file() else {}
                changed = dict.fromkeys(come, datetime.now(UTC)) | items
                changed = {item: when for item, when in changed.items() if item not in go}
                if changed != items:
                    write_json(self._path, _Stored(items=changed).model_dump(mode="json"))
        except OSError as error:
            told = f"{self._path} cannot be changed: {error.strerror or error}"
            raise WithdrawnFileError(told) from None

    def _ids(self, _: Path) -> frozenset[str]:
        try:
            self._last = frozenset(self._read().items)
        except WithdrawnFileError as error:
            if self._last is None:
                raise
            _log.error("%s; what was withdrawn before stays so", error)
        return self._last

    def _read(self) -> _Stored:
        try:
            return _Stored.model_validate(read_json(self._path))
        except (ArtifactError, OSError) as error:
            raise WithdrawnFileError(str(error)) from None
        except ValidationError:
            raise WithdrawnFileError(f"{self._path} is no file of withdrawn items") from None
