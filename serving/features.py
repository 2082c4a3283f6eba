"""Features at request time, with their age enforced: Feast itself serves values however old they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Any

from serving.feature_store import FeatureStoreError, open_store

Clock = Callable[[], datetime]
UNKNOWN = "unknown"
_TIMESTAMP = "__ts"


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
    """What is known of a user, and why the rest is not: ``absent`` maps a view to the reason in words."""

    user_id: str
    history: History | None = None
    activity: Mapping[str, Any] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


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
        self._store = open_store(home)
        self._features: dict[str, list[str]] = {}
        self._limits: dict[str, timedelta] = {}
        for view in self._store.list_feature_views():
            self._features[view.name] = [feature.name for feature in view.features]
            self._limits[view.name] = view.ttl if max_age is None else min(view.ttl, max_age)
        for name in ("user_activity", "user_history", "item_stats"):
            if name not in self._features:
                raise FeatureStoreError(
                    f"{home / 'feast'} has no feature view {name}: apply the definitions first"
                )

    def user(self, user_id: str) -> UserFeatures:
        """Return what is known of a user; everything is absent for a user who was never seen."""
        values, absent = self._read("user_id", [user_id], ("user_activity", "user_history"))[0]
        history = values.get("user_history")
        return UserFeatures(
            user_id=user_id,
            history=None if history is None else _history(history),
            activity=values.get("user_activity"),
            absent=absent,
        )

    def items(self, item_ids: Sequence[str]) -> list[ItemFeatures]:
        """Return what is known of each item, in the order given."""
        rows = self._read("item_id", list(item_ids), ("item_stats",)) if item_ids else []
        return [
            ItemFeatures(item_id=item_id, stats=values.get("item_stats"), absent=absent)
            for item_id, (values, absent) in zip(item_ids, rows, strict=True)
        ]

    def _read(
        self, key: str, entities: list[str], views: Sequence[str]
    ) -> list[tuple[dict[str, dict[str, Any]], dict[str, str]]]:
        """Return for each entity the values by view, and the reason by view that has none."""
        columns = self._store.get_online_features(
            features=[f"{view}:{name}" for view in views for name in self._features[view]],
            entity_rows=[{key: entity} for entity in entities],
            full_feature_names=True,
        ).to_dict(include_event_timestamps=True)
        now = self._clock()
        rows = []
        for row in range(len(entities)):
            values: dict[str, dict[str, Any]] = {}
            absent: dict[str, str] = {}
            for view in views:
                names = self._features[view]
                written = columns[f"{view}__{names[0]}{_TIMESTAMP}"][row]
                if reason := self._refusal(view, written, now):
                    absent[view] = reason
                else:
                    values[view] = {name: _value(columns[f"{view}__{name}"][row]) for name in names}
            rows.append((values, absent))
        return rows

    def _refusal(self, view: str, written: int, now: datetime) -> str | None:
        # Second 0 stands for "no such entity", and for one whose values were blanked.
        if written <= 0:
            return UNKNOWN
        age = now - datetime.fromtimestamp(written, UTC)
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


def _value(value: Any) -> Any:
    """Return None for a missing number, which the online store holds as NaN."""
    return None if isinstance(value, float) and isnan(value) else value
