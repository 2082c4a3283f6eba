"""The HTTP service: recommendations, search, events, and whether it can give them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from ml.artifacts import package_versions
from serving.answers import EngineError
from serving.api import operations, routes
from serving.api.metrics import Metrics
from serving.api.middleware import Bounded, Observed
from serving.api.problems import Problem, add_problem_handlers
from serving.api.security import Gate
from serving.batching import in_batches
from serving.engine import Engine
from serving.guard import Guard
from serving.holder import EngineHolder
from serving.inbox import LandingForm
from serving.keys import KeyFile
from serving.posted import EventDesk
from serving.published import load_engine, load_fallback, read_published
from serving.settings import ServiceSettings
from serving.threads import Threads
from serving.withdrawn import WithdrawnItems


def create_app(
    home: Path, load: Callable[[Path], Engine] | None = None, settings: ServiceSettings | None = None
) -> FastAPI:
    """Make the service over what is published below ``home``.

    Parameters
    ----------
    home
        ``TESSERA_HOME``. Where nothing is published yet the service starts and says so, until something is.
    load
        Makes the engine; by default from what is published, or of what is left of it.
    settings
        Switches; by default those of the environment.
    """
    settings = settings or ServiceSettings()
    metrics, threads = Metrics(), Threads()
    guard = Guard(settings.lookup_timeout, count=lambda outcome: metrics.lookups.labels(outcome).inc())

    def guarded(make: Callable[[Path], Engine]) -> Callable[[Path], Engine]:
        def made(home: Path) -> Engine:
            engine = make(home)
            engine.lookup = guard.over(engine.lookup)
            engine.champion = in_batches(engine.champion, settings.batch)
            threads.fit(engine, settings.batch)
            return engine

        return made

    if load is None:
        search = settings.text_search
        holder = EngineHolder(
            home,
            guarded(partial(load_engine, text_search=search)),
            guarded(partial(load_fallback, text_search=search)),
        )
    else:
        holder = EngineHolder(home, guarded(load))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threads.begin()
        await run_in_threadpool(holder.start)
        try:
            yield
        finally:
            holder.stop()

    app = FastAPI(
        title="Tessera",
        summary="Recommendations for users and sessions, similar items, search, and events.",
        version=package_versions("tessera")["tessera"],
        lifespan=lifespan,
        # The pages of FastAPI's documentation load scripts from elsewhere; the schema itself does not.
        docs_url=None,
        redoc_url=None,
    )
    secret = settings.user_secret.get_secret_value() if settings.user_secret else None
    app.state.holder = holder
    app.state.desk = EventDesk(home, secret)
    app.state.landing = _landing_of(home)
    app.state.metrics = metrics
    app.state.guard = guard
    app.state.withdrawn = WithdrawnItems(home)
    app.state.gate = Gate(settings, KeyFile(home))
    add_problem_handlers(app)
    for router in (routes.reading, routes.writing, routes.unversioned, operations.router):
        app.include_router(router)
    _document_problems(app)
    app.add_middleware(
        Bounded,
        max_bytes=settings.max_request_bytes,
        seconds=settings.request_timeout,
        most=settings.max_concurrent_requests,
    )
    app.add_middleware(Observed, metrics=metrics)
    return app


def _landing_of(home: Path) -> Callable[[], LandingForm]:
    """Return what tells in which form posted events land: the last that was readable."""
    last: LandingForm | None = None

    def landing() -> LandingForm:
        nonlocal last
        try:
            last = read_published(home).landing
        except EngineError:
            if last is None:
                raise
        return last

    return landing


def create_app_from_env() -> FastAPI:
    """Make the service over ``TESSERA_HOME`` (default ``.tessera``), for ``uvicorn --factory``."""
    return create_app(Path(os.environ.get("TESSERA_HOME") or ".tessera").resolve())


def _document_problems(app: FastAPI) -> None:
    """Put the schema of problems into the OpenAPI document, and take out FastAPI's own, which is never answered."""
    made = app.openapi

    def openapi() -> dict[str, object]:
        document = made()
        schemas = document["components"]["schemas"]
        if "Problem" not in schemas:
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs")
            schemas["Problem"] = problem
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
