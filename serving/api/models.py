"""Requests and responses."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ml.histories import EventType
from serving.answers import Source
from serving.items import Wanted

ID_LENGTH = 256
MOST = 100
Id = Annotated[str, Field(min_length=1, max_length=ID_LENGTH)]


class Because(BaseModel):
    """An item of the history that led to a recommendation."""

    item_id: str = Field(examples=["i00042"])
    title: str
    similarity: float = Field(description="Cosine of the two items' vectors.", examples=[0.83])
    shared_codes: list[int] = Field(
        description="Codes that both semantic IDs begin with: the more, the closer.", examples=[[17, 203]]
    )


class Explanation(BaseModel):
    """Why an item is here."""

    semantic_id: list[int] = Field(description="Empty where the item has none.", examples=[[17, 203, 5, 0]])
    because: list[Because] = Field(description="The nearest items of the history, at most three.")


class Item(BaseModel):
    """An item of an answer."""

    item_id: str = Field(examples=["i00007"])
    title: str = Field(description="Empty where the catalogue has none.")
    score: float | None = Field(
        description="Comparable within one answer only; null for popular and latest items.", examples=[1.25]
    )
    explanation: Explanation | None = Field(default=None, description="If `explain` was asked for.")


class Answer(BaseModel):
    """Items, best first."""

    items: list[Item]
    source: Source = Field(
        description="Who answered. `champion`: the promoted recommender; `heuristic`: transition counts, where the "
        "champion cannot; `popular`: what most users met, where neither can."
    )
    reason: str = Field(description="Why that one answered.", examples=["history of 7 items"])
    versions: dict[str, str] = Field(description="What the answer was made with.")


class UserAnswer(Answer):
    """Recommendations for a user."""

    user_id: str


class Choices(BaseModel):
    """What an answer may hold."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=10, ge=1, le=MOST, description="Most items to return.")
    category: list[Id] = Field(
        default=[], max_length=20, description="Items of any of these categories, at any level."
    )
    in_stock: bool = Field(
        default=False,
        description="Only items whose attribute `in_stock` is true, or whose `stock` is above 0.",
    )
    exclude: list[Id] = Field(default=[], max_length=MOST, description="Items that must not come.")
    diversity: float = Field(
        default=0,
        ge=0,
        le=1,
        description="0: by score. Towards 1: unlike each other (MMR over item vectors).",
    )

    def wanted(self) -> Wanted:
        """Return them as the engine reads them."""
        return Wanted(
            categories=frozenset(self.category),
            in_stock=self.in_stock,
            exclude=frozenset(self.exclude),
            exclude_seen=getattr(self, "exclude_seen", True),
            diversity=self.diversity,
            explain=getattr(self, "explain", False),
        )


class SimilarChoices(Choices):
    """What an answer that starts from an item may hold."""

    explain: bool = Field(default=False, description="Say how each item is like the one asked for.")


class HistoryChoices(Choices):
    """What an answer that starts from a history may hold."""

    exclude_seen: bool = Field(default=True, description="Leave out items of the history.")
    explain: bool = Field(default=False, description="Say which items of the history led to each item.")


class SearchChoices(Choices):
    """A search."""

    q: str = Field(min_length=1, max_length=500, description="The text.", examples=["wooden doll house"])


class SessionEvent(BaseModel):
    """Something that was done in a session."""

    model_config = ConfigDict(extra="forbid")

    item_id: Id
    event_type: EventType | None = Field(
        default=None, description="By default `view`, or the first type that histories are made of."
    )
    time: AwareDatetime | None = Field(default=None, description="By default now.")


class SessionRequest(HistoryChoices):
    """A history to continue, and what the answer may hold."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"history": [{"item_id": "i00012"}, {"item_id": "i00420", "event_type": "cart"}], "k": 5}
            ]
        },
    )

    history: list[SessionEvent] = Field(min_length=1, max_length=200, description="Oldest first.")


class Event(BaseModel):
    """Something a user did."""

    model_config = ConfigDict(extra="forbid")

    event_id: Id = Field(description="Yours, and for ever: an event that was sent twice counts once.")
    user_id: Id
    event_type: EventType
    item_id: Id | None = Field(default=None, description="Only a search may name no item.")
    time: AwareDatetime | None = Field(default=None, description="By default now; never in the future.")
    session_id: Id | None = None
    value: float | None = Field(default=None, description="Such as a price or a rating.", allow_inf_nan=False)
    query: str | None = Field(default=None, max_length=500)
    position: int | None = Field(default=None, ge=0, le=2**31 - 1)


class EventBatch(BaseModel):
    """Events, in order of arrival."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "event_id": "web-1",
                            "user_id": "u000123",
                            "event_type": "cart",
                            "item_id": "i00042",
                        }
                    ]
                }
            ]
        },
    )

    events: list[Event] = Field(min_length=1, max_length=1000)


class Receipt(BaseModel):
    """What became of posted events."""

    accepted: int = Field(description="Written down now, for the next night.")
    duplicates: int = Field(description="Written down before.")
    online: int = Field(description="Seen by the next request.")
    reason: str = Field(description="Why the others are not seen before the next night; empty where all are.")


class Status(BaseModel):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class Health(BaseModel):
    """The service can answer, and with what."""

    status: Literal["ok", "degraded"] = Field(
        description="`degraded`: without what is `missing`, or not with what was published last."
    )
    missing: list[str]
    stale: str = Field(
        description="Why what was published last is not served; empty where it is. It is tried again every 30 seconds."
    )
    versions: dict[str, str]
    text_search: str = Field(description="`ready`, or why texts cannot be searched for.")
    checked: datetime
