"""What stands around every request: its id, its log line, its size, its time."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.metrics import Metrics
from serving.api.problems import ProblemResponse
from serving.logs import access_log, request_id

_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_HEADER = b"x-request-id"
#: What an operator asks is answered however many others wait.
_ALWAYS = ("/health", "/metrics")
_log = logging.getLogger(__name__)


class Observed:
    """Gives each request an id (the caller's, where it is one), a log line and its metrics; ends what nobody caught.

    Parameters
    ----------
    app
        What answers.
    metrics
        What counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        made = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(made)
        told: dict[str, Any] = scope.setdefault("state", {}).setdefault("told", {})
        begun, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (_HEADER, made.encode())]
            await send(message)

        try:
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                _log.exception("a request failed")
                if status:
                    raise
                response = ProblemResponse(500, "internal", "internal error; the service's log says more")
                await response(scope, receive, send_with_id)
        finally:
            seconds, route = time.perf_counter() - begun, _route(scope)
            self._metrics.requests.labels(scope["method"], route, status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            about = {"method": scope["method"], "route": route, "status": status}
            access_log.info("request", extra=about | {"ms": round(1000 * seconds, 2)} | told)
            request_id.reset(token)


class Bounded:
    """Refuses bodies that are too long or do not arrive, and answers with 503 what takes too long.

    What a thread has begun cannot be ended; it goes on, and nobody waits for it.

    Parameters
    ----------
    app
        What answers.
    max_bytes
        Longest body.
    seconds
        Longest time that the body has to arrive (408), and then the answer to be made.
    most
        Requests that are answered at once; others are refused with 503. A queue without an end would make each wait
        until its time is over, and all work be done for answers that nobody waits for any more.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, most: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._most = most
        self._under_way = 0
        self._abandoned: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            # What the rest of the body would be is not known, so the connection is of no more use.
            detail = f"the body did not arrive within {self._seconds:g} seconds"
            response = ProblemResponse(408, "request-timeout", detail, {"Connection": "close"})
            await response(scope, receive, send)
            return
        if body is None:
            detail = f"a request may hold {self._max_bytes} bytes at most"
            await ProblemResponse(413, "too-large", detail, {"Connection": "close"})(scope, receive, send)
            return
        if self._under_way >= self._most and not scope["path"].startswith(_ALWAYS):
            detail = f"{self._most} requests are being answered: send it again a little later"
            await ProblemResponse(503, "overloaded", detail, {"Retry-After": "1"})(scope, receive, send)
            return
        over, begun, read = False, False, False

        async def whole() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_in_time(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if not over:
                begun = True
                await send(message)

        self._under_way += 1
        task = asyncio.ensure_future(self._run(scope, whole, send_in_time))
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if done or begun:
            await task
            return
        over = True
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        detail = f"no answer within {self._seconds:g} seconds"
        await ProblemResponse(503, "timeout", detail, {"Retry-After": "1"})(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the whole body; None if it is too long."""
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if stated.isdigit() and int(stated) > self._max_bytes:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return None
            if not message.get("more_body"):
                return b"".join(parts)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._under_way -= 1

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request that took too long failed: %s", error)


def _route(scope: Scope) -> str:
    """Return the pattern of the path that was asked for: paths themselves hold ids, and are without number."""
    route = scope.get("route")
    return getattr(route, "path_format", None) or getattr(route, "path", None) or "none"
