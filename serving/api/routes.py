"""What the API answers: recommendations, items, events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from serving.answers import Recommendations, UnknownItemError
from serving.api.models import (
    ID_LENGTH,
    Answer,
    Choices,
    Event,
    EventBatch,
    HistoryChoices,
    Receipt,
    SearchChoices,
    SessionRequest,
    SimilarChoices,
    UserAnswer,
)
from serving.api.problems import ApiError, documented
from serving.api.security import READ, WRITE
from serving.engine import Engine
from serving.features import History
from serving.items import Wanted
from serving.posted import PostedEvent
from serving.withdrawn import WithdrawnItems


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.holder.get()
    return engine


# Asked for once, at the beginning of a request: all of an answer comes from one publication.
Served = Annotated[Engine, Depends(_engine)]
UserId = Annotated[str, Path(min_length=1, max_length=ID_LENGTH, examples=["u000123"])]
ItemId = Annotated[str, Path(min_length=1, max_length=ID_LENGTH, examples=["i00042"])]
_ERRORS = documented(401, 403, 422, 429, 500, 503)
reading = APIRouter(prefix="/v1", dependencies=[READ], responses=_ERRORS)
writing = APIRouter(prefix="/v1", dependencies=[WRITE], responses=_ERRORS)
# What answered before there were versions of the API.
unversioned = APIRouter(dependencies=[READ], include_in_schema=False)


@unversioned.get("/users/{user_id:path}/recommendations", response_model=UserAnswer)
@reading.get("/users/{user_id:path}/recommendations", tags=["recommend"], response_model=UserAnswer)
def for_a_user(
    request: Request, engine: Served, user_id: UserId, choices: Annotated[HistoryChoices, Query()]
) -> Recommendations:
    """Return the best items for a user, from the history in the online store; popular ones for a stranger."""
    wanted = _wanted(engine, choices)
    known_as = request.app.state.desk.known_as(user_id)
    answer = engine.recommend(known_as, choices.k, wanted)
    return _told(request, answer if known_as == user_id else _named(answer, user_id))


@reading.post(
    "/recommendations", tags=["recommend"], response_model=Answer, responses=documented(400, 408, 413)
)
def for_a_session(request: Request, engine: Served, session: SessionRequest) -> Recommendations:
    """Return the best items to follow a history that the request brings along; nothing of it is kept."""
    now, usual = engine.clock(), "view" if "view" in engine.event_types else engine.event_types[0]
    times = [_microseconds(event.time or now) for event in session.history]
    history = History(
        [event.item_id for event in session.history],
        [event.event_type or usual for event in session.history],
        times,
        len(times),
    )
    return _told(request, engine.after(history, session.k, _wanted(engine, session)))


@reading.get(
    "/items/{item_id:path}/similar", tags=["recommend"], response_model=Answer, responses=documented(404)
)
def like_an_item(
    request: Request, engine: Served, item_id: ItemId, choices: Annotated[SimilarChoices, Query()]
) -> Recommendations:
    """Return the items whose vectors (text and behaviour) are most like that of an item."""
    return _told(request, engine.similar(item_id, choices.k, _wanted(engine, choices)))


@reading.get("/search", tags=["discover"], response_model=Answer)
def by_text(request: Request, engine: Served, choices: Annotated[SearchChoices, Query()]) -> Recommendations:
    """Return the items whose texts say most nearly what a text says."""
    return _told(request, engine.search_text(choices.q, choices.k, _wanted(engine, choices)))


@reading.get("/popular", tags=["discover"], response_model=Answer)
def popular(request: Request, engine: Served, choices: Annotated[Choices, Query()]) -> Recommendations:
    """Return the items that most users met."""
    return _told(request, engine.most_popular(choices.k, _wanted(engine, choices)))


@reading.get("/latest", tags=["discover"], response_model=Answer)
def latest(request: Request, engine: Served, choices: Annotated[Choices, Query()]) -> Recommendations:
    """Return the items that appeared last in the catalogue or the logs."""
    return _told(request, engine.newest(choices.k, _wanted(engine, choices)))


@writing.post(
    "/events", tags=["events"], status_code=202, response_model=Receipt, responses=documented(400, 408, 413)
)
def post_events(request: Request, engine: Served, batch: EventBatch) -> Any:
    """Take events in: on disk for the next night, and in the histories that the next request reads."""
    for event in batch.events:
        if event.item_id is None and event.event_type != "search":
            raise ApiError(422, "bad-request", f"event {event.event_id!r}: only a search may name no item")
    state = request.app.state
    receipt = state.desk.take([_posted(event) for event in batch.events], engine, state.landing())
    for outcome in ("accepted", "duplicates", "online"):
        state.metrics.events.labels(outcome).inc(getattr(receipt, outcome))
    return receipt


@writing.delete("/items/{item_id:path}", tags=["operate"], status_code=204, responses=documented(404))
def withdraw(request: Request, engine: Served, item_id: ItemId) -> None:
    """Withdraw an item: no request that begins after this answer is answered with it, until it is restored."""
    withdrawn: WithdrawnItems = request.app.state.withdrawn
    if item_id not in withdrawn.now() and not engine.knows(item_id):
        raise UnknownItemError(f"the catalogue has no item {item_id!r}")
    withdrawn.add([item_id])


@writing.post("/items/{item_id:path}/restore", tags=["operate"], status_code=204, responses=documented(404))
def restore(request: Request, item_id: ItemId) -> None:
    """Serve an item again that was withdrawn."""
    withdrawn: WithdrawnItems = request.app.state.withdrawn
    if item_id not in withdrawn.now():
        raise UnknownItemError(f"the item {item_id!r} is not withdrawn")
    withdrawn.remove([item_id])


def _wanted(engine: Engine, choices: Choices) -> Wanted:
    if choices.in_stock and engine.facts.in_stock is None:
        raise ApiError(422, "bad-request", "in_stock: the catalogue does not say what is in stock")
    return choices.wanted()


def _told(request: Request, answer: Recommendations) -> Recommendations:
    request.app.state.metrics.answered(request.scope["route"].path_format, answer)
    request.state.told |= {"source": answer.source, "reason": answer.reason, "items": len(answer.items)}
    return answer


def _named(answer: Recommendations, user_id: str) -> Recommendations:
    from dataclasses import replace

    return replace(answer, user_id=user_id)


def _posted(event: Event) -> PostedEvent:
    return PostedEvent(**event.model_dump())


def _microseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000)
