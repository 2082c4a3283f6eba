"""Posted events: kept for the night, and put online at once."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimedOut
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ml.artifacts import ArtifactError, read_json
from ml.files import SharedFile
from serving.answers import EngineError
from serving.engine import Engine
from serving.inbox import Inbox, LandingForm
from serving.push import PushedEvent, push_events

_log = logging.getLogger(__name__)
_Erased = tuple[bytes, frozenset[str]]
_DIGITS = 32
_MOST_LATE = 1000
_PUSH_WAIT_S = 1.0
"""A push waits for as long as a night writes; a caller does not."""


class FutureEventError(Exception):
    """An event lies in the future; the message is one line."""


@dataclass(frozen=True)
class PostedEvent:
    """Something a user did; ``time`` is now where it is not told. Field names are those of the canonical event."""

    event_id: str
    user_id: str
    event_type: str
    item_id: str | None = None
    time: datetime | None = None
    session_id: str | None = None
    value: float | None = None
    query: str | None = None
    position: int | None = None


@dataclass(frozen=True)
class Receipt:
    """What became of events.

    Parameters
    ----------
    accepted, duplicates
        Events that are on disk now, and events whose ids were there already.
    online
        Events that the next request sees.
    reason
        Why others are not seen before the next night; empty where all are.
    """

    accepted: int
    duplicates: int
    online: int
    reason: str


class EventDesk:
    """Takes events in.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    secret
        What user ids are hashed with on their way into the lake; None leaves them as they are.
    push
        Puts events online.
    """

    def __init__(self, home: Path, secret: str | None = None, push: Callable[..., int] = push_events) -> None:
        self._home = home
        self._erased = SharedFile[_Erased](home / "erased.json", _read_erased, (b"", frozenset()))
        self._secret = secret
        self._push = push
        self._lock = threading.Lock()
        self._inbox: tuple[LandingForm, Inbox] | None = None
        # One at a time: the store has one writer, and readers need the other threads.
        self._pusher = ThreadPoolExecutor(1, "push")
        # Pushes that nobody waits for any more.
        self._late: set[Future[int]] = set()

    def known_as(self, user_id: str) -> str:
        """Return what a user is called in the lake, and so online: see ``orchestration.ingest.users``."""
        if self._secret is None:
            return user_id
        digest = hmac.new(self._secret.encode(), user_id.encode(), hashlib.sha256)
        return digest.hexdigest()[:_DIGITS]

    def take(self, events: Sequence[PostedEvent], engine: Engine, form: LandingForm) -> Receipt:
        """Write events down, then put those online that histories are made of.

        Events of users who were erased are left out. Events that were there already are put online again, which
        changes nothing, unless it had failed before.

        Raises
        ------
        FutureEventError
            If an event lies in the future; nothing is taken then.
        EngineError
            If they cannot be written down, or if it is not known who was erased.
        """
        now = engine.clock()
        if late := next((event for event in events if event.time is not None and event.time > now), None):
            raise FutureEventError(f"event {late.event_id!r} lies in the future of {now.isoformat()}")
        salt, erased = self._erased.now()
        kept = [event for event in events if _digest(salt, self.known_as(event.user_id)) not in erased]
        try:
            with self._lock:
                new = self._inbox_of(form).add([_canonical(event, now) for event in kept], now)
        except OSError as error:
            _log.exception("posted events cannot be written")
            raise EngineError("events cannot be written down now, send them again later") from error
        shown = [
            PushedEvent(self.known_as(event.user_id), event.item_id, event.event_type, event.time or now)
            for event in kept
            if event.item_id is not None and event.event_type in engine.event_types
        ]
        online, reason = len(shown), self._put_online(shown, engine)
        if reason:
            online = 0
        elif online < len(kept):
            reason = f"histories are made of {', '.join(sorted(engine.event_types))}"
        return Receipt(sum(new), len(new) - sum(new), online, reason)

    def _put_online(self, events: list[PushedEvent], engine: Engine) -> str:
        """Return why events are not online (yet), or nothing if they are."""
        if not events:
            return ""
        if len(self._late) >= _MOST_LATE:
            return "the online store does not take them; they are kept for the next night"
        done: Future[int] = self._pusher.submit(self._push, self._home, events, engine.clock)
        try:
            # Nobody waits behind a push that is late: the threads that would are there for others too.
            done.result(0 if self._late else _PUSH_WAIT_S)
        except TimedOut:
            self._late.add(done)
            done.add_done_callback(self._late.discard)
            done.add_done_callback(_log_failure)
            return "the online store is being written; they follow when that is done"
        except Exception:
            _log.exception("posted events are not online")
            return "the online store does not take them; they are kept for the next night"
        return ""

    def _inbox_of(self, form: LandingForm) -> Inbox:
        if self._inbox is None or self._inbox[0] != form:
            self._inbox = form, Inbox(self._home, form)
        return self._inbox[1]


def _read_erased(path: Path) -> _Erased:
    """Return the salt, and the digests of salt and id of the users that were erased."""
    try:
        found = read_json(path)
        return bytes.fromhex(found["salt"]), frozenset(found["digests"])
    except (ArtifactError, KeyError, TypeError, ValueError):
        _log.exception("the list of erased users cannot be read")
        raise EngineError("events cannot be taken now: the list of erased users cannot be read") from None


def _digest(salt: bytes, user_id: str) -> str:
    return hashlib.sha256(salt + user_id.encode()).hexdigest()


def _canonical(event: PostedEvent, now: datetime) -> dict[str, Any]:
    told = dict(vars(event))
    told["event_ts"] = told.pop("time") or now
    return told


def _log_failure(done: Future[int]) -> None:
    if (error := done.exception()) is not None:
        _log.error("posted events are not online: %s", error)
