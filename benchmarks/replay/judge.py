"""What lists were worth on the day that followed: quality, drift and churn. Pure functions of tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml.artifacts import read_json
from orchestration.quality.drift import grouped, psi, psi_by_chance, quantile_groups

DEPTH = 10
_GROUPS = 20
_PROBABILITY = 0.05


@dataclass(frozen=True)
class Lists:
    """What a night published.

    Parameters
    ----------
    users
        User to items, best first.
    popular
        What a user without a list is served, best first.
    codes
        Item to semantic ID; empty where there are none.
    recipe
        The champion's.
    """

    users: Mapping[str, Sequence[str]]
    popular: Sequence[str]
    codes: Mapping[str, str]
    recipe: str = ""

    def of(self, user: str, seen: Collection[str]) -> Sequence[str]:
        """Return what the service shows a user, who has met ``seen``."""
        shown = self.users.get(user)
        return shown if shown is not None else [item for item in self.popular if item not in seen]


@dataclass(frozen=True)
class Meetings:
    """When each user first met each item.

    Parameters
    ----------
    users, items
        IDs, [n], by time.
    days
        Days since 1970 (UTC), int64 [n].
    """

    users: list[str]
    items: list[str]
    days: NDArray[np.int64]

    def on(self, day: date) -> slice:
        """Return where the meetings of a day are."""
        first, end = np.searchsorted(self.days, [_number(day), _number(day) + 1])
        return slice(int(first), int(end))

    def before(self, day: date) -> slice:
        """Return where the meetings before a day are."""
        return slice(0, int(np.searchsorted(self.days, _number(day))))


def read_meetings(lake: Path, event_types: Sequence[str]) -> Meetings:
    """Read from a lake when each user first met each item by an event of one of these types."""
    files = sorted((lake / "events").glob("day=*/events.parquet"))
    columns = ["user_id", "item_id", "event_type", "event_ts"]
    events = pa.concat_tables([pq.read_table(file, columns=columns, partitioning=None) for file in files])
    told = pc.and_(
        pc.is_in(events["event_type"], pa.array(list(event_types))), pc.is_valid(events["item_id"])
    )
    pairs = events.filter(told).group_by(["user_id", "item_id"]).aggregate([("event_ts", "min")])
    pairs = pairs.sort_by([("event_ts_min", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")])
    days = pc.cast(pairs["event_ts_min"], pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    return Meetings(pairs["user_id"].to_pylist(), pairs["item_id"].to_pylist(), days.astype(np.int64))


def read_lists(folder: Path) -> Lists:
    """Read the lists that `benchmarks.replay.nights.keep` kept."""
    rows = pq.read_table(folder / "recommendations.parquet", columns=["user_id", "rank", "item_id"])
    rows = rows.sort_by([("user_id", "ascending"), ("rank", "ascending")])
    users: dict[str, list[str]] = {}
    for user, item in zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), strict=True):
        users.setdefault(user, []).append(item)
    ids = pq.read_table(folder / "items.parquet", columns=["item_id", "semantic_id"])
    codes = dict(zip(ids["item_id"].to_pylist(), ids["semantic_id"].to_pylist(), strict=True))
    champion = read_json(folder / "champion.json")
    return Lists(users, champion["popular"], codes, champion["recipe"])


def ranks_on(
    day: date, lists: Lists, meetings: Meetings, popular_only: bool = False, depth: int = DEPTH
) -> NDArray[np.int32]:
    """Return the place of each item that a user met for the first time that day, int32 [n] from 1; 0 = not shown.

    Parameters
    ----------
    day
        The day that the lists served.
    lists
        What was published the night before.
    meetings
        All first meetings, those of the day included.
    popular_only
        Whether everybody is shown what is popular.
    depth
        Places that are looked at.
    """
    seen: dict[str, set[str]] = {}
    before, today = meetings.before(day), meetings.on(day)
    asked = set(meetings.users[today])
    for user, item in zip(meetings.users[before], meetings.items[before], strict=True):
        if user in asked:
            seen.setdefault(user, set()).add(item)
    if popular_only:
        lists = Lists({}, lists.popular, {})
    shown = {user: list(lists.of(user, seen.get(user, ()))[:depth]) for user in asked}
    ranks = [
        shown[user].index(item) + 1 if item in shown[user] else 0
        for user, item in zip(meetings.users[today], meetings.items[today], strict=True)
    ]
    return np.array(ranks, dtype=np.int32)


def newcomers_on(day: date, meetings: Meetings, start: date) -> dict[str, float]:
    """Return the share of a day's meetings with users and with items that nobody had heard of before ``start``."""
    before, today = meetings.before(start), meetings.on(day)
    users, items = set(meetings.users[before]), set(meetings.items[before])
    n = max(today.stop - today.start, 1)
    return {
        "new_users": sum(user not in users for user in meetings.users[today]) / n,
        "new_items": sum(item not in items for item in meetings.items[today]) / n,
    }


def drift_on(day: date, meetings: Meetings, start: date, window: int = 7) -> dict[str, float]:
    """Return how far a day's meetings have moved from those of the days before ``start``.

    Items are grouped by how often they were met in the window before ``start``, into groups of about equal weight, and
    one group holds those that nobody met then; the measure is the population stability index over the groups.

    Returns
    -------
    dict
        ``psi``, and ``psi_by_chance``, which two samples of one distribution of these sizes exceed once in twenty times.
    """
    reference = slice(meetings.before(start - timedelta(days=window)).stop, meetings.before(start).stop)
    names, counts = np.unique(meetings.items[reference], return_counts=True)
    place = {name: rank for rank, name in enumerate(names[np.argsort(-counts, kind="stable")].tolist())}
    weights = dict(enumerate(np.sort(counts)[::-1].astype(float).tolist()))
    ends = [*quantile_groups(weights, _GROUPS), len(place) - 1]
    today = meetings.on(day)
    met: dict[int, float] = {}
    for item in meetings.items[today]:
        rank = place.get(item, len(place))
        met[rank] = met.get(rank, 0.0) + 1
    groups = len(ends) + 1
    rows, reference_rows = today.stop - today.start, reference.stop - reference.start
    if not rows or not reference_rows:
        return {"psi": 0.0, "psi_by_chance": 0.0}
    return {
        "psi": psi(grouped(met, ends), grouped(weights, ends)),
        "psi_by_chance": psi_by_chance(groups, rows, reference_rows, _PROBABILITY),
    }


def churn(lists: Lists, before: Lists, depth: int = DEPTH) -> dict[str, float]:
    """Return what part of the lists, and of the semantic IDs, is not what it was the night before.

    Returns
    -------
    dict
        ``lists``: mean over users with a list on both nights of the share of the first ``depth`` places whose item was
        not among them before. ``semantic_ids``: share of items known on both nights that changed their ID.
    """
    both = [user for user in lists.users if user in before.users]
    changed = [
        1 - len({*lists.users[user][:depth]} & {*before.users[user][:depth]}) / len(lists.users[user][:depth])
        for user in both
    ]
    items = [item for item in lists.codes if item in before.codes]
    moved = [lists.codes[item] != before.codes[item] for item in items]
    return {
        "lists": float(np.mean(changed)) if changed else 0.0,
        "semantic_ids": float(np.mean(moved)) if moved else 0.0,
    }


def _number(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // 86_400
