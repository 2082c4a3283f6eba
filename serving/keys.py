"""API keys: who may read, who may write. Only their hashes are kept.

A key is 256 random bits, so that one round of SHA-256 is enough; a slow hash is for what people make up.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml.artifacts import ArtifactError, read_json, write_json
from ml.files import SharedFile, alone

FILE = "keys.json"
PREFIX = "tessera_"
Scope = Literal["read", "write"]


class KeyFileError(Exception):
    """The file of keys cannot be used as asked; the message is one line."""


class ApiKey(BaseModel):
    """A key, without the key.

    Parameters
    ----------
    name
        Whom it was made for.
    scope
        ``write`` may read as well.
    sha256
        Hex digest of the key.
    created
        When it was made.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    scope: Scope
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: datetime

    def allows(self, scope: Scope) -> bool:
        """Tell whether it may be used for ``scope``."""
        return self.scope in (scope, "write")


class KeyFile:
    """``TESSERA_HOME/keys.json``; what is added or removed counts from the next request on.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._file = SharedFile[tuple[ApiKey, ...]](self._path, _read, ())

    def all(self) -> tuple[ApiKey, ...]:
        """Return the keys, in the order in which they were made.

        Raises
        ------
        KeyFileError
            If the file makes no sense: a damaged file must not pass for one that lets nobody, or anybody, in.
        """
        return self._file.now()

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that was presented, or None; takes as long for a wrong one as for a right one."""
        digest, found = _digest(presented), None
        for key in self.all():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def add(self, name: str, scope: Scope) -> str:
        """Make a key and return it; it cannot be shown again.

        Raises
        ------
        KeyFileError
            If there is a key of that name, or if the name is not made of letters, digits, ``.``, ``_`` and ``-``.
        """
        made = PREFIX + secrets.token_urlsafe(32)
        try:
            key = ApiKey(name=name, scope=scope, sha256=_digest(made), created=datetime.now(UTC))
        except ValidationError:
            raise KeyFileError(
                f"{name!r} is no name for a key: letters, digits, '.', '_', '-', at most 64"
            ) from None
        with self._alone():
            if any(known.name == name for known in self.all()):
                raise KeyFileError(f"there is a key {name!r} already")
            self._write((*self.all(), key))
        return made

    def remove(self, name: str) -> None:
        """Take a key away.

        Raises
        ------
        KeyFileError
            If there is none of that name.
        """
        with self._alone():
            kept = tuple(key for key in self.all() if key.name != name)
            if len(kept) == len(self.all()):
                raise KeyFileError(f"there is no key {name!r}")
            self._write(kept)

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        write_json(self._path, {"keys": [key.model_dump(mode="json") for key in keys]})
        self._path.chmod(0o600)

    def _alone(self) -> AbstractContextManager[None]:
        return alone(self._path.with_suffix(".lock"))


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        return tuple(ApiKey.model_validate(key) for key in read_json(path)["keys"])
    except (ArtifactError, ValidationError, KeyError, TypeError):
        raise KeyFileError(f"{path} is no file of keys") from None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
