"""Features at request time, with their age enforced: Feast itself serves values however old they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Any

from serving.feature_store import (
    FeatureStoreError,
    online_errors,
    online_file,
    open_store,
    require_online_file,
)

Clock = Callable[[], datetime]
UNKNOWN = "unknown"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def wall_clock() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class History:
    """A user's latest distinct items, oldest first.

    Parameters
    ----------
    items
        Item IDs.
    types
        Event type of the first event on each.
    times
        Time of that event, in microseconds since the epoch.
    length
        Items in the whole history, of which these are the latest.
    """

    items: list[str]
    types: list[str]
    times: list[int]
    length: int


@dataclass(frozen=True)
class UserFeatures:
    """What is known of a user, and why the rest is not: ``absent`` maps a view to the reason in words.

    ``history_age`` is how old the history is.
    """

    user_id: str
    history: History | None = None
    activity: Mapping[str, Any] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    history_age: timedelta | None = None


@dataclass(frozen=True)
class ItemFeatures:
    """What is known of an item, and why the rest is not: ``absent`` maps a view to the reason in words."""

    item_id: str
    stats: Mapping[str, Any] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


class FeatureLookup:
    """Reads the online store.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    clock
        Tells the time (with a time zone) against which age is measured; historic logs ended years ago.
    max_age
        Oldest value to serve; a view's TTL holds where it is shorter.

    Raises
    ------
    FeatureStoreError
        If the definitions have not been applied.
    """

    def __init__(self, home: Path, clock: Clock = wall_clock, max_age: timedelta | None = None) -> None:
        self._clock = clock
        self._home = home
        self._store = open_store(home)
        self._file = online_file(home)
        self._opened: tuple[int, int] | None = None
        self._views: dict[str, Any] = {}
        self._features: dict[str, list[str]] = {}
        self._limits: dict[str, timedelta] = {}
        for view in self._store.list_feature_views():
            self._views[view.name] = view
            self._features[view.name] = [feature.name for feature in view.features]
            self._limits[view.name] = view.ttl if max_age is None else min(view.ttl, max_age)
        for name in ("user_activity", "user_history", "item_stats"):
            if name not in self._features:
                raise FeatureStoreError(
                    f"{home / 'feast'} has no feature view {name}: apply the definitions first"
                )

    def user(self, user_id: str) -> UserFeatures:
        """Return what is known of a user; everything is absent for a user who was never seen."""
        now = self._clock()
        values, absent, written = self._read("user_id", [user_id], ("user_activity", "user_history"), now)[0]
        history = values.get("user_history")
        return UserFeatures(
            user_id=user_id,
            history=None if history is None else _history(history),
            activity=values.get("user_activity"),
            absent=absent,
            history_age=None if history is None else now - written["user_history"],
        )

    def items(self, item_ids: Sequence[str]) -> list[ItemFeatures]:
        """Return what is known of each item, in the order given."""
        rows = self._read("item_id", list(item_ids), ("item_stats",), self._clock()) if item_ids else []
        return [
            ItemFeatures(item_id=item_id, stats=values.get("item_stats"), absent=absent)
            for item_id, (values, absent, _) in zip(item_ids, rows, strict=True)
        ]

    def _read(
        self, key: str, entities: list[str], views: Sequence[str], now: datetime
    ) -> list[tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, datetime]]]:
        """Return for each entity, by view, the values, or the reason why there are none, and when they were true."""
        keys = entity_keys(key, entities)
        rows: list[tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, datetime]]] = [
            ({}, {}, {}) for _ in entities
        ]
        for view in views:
            names = self._features[view]
            for (written, stored), (values, absent, times) in zip(
                self._online(view, keys), rows, strict=True
            ):
                if reason := self._refusal(view, written, now):
                    absent[view] = reason
                else:
                    assert stored is not None
                    assert written is not None
                    values[view] = {name: decode(stored[name]) for name in names}
                    times[view] = written
        return rows

    def _online(self, view: str, keys: list[Any]) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        self._reopen()
        # The store's own read: Feast's get_online_features costs twice as much, and more with each feature.
        with online_errors():
            # The list of names is a copy, for the Redis store adds to it.
            found: list[tuple[datetime | None, dict[str, Any] | None]] = self._store.provider.online_read(
                self._store.config, self._views[view], keys, list(self._features[view])
            )
        return found

    def _reopen(self) -> None:
        """Follow a file that was put in the place of the one that is open, which nobody writes any more."""
        if self._file is None:
            return
        found = require_online_file(self._file)
        if self._opened not in (None, found):
            self._store = open_store(self._home)
        self._opened = found

    def _refusal(self, view: str, written: datetime | None, now: datetime) -> str | None:
        # Second 0 stands for an entity whose values were blanked, and in Redis for one that was never there.
        if written is None or written <= _EPOCH:
            return UNKNOWN
        age = now - written
        limit = self._limits[view]
        if age <= limit:
            return None
        return f"{age / timedelta(days=1):.1f} days old, older than {limit / timedelta(days=1):g}"


def _history(values: Mapping[str, Any]) -> History:
    return History(
        items=list(values["recent_items"] or ()),
        types=list(values["recent_types"] or ()),
        times=[1000 * milliseconds for milliseconds in values["recent_ts"] or ()],
        length=int(values["history_length"] or 0),
    )


def entity_keys(key: str, entities: Sequence[str]) -> list[Any]:
    """Return what the online store knows entities by."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return [EntityKey(join_keys=[key], entity_values=[Value(string_val=entity)]) for entity in entities]


def decode(stored: Any) -> Any:
    """Return a stored value; None for a missing number, which the online store holds as NaN."""
    kind = stored.WhichOneof("val")
    if kind is None:
        return None
    value: Any = getattr(stored, kind)
    if kind.endswith("_list_val"):
        return list(value.val)
    return None if isinstance(value, float) and isnan(value) else value
