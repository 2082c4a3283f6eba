"""Users who were erased: a list of salted digests that says whom never to take in again, and names nobody."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ml.artifacts import ArtifactError, read_json, write_json
from orchestration.ingest.errors import IngestError, one_line_errors

ERASED = "erased.json"
_SALT_BYTES = 16


@dataclass(frozen=True)
class Erased:
    """The users that were erased.

    Parameters
    ----------
    salt
        Random bytes that go before each id.
    digests
        Hex SHA-256 of salt and id, as the id stands in the lake.
    """

    salt: bytes
    digests: frozenset[str]

    def digest(self, user_id: str) -> str:
        """Return the digest that stands for a user."""
        return hashlib.sha256(self.salt + user_id.encode()).hexdigest()

    def __contains__(self, user_id: str) -> bool:
        return self.digest(user_id) in self.digests


def load(path: Path) -> Erased | None:
    """Return the erased users of a home, or ``None`` where nobody ever was.

    Parameters
    ----------
    path
        The file, ``TESSERA_HOME/erased.json``.

    Raises
    ------
    IngestError
        If the file cannot be read or makes no sense. A damaged list must not pass for an empty one.
    """
    with one_line_errors(f"cannot read {path}"):
        if not path.exists():
            return None
        try:
            found = read_json(path)
            salt, digests = bytes.fromhex(found["salt"]), [str(digest) for digest in found["digests"]]
            if not salt or any(
                len(bytes.fromhex(digest)) != hashlib.sha256().digest_size for digest in digests
            ):
                raise ValueError("a digest or the salt has the wrong length")
        except (ArtifactError, ValueError, KeyError, TypeError) as error:
            raise IngestError(f"{path} is no list of erased users: {error}") from None
    return Erased(salt, frozenset(digest.lower() for digest in digests))


def add(path: Path, user_ids: Iterable[str]) -> Erased:
    """Put users on the list, make it where there is none, and return it; the file changes in one step.

    Parameters
    ----------
    path
        The file, ``TESSERA_HOME/erased.json``.
    user_ids
        Ids as they stand in the lake. Those on the list already change nothing.

    Raises
    ------
    IngestError
        If the list that stands there makes no sense, or if the disk refuses.
    """
    standing = load(path)
    erased = standing or Erased(secrets.token_bytes(_SALT_BYTES), frozenset())
    erased = Erased(erased.salt, erased.digests | {erased.digest(user_id) for user_id in user_ids})
    if erased != standing:
        write(path, erased)
    return erased


def write(path: Path, erased: Erased) -> None:
    """Write the list in one step.

    Raises
    ------
    IngestError
        If the disk refuses.
    """
    with one_line_errors(f"cannot write {path}"):
        write_json(path, {"salt": erased.salt.hex(), "digests": sorted(erased.digests)})
