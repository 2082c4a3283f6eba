"""What becomes of user ids on their way in: hashed with a secret, or, of users who were erased, left out."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from orchestration.ingest.erased import Erased
from orchestration.ingest.errors import IngestError
from orchestration.ingest.sql import literal

MIN_SECRET = 16
DIGITS = 32
_BLOCK = 64  # of SHA-256, bytes
_TABLE = "erased_users"


@dataclass(frozen=True)
class UserSecret:
    """The secret that user ids are hashed with.

    Parameters
    ----------
    text
        The secret, 16 characters or more; never shown, and never written anywhere.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.text) < MIN_SECRET:
            raise IngestError(f"TESSERA_USER_SECRET is too short: {MIN_SECRET} characters are the least")

    def hashed(self, user_id: str) -> str:
        """Return what stands for a user: the first 32 hex digits of HMAC-SHA256."""
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    @property
    def fingerprint(self) -> str:
        """Eight hex digits by which a changed secret is noticed."""
        return hmac.new(self._key, b"tessera: fingerprint of a user secret", hashlib.sha256).hexdigest()[:8]

    @property
    def pads(self) -> tuple[bytes, bytes]:
        """The inner and the outer block of HMAC (RFC 2104)."""
        key = self._key if len(self._key) <= _BLOCK else hashlib.sha256(self._key).digest()
        key = key.ljust(_BLOCK, b"\0")
        return bytes(b ^ 0x36 for b in key), bytes(b ^ 0x5C for b in key)

    @property
    def _key(self) -> bytes:
        return self.text.encode()


@dataclass(frozen=True)
class Users:
    """How user ids are treated.

    Parameters
    ----------
    secret
        What ids are hashed with; ``None`` leaves them as they are.
    erased
        Users to leave out, by their ids as they stand in the lake.
    """

    secret: UserSecret | None = None
    erased: Erased | None = None

    @property
    def erases(self) -> bool:
        """Whether there is anybody to leave out."""
        return self.erased is not None and bool(self.erased.digests)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the secret; ``None`` without one."""
        return None if self.secret is None else self.secret.fingerprint

    @property
    def parameters(self) -> dict[str, Any]:
        """Values of the parameters in the SQL of this class, which no text of a query must hold."""
        found: dict[str, Any] = {}
        if self.secret is not None:
            found["inner_pad"], found["outer_pad"] = self.secret.pads
        if self.erased is not None and self.erases:
            found["erased_salt"] = self.erased.salt
        return found

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the table that :meth:`is_erased` looks into."""
        if self.erased is None or not self.erases:
            return
        digests = pa.table({"digest": pa.array(sorted(self.erased.digests), pa.string())})
        connection.register("given_digests", digests)
        connection.execute(f"CREATE TABLE {_TABLE} AS FROM given_digests")
        connection.unregister("given_digests")

    def known(self, given: str) -> str:
        """Return a user's id as it stands in the lake, as SQL; ``given`` is SQL of the id as it landed."""
        if self.secret is None:
            return given
        inner = f"unhex(sha256($inner_pad::BLOB || encode({given})))"
        return f"left(sha256($outer_pad::BLOB || {inner}), {DIGITS})"

    def is_erased(self, user_id: str) -> str:
        """Return whether a user was erased, as SQL; ``user_id`` is SQL of the id as it stands in the lake."""
        digest = f"sha256($erased_salt::BLOB || encode({user_id}))"
        return f"{user_id} IS NOT NULL AND {digest} IN (SELECT digest FROM {_TABLE})"

    def raw(self, raw: str, given: str, user_id: str, json_key: str | None) -> str:
        """Return the text of a refused row without ids that must not be seen, as SQL.

        With a secret, the id is replaced where it can be located beyond doubt: it stands in the text once, nothing
        is escaped, and the text of JSON names the user's key once. Any other text is not kept. With erased users,
        a text is kept where its user can be read, and so is known not to be one of them.

        Parameters
        ----------
        raw, given, user_id
            SQL of the text, of the id as it landed, and of the id as it stands in the lake.
        json_key
            Last key of the user's column where the text is JSON.
        """
        if self.secret is None:
            return f"CASE WHEN {given} IS NOT NULL THEN {raw} END" if self.erases else raw

        def times(needle: str) -> str:
            return f"((strlen({raw}) - strlen(replace({raw}, {needle}, ''))) // strlen({needle}))"

        tests = [f"{given} IS NOT NULL", f"NOT contains({given}, '\"')", f"{times(given)} = 1"]
        if json_key is not None:
            key = literal(f'"{json_key}"')
            plain = f"(regexp_full_match({given}, '[0-9]+') OR contains({raw}, '\"' || {given} || '\"'))"
            tests += [f"NOT contains({raw}, '\\')", f"{times(key)} = 1", plain]
        return f"CASE WHEN {' AND '.join(tests)} THEN replace({raw}, {given}, {user_id}) END"
