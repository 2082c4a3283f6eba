"""How many requests are worked on at once.

Threads of one process share an interpreter. Where many want it, each hand-over between the event loop, the thread that
answers and the one that looks a user up waits for all others, so that after a moment of overload fewer may be answered
than arrive, for good (``python -m benchmarks.serving --only overload``). So there are few; a champion that decodes waiting requests
together needs as many as it takes at a time.
"""

from __future__ import annotations

import asyncio

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter

from serving.batching import Batched
from serving.engine import Engine

FEW = 4


class Threads:
    """The number of threads that answer requests, of the event loop in which it was begun."""

    def __init__(self) -> None:
        self._wanted = FEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limiter: CapacityLimiter | None = None

    def begin(self) -> None:
        """Rule over the threads of the event loop that runs."""
        self._loop, self._limiter = asyncio.get_running_loop(), current_default_thread_limiter()
        self._apply()

    def fit(self, engine: Engine, batch: int) -> None:
        """Have as many as an engine needs that decodes up to ``batch`` requests together; from any thread."""
        self._wanted = max(FEW, batch) if isinstance(engine.champion, Batched) else FEW
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._apply)

    def _apply(self) -> None:
        if self._limiter is not None:
            self._limiter.total_tokens = self._wanted
