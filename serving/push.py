"""Events of the last minutes into the online histories, before a night has seen them.

A pushed history is what the warehouse would make of the same events (``ftr_user__history``): each item once, at its first
event, ordered by time, at equal times by arrival; the last :data:`HISTORY_LENGTH` of them. Pushing an event again changes
nothing, and a late one takes its right place. What cannot be known from the last items alone is left to the night:

* an item whose first event is older than those shown counts as new when it is seen again;
* a late event that lies before the oldest item shown is left out;
* times are compared in milliseconds, as histories hold them.

The next materialization puts back what the warehouse says, whether it has the events or not; events that the night had not
read yet may be pushed again after it. Activity counts are not pushed: they cover windows that end at midnight.

There is one writer (:func:`serving.feature_store.writing`), across processes: a push reads, appends and writes alone,
and waits while features are materialized. Readers never wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from serving.feature_store import (
    FeatureStoreError,
    online_errors,
    open_store,
    quiet,
    require_online_file,
    writing,
)
from serving.features import Clock, decode, entity_keys, wall_clock
from serving.online_keys import PushedKeys

VIEW = "user_history"
HISTORY_LENGTH = 50
"""Items that a history shows; the variable ``history_length`` of the dbt project."""
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PushedEvent:
    """Something a user did: of a type that histories are made of, at a time with a time zone."""

    user_id: str
    item_id: str
    event_type: str
    time: datetime


@dataclass(frozen=True)
class Entry:
    """An item of a history, with the type and time (milliseconds since the epoch) of its first event."""

    item: str
    kind: str
    ts: int


@dataclass(frozen=True)
class OnlineHistory:
    """What the online store holds of a user.

    Parameters
    ----------
    entries
        Oldest first.
    length
        Items of the whole history, of which these are the latest.
    known_at
        Event time of the row; the epoch where there is none.
    """

    entries: tuple[Entry, ...] = ()
    length: int = 0
    known_at: datetime = _EPOCH


def push_events(home: Path, events: Sequence[PushedEvent], clock: Clock = wall_clock) -> int:
    """Put events into the online histories of their users; the next read shows them.

    Parameters
    ----------
    home
        ``TESSERA_HOME``, with definitions applied.
    events
        In order of arrival.
    clock
        What counts as now.

    Returns
    -------
    int
        Histories that changed.

    Raises
    ------
    FeatureStoreError
        If an event has no user, item or type, has no time zone or lies in the future, if nothing is applied, or if
        Redis does not answer. Nothing is written then.
    """
    now = clock()
    by_user: dict[str, list[PushedEvent]] = {}
    for event in events:
        _check(event, now)
        by_user.setdefault(event.user_id, []).append(event)
    if not by_user:
        return 0
    with writing(home), online_errors():
        store = open_store(home)
        view = _view(store, home)
        if store.config.online_store.type == "sqlite":
            require_online_file(Path(store.config.online_store.path))
        before = _read(store, view, list(by_user))
        after = {
            user: updated
            for user, history in before.items()
            if (updated := with_events(history, by_user[user])) != history
        }
        if after:
            PushedKeys(home, VIEW).add(after)
            _write(store, view, after)
    return len(after)


def with_events(history: OnlineHistory, events: Iterable[PushedEvent]) -> OnlineHistory:
    """Return a history with events added, in order of their arrival; the module says by which rule."""
    entries, length, known_at = list(history.entries), history.length, history.known_at
    for event in events:
        new = Entry(event.item_id, event.event_type, (event.time - _EPOCH) // _MILLISECOND)
        same = next((place for place, entry in enumerate(entries) if entry.item == new.item), None)
        hidden = length > len(entries)
        if same is not None and entries[same].ts <= new.ts:
            continue
        if hidden and entries and new.ts < entries[0].ts:
            continue
        if same is None:
            length += 1
        else:
            del entries[same]
        place = sum(entry.ts <= new.ts for entry in entries)
        entries.insert(place, new)
        entries = entries[-HISTORY_LENGTH:]
        known_at = max(known_at, event.time)
    return OnlineHistory(tuple(entries), length, known_at)


def _check(event: PushedEvent, now: datetime) -> None:
    if not (event.user_id and event.item_id and event.event_type):
        raise FeatureStoreError(f"a pushed event needs a user, an item and a type: {event}")
    if event.time.tzinfo is None:
        raise FeatureStoreError(f"a pushed event needs a time with a time zone: {event}")
    if event.time > now:
        raise FeatureStoreError(f"a pushed event lies in the future of {now.isoformat()}: {event}")


def _view(store: Any, home: Path) -> Any:
    from feast.errors import FeatureViewNotFoundException

    try:
        return store.get_feature_view(VIEW)
    except FeatureViewNotFoundException:
        raise FeatureStoreError(
            f"{home / 'feast'} has no feature view {VIEW}: apply the definitions first"
        ) from None


def _read(store: Any, view: Any, users: list[str]) -> dict[str, OnlineHistory]:
    names = [feature.name for feature in view.features]
    found = store.provider.online_read(store.config, view, entity_keys("user_id", users), list(names))
    histories = {}
    for user, (written, stored) in zip(users, found, strict=True):
        if written is None or written <= _EPOCH:
            histories[user] = OnlineHistory()
            continue
        values = {name: decode(stored[name]) for name in names}
        columns = (values["recent_items"] or [], values["recent_types"] or [], values["recent_ts"] or [])
        entries = tuple(Entry(*entry) for entry in zip(*columns, strict=True))
        histories[user] = OnlineHistory(entries, int(values["history_length"] or 0), written)
    return histories


def _write(store: Any, view: Any, histories: dict[str, OnlineHistory]) -> None:
    import pandas as pd

    rows = [
        {
            "user_id": user,
            "recent_items": [entry.item for entry in history.entries],
            "recent_types": [entry.kind for entry in history.entries],
            "recent_ts": [entry.ts for entry in history.entries],
            "history_length": history.length,
            "event_timestamp": history.known_at,
            "created_timestamp": history.known_at,
        }
        for user, history in histories.items()
    ]
    with quiet():
        # What Feast's push ends in; before that it reads every view and service there is, which costs more than the rest.
        store.provider.ingest_df(view, pd.DataFrame(rows))
