"""A pushed history is what the warehouse makes of the same events, until the night puts back what it says."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from feature_marts import day, row, write_marts
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import push
from serving.feature_store import FeatureStoreError, apply_definitions
from serving.features import FeatureLookup
from serving.materialize import materialize
from serving.push import Entry, OnlineHistory, PushedEvent, push_events, with_events

NOW = day(20)


def event(user: str, item: str, at: float, kind: str = "view") -> PushedEvent:
    return PushedEvent(user, item, kind, day(at))


def history(events: list[PushedEvent], shown: int) -> OnlineHistory:
    """Brute-force twin of ftr_user__history: the first event on each item, by time and then arrival."""
    ordered = sorted(enumerate(events), key=lambda pair: (pair[1].time, pair[0]))
    first: dict[str, Entry] = {}
    for _, e in ordered:
        first.setdefault(e.item_id, Entry(e.item_id, e.event_type, round(e.time.timestamp() * 1000)))
    # As many as are shown; those before them are only counted.
    return OnlineHistory(tuple(first.values())[-shown:], len(first))


EVENTS = st.lists(
    st.builds(
        lambda item, at, kind: event("u", f"i{item}", at / 8, kind),
        st.integers(0, 9),
        st.integers(0, 40),
        st.sampled_from(["view", "cart"]),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 20), max_size=3))
def test_any_order_of_arrival_builds_what_the_warehouse_builds(
    events: list[PushedEvent], cuts: list[int]
) -> None:
    pushed = OnlineHistory()
    ends = [*sorted(cuts), len(events)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        # Each push repeats all before it.
        pushed = with_events(with_events(pushed, events[start:end]), events[:end])
    expected = history(events, push.HISTORY_LENGTH)
    assert (pushed.entries, pushed.length) == (expected.entries, expected.length)
    assert pushed.known_at <= max((e.time for e in events), default=push._EPOCH)


@settings(deadline=None)
@given(EVENTS)
def test_histories_longer_than_shown_are_right_as_far_as_they_can_be_known(events: list[PushedEvent]) -> None:
    # In order of time, and no item comes back once it has left the items shown: that is what cannot be known.
    events = sorted(events, key=lambda e: e.time)
    kept: list[PushedEvent] = []
    for e in events:
        told = history(kept, 4)
        if e.item_id in {k.item_id for k in kept} - {entry.item for entry in told.entries}:
            continue
        kept.append(e)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(push, "HISTORY_LENGTH", 4)
        pushed = OnlineHistory()
        for e in kept:
            pushed = with_events(with_events(pushed, [e]), [e])
        # A late event before all that is shown is left to the night where some are not shown; twice is like once.
        late = event("u", "late", -1)
        once = with_events(pushed, [late])
        again = with_events(once, [late])
    expected = history(kept, 4)
    assert (pushed.entries, pushed.length) == (expected.entries, expected.length)
    assert again == once
    assert once.length == pushed.length + (pushed.length <= 4)


def test_as_many_items_are_shown_as_the_warehouse_shows() -> None:
    project = Path(__file__).parents[2] / "dbt_project" / "dbt_project.yml"
    assert yaml.safe_load(project.read_text())["vars"]["history_length"] == push.HISTORY_LENGTH


def lookup(home: Path, now: datetime = NOW) -> FeatureLookup:
    return FeatureLookup(home, clock=lambda: now)


def shown(reader: FeatureLookup, user: str) -> tuple[list[str], list[str], int] | None:
    found = reader.user(user).history
    return None if found is None else (found.items, found.types, found.length)


@pytest.fixture
def home(tmp_path: Path, either_store: str) -> Path:
    """Return a home whose users u2 and u9 have histories of two items, as of day 10."""
    assert either_store
    write_marts(tmp_path, [row("u2", 10, 2), row("u9", 10, 9)], [row("i0", 1, 1)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(11))
    return tmp_path


def test_next_read_shows_what_was_pushed(home: Path) -> None:
    reader = lookup(home)
    assert shown(reader, "u2") == (["i2", "i3"], ["view", "view"], 2)
    events = [event("u2", "new", 12, "cart"), event("u2", "i3", 13), event("fresh", "a", 14)]

    assert push_events(home, events, clock=lambda: NOW) == 2
    assert shown(reader, "u2") == (["i2", "i3", "new"], ["view", "view", "cart"], 3)
    assert shown(reader, "fresh") == (["a"], ["view"], 1)
    found = reader.user("u2").history
    assert found is not None
    assert found.times[-1] == int(day(12).timestamp() * 1e6)
    # Once more changes nothing, and a late event goes where it belongs.
    assert push_events(home, events, clock=lambda: NOW) == 0
    assert push_events(home, [event("u2", "new", 11.5), event("u2", "late", 11.8)], clock=lambda: NOW) == 1
    assert shown(reader, "u2") == (["i2", "i3", "new", "late"], ["view"] * 4, 4)
    # Nobody else was touched.
    assert shown(reader, "u9") == (["i9", "i10"], ["view", "view"], 9)


def test_age_is_that_of_the_pushed_event(home: Path) -> None:
    push_events(home, [event("u2", "new", 12)], clock=lambda: NOW)
    assert shown(lookup(home, day(12 + 730)), "u2") is not None
    assert lookup(home, day(13 + 730)).user("u2").absent["user_history"] == "731.0 days old, older than 730"
    # A late event does not make a history older.
    push_events(home, [event("u9", "late", 3)], clock=lambda: NOW)
    assert shown(lookup(home, day(10 + 730)), "u9") is not None


@pytest.mark.parametrize("rebuild", [False, True])
def test_night_puts_back_what_the_warehouse_says(home: Path, rebuild: bool) -> None:
    reader = lookup(home)
    events = [event("u2", "lost", 12), event("u9", "kept", 12), event("fresh", "a", 12)]
    push_events(home, events, clock=lambda: NOW)

    # The night has read u9's event only: the others never arrived.
    users = [row("u2", 10, 2), row("u9", 10, 9), row("u9", 13, 10)]
    write_marts(home, [row("u1", 1, 1), *users] if rebuild else users, [row("i0", 1, 1)])
    done = materialize(home, day(14))["user_history"]

    assert done.rebuilt == rebuild
    assert shown(reader, "u2") == (["i2", "i3"], ["view", "view"], 2)
    assert shown(reader, "u9") == (["i10", "i11", "i12"], ["view"] * 3, 10)
    assert shown(reader, "fresh") is None
    # It is done once.
    assert materialize(home, day(15))["user_history"].restored == 0
    push_events(home, events, clock=lambda: NOW)
    assert shown(reader, "fresh") == (["a"], ["view"], 1)


def test_pushes_side_by_side_lose_nothing(home: Path) -> None:
    def post(writer: int) -> None:
        for n in range(4):
            push_events(home, [event("u2", f"w{writer}-{n}", 12 + n / 10)], clock=lambda: NOW)

    threads = [threading.Thread(target=post, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = shown(lookup(home), "u2")
    assert found is not None
    assert set(found[0]) == {"i2", "i3"} | {f"w{writer}-{n}" for writer in range(3) for n in range(4)}
    assert found[2] == 14


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"user_id": ""}, "needs a user, an item and a type"),
        ({"time": datetime(2014, 1, 2)}, "needs a time with a time zone"),
        ({"time": NOW + timedelta(seconds=1)}, "lies in the future"),
    ],
)
def test_wrong_events_are_refused_as_a_whole(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    right = {"user_id": "u2", "item_id": "x", "event_type": "view", "time": day(12)}
    with pytest.raises(FeatureStoreError, match=told):
        push_events(tmp_path, [PushedEvent(**right), PushedEvent(**right | wrong)], clock=lambda: NOW)
    with pytest.raises(FeatureStoreError, match="apply the definitions first"):
        push_events(tmp_path, [PushedEvent(**right)], clock=lambda: NOW)
    assert push_events(tmp_path, []) == 0
