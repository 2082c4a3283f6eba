"""A look-up that may be slow, stuck or broken costs a request little, and the others nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any, Literal, TypeVar

from serving.answers import Lookup, LookupUnavailableError
from serving.features import UserFeatures

Outcome = Literal["ok", "failed", "timeout", "refused"]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Guard:
    """A time limit and a circuit breaker around look-ups.

    After some failures in a row the circuit is open: look-ups are refused at once. After a pause one of them is let
    through, and its success closes the circuit. Look-ups run in threads of their own, so that stuck ones hold none of
    those that answer requests; when all are stuck, others wait in line no longer than the time limit.

    Parameters
    ----------
    timeout
        Seconds that a look-up may take.
    failures
        Failures in a row that open the circuit.
    pause
        Seconds until an open circuit lets one look-up through.
    workers
        Look-ups at a time.
    count
        Told of the outcome of every look-up.
    now
        Seconds on a clock that is never set back.
    """

    def __init__(
        self,
        timeout: float = 0.5,
        failures: int = 5,
        pause: float = 3.0,
        workers: int = 8,
        count: Callable[[Outcome], None] = lambda _: None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._timeout, self._failures, self._pause = timeout, failures, pause
        self._count, self._now = count, now
        self._lock = threading.Lock()
        self._failed = 0
        self._trial_at: float | None = None
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._unborn = [f"lookup-{number}" for number in range(workers)]

    @property
    def is_open(self) -> bool:
        """Whether look-ups are refused, but for one after each pause."""
        return self._trial_at is not None

    def over(self, lookup: Lookup) -> Lookup:
        """Return a look-up that is guarded; all that are made here share one circuit."""
        return _Guarded(self, lookup)

    def call(self, ask: Callable[[], _T]) -> _T:
        """Return what ``ask`` returns.

        Raises
        ------
        LookupUnavailableError
            If it fails, takes too long, or is refused.
        """
        if not self._admitted():
            self._count("refused")
            raise LookupUnavailableError("the online store does not answer, and is given a pause")
        if self._unborn:
            with suppress(IndexError):
                # A daemon: a stuck look-up does not keep the service from ending.
                threading.Thread(target=self._work, name=self._unborn.pop(), daemon=True).start()
        done: Future[_T] = Future()
        self._queue.put((done, ask))
        try:
            found = done.result(self._timeout)
        except TimeoutError:
            # What has not begun never begins.
            done.cancel()
            self._fail("timeout", f"no answer within {self._timeout:g} s")
            reason = f"the online store does not answer within {self._timeout:g} s"
            raise LookupUnavailableError(reason) from None
        except Exception as error:
            self._fail("failed", " ".join(str(error).split()) or type(error).__name__)
            raise LookupUnavailableError("the online store does not answer") from error
        self._succeed()
        return found

    def _admitted(self) -> bool:
        with self._lock:
            if self._trial_at is None:
                return True
            if self._now() < self._trial_at:
                return False
            # This one is the trial; the others wait for what comes of it.
            self._trial_at = self._now() + self._pause
            return True

    def _fail(self, outcome: Outcome, why: str) -> None:
        self._count(outcome)
        with self._lock:
            self._failed += 1
            opened = self._failed == self._failures
            if self._failed >= self._failures:
                self._trial_at = self._now() + self._pause
        if opened:
            _log.error("look-ups are off, but for one every %g s: %s", self._pause, why)
        elif self._failed < self._failures:
            _log.warning("a look-up failed: %s", why)

    def _succeed(self) -> None:
        self._count("ok")
        if not self._failed:
            return
        with self._lock:
            opened, self._failed, self._trial_at = self.is_open, 0, None
        if opened:
            _log.warning("look-ups are on again")

    def _work(self) -> None:
        while True:
            done, ask = self._queue.get()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(ask())
            except BaseException as error:
                done.set_exception(error)


class _Guarded:
    def __init__(self, guard: Guard, lookup: Lookup) -> None:
        self._guard, self._lookup = guard, lookup

    def user(self, user_id: str) -> UserFeatures:
        return self._guard.call(lambda: self._lookup.user(user_id))
