"""Errors as problem details (RFC 9457), wherever they come from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from serving.answers import EngineError, UnknownItemError
from serving.keys import KeyFileError
from serving.logs import request_id
from serving.posted import FutureEventError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)


class FieldError(BaseModel):
    """What is wrong with one part of a request."""

    field: str = Field(examples=["k"])
    detail: str = Field(examples=["Input should be less than or equal to 100"])


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="Names the kind of problem.", examples=["urn:tessera:bad-request"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="One line for people.", examples=["k: Input should be less than or equal to 100"]
    )
    request_id: str = Field(description="To find the request in the service's log.")
    errors: list[FieldError] = Field(
        default=[], description="Of a bad request: what is wrong with which part."
    )


class ApiError(Exception):
    """A request that is answered with a problem."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers = status, kind, detail, headers


class ProblemResponse(JSONResponse):
    """A problem as a response."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: list[FieldError] | None = None,
    ) -> None:
        problem = Problem(
            type=f"urn:tessera:{kind}",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            request_id=request_id.get(),
            errors=errors or [],
        )
        super().__init__(problem.model_dump(), status_code=status, headers=headers)

    def render(self, content: Any) -> bytes:
        """Escape all but ASCII: a detail may repeat half a character of the request."""
        return json.dumps(content).encode()


_DESCRIPTIONS = {
    400: "The body is not what its headers say.",
    401: "No key, or one that nobody was given.",
    403: "The key must not be used for this.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    413: "The request is too large.",
    422: "A part of the request makes no sense.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "The service failed; its log says more.",
    503: "It cannot be answered now, and the detail says why.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how errors are told of in the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted(statuses)
    }


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error of an app be answered with a problem."""

    async def told(_: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, ApiError)
        return ProblemResponse(error.status, error.kind, error.detail, error.headers)

    async def not_ready(_: Request, error: Exception) -> ProblemResponse:
        return ProblemResponse(503, "not-ready", str(error), {"Retry-After": "5"})

    async def unknown(_: Request, error: Exception) -> ProblemResponse:
        return ProblemResponse(404, "unknown-item", str(error))

    async def future(_: Request, error: Exception) -> ProblemResponse:
        return ProblemResponse(422, "bad-request", str(error))

    async def damaged(_: Request, error: Exception) -> ProblemResponse:
        _log.error("%s", error)
        return ProblemResponse(503, "not-ready", "keys cannot be checked now")

    async def bad_request(_: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, RequestValidationError)
        errors = [FieldError(field=_field(e["loc"]), detail=e["msg"]) for e in error.errors()[:20]]
        detail = "; ".join(f"{e.field}: {e.detail}" for e in errors)
        return ProblemResponse(422, "bad-request", detail, errors=errors)

    async def http(_: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        kind = phrase.lower().replace(" ", "-")
        return ProblemResponse(error.status_code, kind, str(error.detail), error.headers)

    handlers = (
        (ApiError, told),
        (EngineError, not_ready),
        (UnknownItemError, unknown),
        (FutureEventError, future),
        (KeyFileError, damaged),
        (RequestValidationError, bad_request),
        (HTTPException, http),
    )
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def _field(where: tuple[str | int, ...]) -> str:
    """Return the name of a part of a request, such as ``events.0.user_id``."""
    inner = where[1:] if len(where) > 1 else where
    return ".".join(str(part) for part in inner)
