"""What an operator asks: is it alive, is it ready, what has it done."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.answers import EngineError, LookupUnavailableError
from serving.api.models import Health, Status
from serving.api.problems import documented
from serving.api.security import READ

router = APIRouter(tags=["operate"])
_PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/health/live")
async def live() -> Status:
    """Say that the process is alive, whatever else is."""
    return Status()


@router.get("/health/ready", responses=documented(500, 503))
@router.get("/health", include_in_schema=False)
def ready(request: Request) -> Health:
    """Say whether requests can be answered, and with what."""
    holder, guard = request.app.state.holder, request.app.state.guard
    engine, stale = holder.get(), holder.stale
    if guard.is_open:
        # Without other requests nobody else would notice that the online store is back.
        with suppress(LookupUnavailableError):
            engine.lookup.user("")
    missing = [*engine.missing, *(["online store"] if guard.is_open else [])]
    waiting: Any = getattr(engine.encode, "why_not", None)
    return Health(
        status="degraded" if missing or stale else "ok",
        missing=list(dict.fromkeys(missing)),
        stale=stale,
        versions=dict(engine.versions),
        text_search="nothing published here encodes texts"
        if engine.encode is None
        else (waiting() if waiting is not None else "") or "ready",
        checked=datetime.now(UTC),
    )


@router.get(
    "/metrics",
    dependencies=[READ],
    response_class=Response,
    responses=_PLAIN | documented(401, 403, 429, 500, 503),
)
def metrics(request: Request) -> Response:
    """Return what Prometheus scrapes."""
    state = request.app.state
    try:
        versions = state.holder.get().versions
    except EngineError:
        versions = None
    return Response(state.metrics.text(versions), media_type="text/plain; version=0.0.4; charset=utf-8")
