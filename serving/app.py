"""The HTTP service: recommendations for a user, and whether it can give them."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ml.artifacts import package_versions
from serving.engine import Engine, EngineError, Source
from serving.published import EngineHolder, load_engine

_log = logging.getLogger(__name__)


class Item(BaseModel):
    """A recommended item."""

    item_id: str
    title: str = Field(description="Empty where the catalogue has none.")
    score: float | None = Field(description="Comparable within one answer only; null for popular items.")


class Answer(BaseModel):
    """Recommendations for a user, best first."""

    user_id: str
    items: list[Item]
    source: Source = Field(description="Who answered: the promoted recommender, or the popular items.")
    reason: str = Field(description="Why that one answered.")
    versions: dict[str, str] = Field(description="What the answer was made with.")


class Health(BaseModel):
    """The service can answer, and with what."""

    status: str
    versions: dict[str, str]


class Problem(BaseModel):
    """What went wrong, in one line."""

    detail: str


def create_app(home: FilePath, load: Callable[[FilePath], Engine] = load_engine) -> FastAPI:
    """Make the service over what is published below ``home``.

    Parameters
    ----------
    home
        ``TESSERA_HOME``. Where nothing is published yet the service starts and says so, until something is.
    load
        Makes the engine.
    """
    holder = EngineHolder(home, load)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await run_in_threadpool(holder.get)
        except EngineError as error:
            _log.warning("not ready: %s", error)
        yield

    app = FastAPI(
        title="Tessera",
        summary="Recommendations for a user.",
        version=package_versions("tessera")["tessera"],
        lifespan=lifespan,
        # The pages of FastAPI's documentation load scripts from elsewhere; the schema itself does not.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(EngineError, _not_ready)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(Exception, _failed)

    @app.get(
        "/users/{user_id:path}/recommendations", responses={422: {"model": Problem}, 503: {"model": Problem}}
    )
    def recommendations(
        user_id: Annotated[str, Path(min_length=1, max_length=256)],
        k: Annotated[int, Query(ge=1, le=100, description="Most items to return.")] = 10,
    ) -> Answer:
        """Return the best items for a user; what is popular for a user without a usable history."""
        return Answer.model_validate(holder.get().recommend(user_id, k), from_attributes=True)

    @app.get("/health", responses={503: {"model": Problem}})
    def health() -> Health:
        """Say whether requests can be answered."""
        return Health(status="ok", versions=dict(holder.get().versions))

    return app


def create_app_from_env() -> FastAPI:
    """Make the service over ``TESSERA_HOME`` (default ``.tessera``), for ``uvicorn --factory``."""
    return create_app(FilePath(os.environ.get("TESSERA_HOME") or ".tessera").resolve())


async def _not_ready(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=503)


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return JSONResponse({"detail": told}, status_code=422)


async def _failed(_: Request, __: Exception) -> JSONResponse:
    # The traceback goes to the log, where it is of use.
    return JSONResponse({"detail": "internal error; the service's log says more"}, status_code=500)
