"""Who may ask, and how often."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from serving.api.problems import ApiError
from serving.keys import ApiKey, KeyFile, Scope
from serving.settings import ServiceSettings, is_loopback

_header = APIKeyHeader(
    name="X-API-Key", scheme_name="key", auto_error=False, description="A key of the scope that is needed."
)


class Gate:
    """Checks keys and counts requests.

    Parameters
    ----------
    settings
        Whether keys are needed, and the limit.
    keys
        The keys.
    """

    def __init__(self, settings: ServiceSettings, keys: KeyFile) -> None:
        self._settings = settings
        self._keys = keys
        self._limit = parse(settings.rate_limit) if settings.rate_limit else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def admit(self, presented: str | None, scope: Scope, client: str, server: str | None) -> str | None:
        """Let a request pass, and return the name of its key, if it has one.

        Raises
        ------
        ApiError
            401 without a right key, 403 with one of another scope, 429 after too many requests.
        """
        key = self._keys.find(presented) if presented else None
        self._count(f"key {key.name}" if key else f"address {client}")
        if not self._needs_key(server):
            return key.name if key else None
        if key is None:
            told = "this key is not known" if presented else "the header X-API-Key is missing"
            raise ApiError(401, "unauthorized", told, {"WWW-Authenticate": "ApiKey"})
        _check_scope(key, scope)
        return key.name

    def _needs_key(self, server: str | None) -> bool:
        if self._settings.needs_keys:
            return True
        # Open on loopback does not mean open: the process may have been bound elsewhere by other means.
        return self._settings.api_keys == "auto" and server is not None and _is_elsewhere(server)

    def _count(self, who: str) -> None:
        if self._limit is None or self._limiter.hit(self._limit, who):
            return
        reset = self._limiter.get_window_stats(self._limit, who).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        detail = f"more than {self._settings.rate_limit}"
        raise ApiError(429, "too-many-requests", detail, {"Retry-After": str(wait)})


def _check_scope(key: ApiKey, scope: Scope) -> None:
    if not key.allows(scope):
        raise ApiError(403, "forbidden", f"the key {key.name!r} is not for {scope}")


def _is_elsewhere(server: str) -> bool:
    """Tell whether an address is a number and not of this machine alone; a socket's path or a name is neither."""
    return (":" in server or server.replace(".", "").isdigit()) and not is_loopback(server)


def allowed(scope: Scope) -> Callable[..., Awaitable[None]]:
    """Return the dependency that lets a request pass."""

    async def check(request: Request, presented: Annotated[str | None, Security(_header)]) -> None:
        gate: Gate = request.app.state.gate
        client = request.client.host if request.client else "unknown"
        server = request.scope.get("server")
        name = gate.admit(presented, scope, client, server[0] if server else None)
        if name is not None:
            request.state.told["key"] = name

    return check


READ = Depends(allowed("read"))
WRITE = Depends(allowed("write"))
