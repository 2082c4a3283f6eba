from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from simulated import SMALL, Simulated

from orchestration.simulate import SimulationConfig
from orchestration.simulate.events import DAY_MS, EVENT_TYPES, Events, World, day_chunks, events_per_day
from orchestration.simulate.run import build_world

TYPES = {"impression", "view", "cart", "purchase", "search"}


def all_events(world: World) -> Events:
    return Events.concatenate([e for day in range(world.config.days) for _, e in day_chunks(world, day)])


def test_every_line_has_the_fields_of_the_contract(clean: Simulated) -> None:
    for event in clean.events():
        assert {"id", "ts", "type", "user", "session"} <= event.keys()
        assert event.keys() <= {"id", "ts", "type", "user", "session", "item", "price", "query", "pos"}
        assert event["type"] in TYPES
        assert type(event["ts"]) is int
        assert ("query" in event, "item" in event) == (event["type"] == "search", event["type"] != "search")
        assert ("price" in event) == (event["type"] in {"view", "cart", "purchase"})
        assert ("pos" in event) == (event["type"] in {"impression", "view"})


def test_each_day_has_a_file_holding_that_day(clean: Simulated) -> None:
    days = [day for day, _ in clean.files("events")]
    assert days == [SMALL.start + timedelta(days=n) for n in range(SMALL.days)]
    assert [len(lines) for _, lines in clean.files("events")] == events_per_day(SMALL).tolist()
    for day, lines in clean.files("events"):
        for line in lines:
            assert datetime.fromtimestamp(json.loads(line)["ts"] / 1000, UTC).date() == day


def test_exactly_the_configured_number_of_events_happens(clean: Simulated, small: Simulated) -> None:
    ids = [event["id"] for event in clean.events()]
    assert len(ids) == len(set(ids)) == SMALL.events == clean.report.events == small.report.events
    assert clean.report.types == Counter(event["type"] for event in clean.events())


def test_the_funnel_narrows_and_every_step_has_its_earlier_one(clean: Simulated) -> None:
    counts = clean.report.types
    assert counts["impression"] > counts["view"] > counts["cart"] > counts["purchase"] > 0
    assert counts["search"] > 0
    # The last session of a day may be cut off at the end of the log, but only there: first steps come first.
    done = defaultdict(set)
    for event in sorted(clean.events(), key=lambda e: (e["ts"], e["id"])):
        key = (event["session"], event.get("item"))
        before = {"view": "impression", "cart": "view", "purchase": "cart"}.get(event["type"])
        assert before is None or before in done[key]
        done[key].add(event["type"])


def test_a_session_is_one_users_and_short(clean: Simulated) -> None:
    sessions = defaultdict(list)
    for event in clean.events():
        sessions[event["session"]].append(event)
    assert all(len({event["user"] for event in events}) == 1 for events in sessions.values())
    spans = [max(e["ts"] for e in events) - min(e["ts"] for e in events) for events in sessions.values()]
    assert max(spans) < 3 * 3_600_000


def test_without_disorder_a_file_is_sorted_by_time(clean: Simulated) -> None:
    for _, lines in clean.files("events"):
        times = [json.loads(line)["ts"] for line in lines]
        assert times == sorted(times)


def test_nothing_is_seen_before_its_launch_and_prices_are_the_days(clean: Simulated) -> None:
    prices: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for item in clean.items():
        prices[item["id"]].append((item["ts"], item["price"]))
    assert len(prices) == SMALL.items
    assert sum(len(history) > 1 for history in prices.values()) > 10
    assert any(history[0][0] % DAY_MS == 0 for history in prices.values())  # launched within the period
    for event in clean.events():
        if "item" in event:
            listed = [price for since, price in prices[event["item"]] if since <= event["ts"]]
            assert listed
            assert event.get("price", listed[-1]) == listed[-1]


def test_item_files_hold_what_is_new_that_day(clean: Simulated) -> None:
    first, *others = clean.files("items")
    assert len(first[1]) > 0.7 * SMALL.items
    for day, lines in others:
        midnight = datetime.combine(day, datetime.min.time(), UTC).timestamp() * 1000
        assert {json.loads(line)["ts"] for line in lines} == {midnight}


def test_popularity_is_a_power_law_and_users_are_dense() -> None:
    config = SimulationConfig()
    events = all_events(build_world(config))
    views = np.sort(
        np.bincount(events.item[events.kind == EVENT_TYPES.index("view")], minlength=config.items)
    )[::-1]
    assert views[: config.items // 10].sum() > 0.45 * views.sum()
    # Nearly straight on log-log axes, over two and a half decades.
    ranks = np.log(np.arange(1, 301))
    slope, _ = np.polyfit(ranks, np.log(views[:300]), 1)
    assert -0.9 < slope < -0.4
    assert np.corrcoef(ranks, np.log(views[:300]))[0, 1] < -0.98
    interacted = np.unique(
        np.stack([events.user, events.item])[:, events.kind >= EVENT_TYPES.index("view")], axis=1
    )
    per_user = np.bincount(interacted[0])
    assert np.median(per_user[per_user > 0]) >= 8


def test_next_items_are_learnable_beyond_popularity(clean: Simulated) -> None:
    """Predict each session's last step from the pairs of all earlier steps: far better than the most popular item."""
    sessions = defaultdict(list)
    for event in clean.events():
        if event["type"] == "view":
            sessions[event["session"]].append(event["item"])
    following: dict[str, Counter[str]] = defaultdict(Counter)
    popular: Counter[str] = Counter()
    for items in sessions.values():
        popular.update(items[:-1])
        for a, b in pairwise(items[:-1]):
            following[a][b] += 1
    tested = [items[-2:] for items in sessions.values() if len(items) > 2]
    by_pair = sum(b in [i for i, _ in following[a].most_common(10)] for a, b in tested)
    by_popularity = sum(b in [i for i, _ in popular.most_common(10)] for _, b in tested)
    assert by_pair > 1.4 * by_popularity


def test_a_day_does_not_depend_on_the_days_before(world: World) -> None:
    whole = [e for day in range(4) for _, e in day_chunks(world, day)][3]
    (_, alone), *rest = day_chunks(world, 3)
    assert not rest
    for name in ("kind", "user", "item", "session", "ts", "position", "price", "number"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(alone, name))


def test_a_long_day_comes_in_parts_that_do_not_overlap() -> None:
    config = SimulationConfig(items=50, users=40, events=6_000, days=2, chunk=300)
    world = build_world(config)
    parts = list(day_chunks(world, 1))
    assert len(parts) == -(-events_per_day(config)[1] // 300)
    assert max(len(events) for _, events in parts) <= 300
    starts = [DAY_MS, *(end for end, _ in parts[:-1])]
    for start, (end, events) in zip(starts, parts, strict=True):
        assert start <= events.ts.min() < end
        assert events.ts.max() < 2 * DAY_MS
    assert parts[-1][0] == 2 * DAY_MS
    sessions = [set(events.session.tolist()) for _, events in parts]
    assert all(a.isdisjoint(b) for a, b in pairwise(sessions))
    numbers = np.concatenate([events.number for _, events in parts])
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))


def test_interests_drift(world: World) -> None:
    rows = np.arange(SMALL.users)
    early, middle, late = (world.users.interests(rows, p, world.catalogue) for p in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(np.linalg.norm(late, axis=1), 1, atol=1e-5)
    assert (early * late).sum(axis=1).mean() < (middle * late).sum(axis=1).mean() < 0.99


def test_users_look_at_what_they_like(world: World) -> None:
    events = all_events(world)
    views = events.kind == EVENT_TYPES.index("view")
    interests = world.users.interests(events.user[views], 0.5, world.catalogue)
    viewed = (interests * world.catalogue.factors[events.item[views]]).sum(axis=1).mean()
    shuffled = np.random.default_rng(0).permutation(events.item[views])
    anybody = (interests * world.catalogue.factors[shuffled]).sum(axis=1).mean()
    assert viewed > anybody + 0.2


@pytest.mark.parametrize(("days", "events"), [(1, 1), (3, 2), (2, 5_000)])
def test_days_share_out_all_events(days: int, events: int) -> None:
    shared = events_per_day(SimulationConfig(days=days, events=events))
    assert len(shared) == days
    assert shared.sum() == events
    assert shared.min() >= 0
