"""The marts once more, by brute force: as the contract reads, with no thought of cost."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from warehouse_lakes import HISTORY_LENGTH, Event, Item, Log

HISTORY_TYPES = {
    "view",
    "click",
    "cart",
    "purchase",
    "rating",
    "like",
    "follow",
    "comment",
    "bookmark",
    "share",
}
COUNTED = ("impression", "view", "click", "cart", "purchase", "rating")
EVER = datetime.min.replace(tzinfo=UTC)

Row = dict[str, Any]


def events_once(log: Log) -> list[Event]:
    """Return the first delivery of every event, by event_id."""
    first: dict[str, Event] = {}
    for event in log.events:
        kept = first.setdefault(event.event_id, event)
        if _delivery(event) < _delivery(kept):
            first[event.event_id] = event
    return [first[event_id] for event_id in sorted(first)]


def catalogue_at(log: Log, item_id: str, moment: datetime, inclusive: bool) -> Item | None:
    """Return the entry of an item that holds at ``moment`` (or, exclusive, just before it)."""
    entries = [
        item
        for item in log.items
        if item.item_id == item_id
        and ((item.valid_from or EVER) < moment or (inclusive and item.valid_from == moment))
    ]
    return max(entries, key=lambda item: (item.valid_from or EVER, item.source_row), default=None)


def history(events: Iterable[Event]) -> list[Event]:
    """Return the first interactions of one user with each item, in order."""
    entries: dict[str, Event] = {}
    for event in sorted(filter(_is_interaction, events), key=_order):
        entries.setdefault(str(event.item_id), event)
    return list(entries.values())


def user_histories(log: Log) -> list[Row]:
    return [
        {
            "user_id": user_id,
            "position": position,
            "item_id": event.item_id,
            "event_type": event.event_type,
            "event_ts": event.event_ts,
            "value": event.value,
        }
        for user_id, events in _by(events_once(log), "user_id")
        for position, event in enumerate(history(events), start=1)
    ]


def item_transitions(log: Log) -> list[Row]:
    steps: Counter[tuple[str | None, str | None]] = Counter()
    for _, events in _by(events_once(log), "user_id"):
        entries = history(events)
        steps.update((a.item_id, b.item_id) for a, b in itertools.pairwise(entries))
    return [{"item_id": a, "next_item_id": b, "n": n} for (a, b), n in sorted(steps.items())]


def dim_items(log: Log) -> list[Row]:
    events = dict(_by(events_once(log), "item_id"))
    described = {item.item_id for item in log.items}
    result = []
    for item_id in sorted(described | events.keys()):
        item = catalogue_at(log, item_id, datetime.max.replace(tzinfo=UTC), inclusive=False)
        result.append(
            {
                "item_id": item_id,
                "title": item and item.title,
                "categories": [item.category, f"{item.category}/fine"] if item and item.category else None,
                "price": item and item.price,
                "valid_from": item and item.valid_from,
                "first_event_ts": min((e.event_ts for e in events.get(item_id, [])), default=None),
                "has_metadata": item is not None,
            }
        )
    return result


def dim_users(log: Log) -> list[Row]:
    return [
        {
            "user_id": user_id,
            "first_event_ts": min(e.event_ts for e in events),
            "last_event_ts": max(e.event_ts for e in events),
            "n_events": len(events),
            "n_interactions": sum(map(_is_interaction, events)),
        }
        for user_id, events in _by(events_once(log), "user_id")
    ]


def item_daily(log: Log) -> list[Row]:
    result = []
    for item_id, events in _by(events_once(log), "item_id"):
        for day in sorted({e.event_ts.date() for e in events}):
            of_day = [e for e in events if e.event_ts.date() == day]
            values = [e.value for e in of_day if e.value is not None]
            result.append(
                {"item_id": item_id, "event_date": day}
                | _type_counts(of_day)
                | {
                    "users": len({e.user_id for e in of_day if _is_interaction(e)}),
                    "value_sum": sum(values) if values else None,
                }
            )
    return result


def user_daily(log: Log) -> list[Row]:
    result = []
    for user_id, events in _by(events_once(log), "user_id"):
        for day in sorted({e.event_ts.date() for e in events}):
            of_day = [e for e in events if e.event_ts.date() == day]
            result.append(
                {"user_id": user_id, "event_date": day}
                | _type_counts(of_day)
                | {
                    "items": len({e.item_id for e in of_day if _is_interaction(e)}),
                    "sessions": len({e.session_id for e in of_day} - {None}),
                }
            )
    return result


def user_activity(log: Log) -> list[Row]:
    result = []
    for user_id, day, known in _known(log, "user_id"):
        at = _midnight_after(day)
        interactions = list(filter(_is_interaction, known))
        month = _since(known, day, 30)
        prices = [
            item.price
            for e in filter(_is_interaction, month)
            if (item := catalogue_at(log, str(e.item_id), e.event_ts, inclusive=True))
            and item.price is not None
        ]
        categories = Counter(
            item.category
            for e in interactions
            if (item := catalogue_at(log, str(e.item_id), e.event_ts, inclusive=True)) and item.category
        )
        result.append(
            {
                "user_id": user_id,
                "event_timestamp": at,
                "created_timestamp": at,
                "events_1d": len(_since(known, day, 1)),
                "events_7d": len(_since(known, day, 7)),
                "interactions_7d": sum(map(_is_interaction, _since(known, day, 7))),
                "interactions_30d": sum(map(_is_interaction, month)),
                "views_30d": sum(e.event_type == "view" for e in month),
                "carts_30d": sum(e.event_type == "cart" for e in month),
                "purchases_30d": sum(e.event_type == "purchase" for e in month),
                "days_since_last": _days(max(e.event_ts for e in interactions), at) if interactions else None,
                "tenure_days": _days(min(e.event_ts for e in known), at),
                "favourite_category": min(categories, key=lambda c: (-categories[c], c), default=None),
                "mean_price_30d": sum(prices) / len(prices) if prices else None,
            }
        )
    return result


def user_history(log: Log) -> list[Row]:
    result = []
    for user_id, day, known in _known(log, "user_id"):
        entries = history(known)
        recent = entries[-HISTORY_LENGTH:]
        result.append(
            {
                "user_id": user_id,
                "event_timestamp": _midnight_after(day),
                "created_timestamp": _midnight_after(day),
                "recent_items": [e.item_id for e in recent],
                "recent_types": [e.event_type for e in recent],
                "recent_ts": [int(e.event_ts.timestamp() * 1000) for e in recent],
                "history_length": len(entries),
            }
        )
    return result


def item_stats(log: Log) -> list[Row]:
    result = []
    for item_id, day, known in _known(log, "item_id"):
        at = _midnight_after(day)
        week, month = _since(known, day, 7), _since(known, day, 30)
        views = sum(e.event_type == "view" for e in month)
        purchases = sum(e.event_type == "purchase" for e in month)
        item = catalogue_at(log, item_id, at, inclusive=False)
        launches = [
            i.valid_from for i in log.items if i.item_id == item_id and i.valid_from and i.valid_from < at
        ]
        result.append(
            {
                "item_id": item_id,
                "event_timestamp": at,
                "created_timestamp": at,
                "impressions_7d": sum(e.event_type == "impression" for e in week),
                "views_7d": sum(e.event_type == "view" for e in week),
                "interactions_7d": sum(map(_is_interaction, week)),
                "interactions_30d": sum(map(_is_interaction, month)),
                "purchases_30d": purchases,
                "users_30d": len({e.user_id for e in month if _is_interaction(e)}),
                "conversion_30d": purchases / views if views else None,
                "age_days": _days(min([e.event_ts for e in known] + launches), at),
                "price": item and item.price,
            }
        )
    return result


def _delivery(event: Event) -> tuple[date, str, int]:
    return event.arrival_date, event.source_file, event.source_row


def _order(event: Event) -> tuple[datetime, date, str, int]:
    return event.event_ts, *_delivery(event)


def _is_interaction(event: Event) -> bool:
    return event.item_id is not None and event.event_type in HISTORY_TYPES


def _by(events: Iterable[Event], name: str) -> Iterator[tuple[str, list[Event]]]:
    events = [e for e in events if getattr(e, name) is not None]
    for key in sorted({getattr(e, name) for e in events}):
        yield key, [e for e in events if getattr(e, name) == key]


def _known(log: Log, name: str) -> Iterator[tuple[str, date, list[Event]]]:
    """Yield each entity, each day on which something became known of it, and all that was known by its end."""
    for key, events in _by(events_once(log), name):
        days = {e: max(e.arrival_date, e.event_ts.date()) for e in events}
        for day in sorted(set(days.values())):
            yield key, day, [e for e in events if days[e] <= day]


def _since(events: Iterable[Event], day: date, days: int) -> list[Event]:
    """Return the events of the last ``days`` dates up to ``day``."""
    return [e for e in events if e.event_ts >= _midnight_after(day) - timedelta(days=days)]


def _midnight_after(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


def _days(earlier: datetime, later: datetime) -> float:
    return (later - earlier) / timedelta(days=1)


def _type_counts(events: list[Event]) -> dict[str, int]:
    counts = {f"{name}s": sum(e.event_type == name for e in events) for name in COUNTED}
    other = sum(e.event_type not in COUNTED for e in events)
    return counts | {"other": other, "interactions": sum(map(_is_interaction, events))}
