"""Requests made from the OpenAPI document, valid and not: none ends in a 500, and answers are as documented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from planted import planted_engine, service
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.answers import Lookup
from serving.features import UserFeatures
from serving.posted import EventDesk

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NOTHING_TO_GET_WRONG = ("/health/live", "/health/ready", "/metrics")


def try_all(
    home: Path,
    judge: Callable[[schemathesis.Case], object],
    mode: GenerationMode,
    path: str | None = None,
    lookup: Lookup | None = None,
    push: Callable[..., int] = lambda *_: 0,
) -> set[str]:
    """Judge requests of every operation, and return the operations."""
    engine = planted_engine(encode=broken if path else planted_engine().encode)
    client = service(home, engine, rate_limit="")
    if lookup is not None:
        engine.lookup = client.app.state.guard.over(lookup)  # type: ignore[attr-defined]
    client.app.state.desk = EventDesk(home, push=push)  # type: ignore[attr-defined]
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if path not in (None, operation.path) or (
            mode is GenerationMode.NEGATIVE and operation.path in NOTHING_TO_GET_WRONG
        ):
            continue
        tried.add(operation.label)

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def each(case: schemathesis.Case) -> None:
            judge(case)

        each()
    return tried


def broken(_: str) -> None:
    raise RuntimeError("secret detail")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_ends_in_a_500(tmp_path: Path, mode: GenerationMode) -> None:
    tried = try_all(tmp_path, lambda case: case.call_and_validate(checks=CHECKS), mode)
    assert "POST /v1/events" in tried
    assert len(tried) == (12 if mode is GenerationMode.POSITIVE else 9)


class Gone:
    """An online store that was taken away."""

    def __init__(self) -> None:
        self.asked = 0

    def user(self, _: str) -> UserFeatures:
        self.asked += 1
        raise ConnectionError("secret detail")


def no_push(*_: object) -> int:
    raise ConnectionError("secret detail")


def test_no_request_ends_in_a_500_without_an_online_store(tmp_path: Path) -> None:
    gone = Gone()
    tried = try_all(
        tmp_path,
        lambda case: case.call_and_validate(checks=CHECKS),
        GenerationMode.POSITIVE,
        lookup=gone,
        push=no_push,
    )
    assert len(tried) == 12
    # The circuit opened: most were not even tried.
    assert gone.asked >= 5


def test_it_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(BaseException, match="Server error"):
        try_all(
            tmp_path,
            lambda case: case.call_and_validate(checks=CHECKS),
            GenerationMode.POSITIVE,
            "/v1/search",
        )
