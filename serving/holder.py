"""The engine that requests are answered by, exchanged in the background when something new is published."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from time import monotonic, perf_counter, sleep

from ml.files import Mark, mark
from serving.answers import EngineError
from serving.collector import settle
from serving.engine import Engine
from serving.features import History
from serving.items import Wanted
from serving.published import CHAMPION, load_engine

POLL_S = 0.2
AGAIN_S = 30.0
_NICE = 10
_TURN_S = 0.0005
_WORK_S, _REST_S = 0.002, 0.008
_log = logging.getLogger(__name__)


class EngineHolder:
    """Hands out the engine of what is published now; no request ever waits for one to be loaded.

    A thread of its own looks for a new ``champion.json``, loads what it names, rehearses it, and exchanges the engine
    by one assignment. Requests that began with the engine before it end with that one. If loading or rehearsing
    fails, the engine before it stays, and the same publication is tried again after 30 seconds.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    load
        Makes the engine.
    fallback
        Makes an engine of what is left where the first one cannot be made; None makes none.
    """

    def __init__(
        self,
        home: Path,
        load: Callable[[Path], Engine] = load_engine,
        fallback: Callable[[Path], Engine] | None = None,
    ) -> None:
        self._home = home
        self._load = load
        self._fallback = fallback
        self._engine: Engine | None = None
        self._failed: tuple[Mark | None, str] | None = None
        self._seen: Mark | None = None
        self._again_at = -inf
        # One load at a time, whoever asks for it.
        self._loading = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stale(self) -> str:
        """Why what is published now is not what is served; empty where it is."""
        return "" if self._failed is None else self._failed[1]

    def get(self) -> Engine:
        """Return the engine; whoever asks keeps it for the whole of a request.

        Raises
        ------
        EngineError
            While nothing could be loaded yet.
        """
        engine = self._engine
        if engine is None:
            raise EngineError(self.stale or "the service is starting")
        return engine

    def start(self) -> None:
        """Load what is published, then look for what is published next in a thread, until :meth:`stop`."""
        if self.refresh():
            settle()
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="publications", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a load that has begun is not waited for."""
        self._stop.set()

    def refresh(self) -> bool:
        """Load what is published now, unless it is served already or failed less than 30 seconds ago.

        Returns
        -------
        bool
            Whether an engine was loaded whole, and is served from now on.
        """
        with self._loading:
            mark = self._mark()
            if mark == self._seen and monotonic() < self._again_at:
                return False
            # The mark is taken first: what is published during the load is loaded next.
            self._seen, self._again_at = mark, inf
            try:
                with _short_turns():
                    engine = self._load(self._home)
                    rehearse(engine)
            except Exception as error:
                self._again_at = monotonic() + AGAIN_S
                self._stay(mark, error)
                return False
            self._engine, self._failed = engine, None
            return True

    def _stay(self, mark: Mark | None, error: Exception) -> None:
        """Go on with the engine there is, or with what is left of the publication; each failure is logged once."""
        told = (
            str(error) if isinstance(error, EngineError) else "the publication cannot be loaded, see the log"
        )
        if (mark, told) != self._failed:
            left = "nothing is served yet" if self._engine is None else "the one before it stays"
            unexpected = None if isinstance(error, EngineError) else error
            _log.error("what is published cannot be served, %s: %s", left, told, exc_info=unexpected)
        self._failed = mark, told
        if self._engine is None and self._fallback is not None:
            try:
                self._engine = self._fallback(self._home)
                _log.error("serving what is left of the publication")
            except Exception as worse:
                _log.debug("nothing is left of it either: %s", worse)

    def _watch(self) -> None:
        # Of this thread alone, where the system knows priorities of threads (Linux).
        with suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while not self._stop.wait(POLL_S):
            with _paced():
                exchanged = self.refresh()
            if exchanged:
                settle()

    def _mark(self) -> Mark | None:
        with suppress(OSError):
            return mark(self._home / CHAMPION)
        return None


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads that answer have the interpreter back within half a millisecond, not five, while one loads."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, _TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@contextmanager
def _paced() -> Iterator[None]:
    """Let this thread work for two milliseconds and then rest for eight, so that requests do not queue behind it.

    Threads that want the interpreter get turns, but no priorities: one that only computes takes every other turn from
    all that answer. The hook of Python's profiler, which is this thread's own, is called often enough to rest by.
    """
    begun = perf_counter()

    def rest(*_: object) -> None:
        nonlocal begun
        if perf_counter() - begun > _WORK_S:
            sleep(_REST_S)
            begun = perf_counter()

    usual = sys.getprofile()
    sys.setprofile(rest)
    try:
        yield
    finally:
        sys.setprofile(usual)


def rehearse(engine: Engine) -> None:
    """Ask an engine what requests will ask, so that the first of them finds everything imported and warm.

    Raises
    ------
    EngineError
        If the champion fails.
    """
    engine.most_popular(10)
    engine.newest(10)
    engine.recommend("nobody", 10)
    for length in (1, 5, 50):
        items = list(engine.item_ids[:length])
        history = History(items, [engine.event_types[0]] * len(items), list(range(len(items))), len(items))
        for wanted in (Wanted(), Wanted(diversity=0.5, explain=True)):
            answer = engine.after(history, 10, wanted)
            if "failed" in answer.reason:
                raise EngineError(f"rehearsal: {answer.reason}")
