"""What is online is what the marts say; a planted difference is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feature_marts import day, row, write_marts

from serving import materialize as materialize_module
from serving.feature_store import FeatureStoreError, apply_definitions, open_store, quiet
from serving.materialize import materialize
from serving.parity import check_parity
from serving.push import PushedEvent, push_events


@pytest.fixture
def home(tmp_path: Path, either_store: str) -> Path:
    """Return a home of 20 users and an item; users 0 to 4 were last seen 40 days before the end."""
    assert either_store
    users = [row(f"u{n}", 10 if n < 5 else 45 + n / 7, n) for n in range(20)]
    write_marts(tmp_path, users, [row("i0", 49, 3)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(20))
    materialize(tmp_path, day(50))
    return tmp_path


def overwrite(home: Path, user: str, **values: Any) -> None:
    """Put a history online that the marts do not have."""
    store = open_store(home)
    stands = {"recent_items": ["x"], "recent_types": ["view"], "recent_ts": [1], "history_length": 1}
    times = {"event_timestamp": day(10), "created_timestamp": day(10)}
    with quiet():
        store.write_to_online_store(
            "user_history", pd.DataFrame([{"user_id": user} | stands | times | values])
        )


def test_equal_sides_pass(home: Path) -> None:
    found = check_parity(home, sample=200)

    assert {name: view.differences for name, view in found.items()} == {
        "item_stats": [],
        "user_activity": [],
        "user_history": [],
    }
    assert {name: view.checked for name, view in found.items()} == {
        "item_stats": 1,
        "user_activity": 20,
        "user_history": 20,
    }
    # Too old to be served, on either side.
    assert found["user_activity"].absent == 5
    assert found["user_history"].absent == 0
    assert found["user_history"].end == day(50)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (
            lambda home: overwrite(home, "u3", history_length=3),
            "recent_items online ['x'], offline ['i3', 'i4', 'i5']",
        ),
        (
            lambda home: overwrite(
                home,
                "u3",
                recent_items=["i3", "i4", "i5"],
                recent_types=["view"] * 3,
                recent_ts=[0, 1, 3],
                history_length=3,
            ),
            "recent_ts online [0, 1, 3], offline [0, 1, 2]",
        ),
        (
            lambda home: overwrite(home, "u3", event_timestamp=day(11)),
            "event_timestamp online 2014-01-12 00:00:00+00:00, offline 2014-01-11 00:00:00+00:00",
        ),
        (
            lambda home: materialize_module._blank(
                open_store(home), open_store(home).get_feature_view("user_history"), ["u3"]
            ),
            "online nothing, offline 2014-01-11 00:00:00+00:00",
        ),
    ],
)
def test_planted_difference_is_named(home: Path, plant: Callable[[Path], None], told: str) -> None:
    plant(home)
    found = check_parity(home, sample=200)
    assert found["user_history"].differences == [f"user_history of user_id u3: {told}"]
    assert found["user_activity"].differences == []


def test_value_that_outlived_its_source_is_a_difference(home: Path) -> None:
    # As if a night had left online what it should have blanked.
    users = [row(f"u{n}", 10 if n < 5 else 45 + n / 7, n) for n in range(20) if n != 7]
    write_marts(home, users, [row("i0", 49, 3)])
    found = check_parity(home, sample=200)["user_history"].differences
    assert found == [f"user_history of user_id u7: online {day(46).isoformat(sep=' ')}, offline nothing"]


def test_sample_is_drawn_by_seed(home: Path) -> None:
    overwrite(home, "u3")
    caught = [bool(check_parity(home, sample=4, seed=seed)["user_history"].differences) for seed in range(12)]
    assert any(caught)
    assert not all(caught)
    assert caught == [
        bool(check_parity(home, sample=4, seed=seed)["user_history"].differences) for seed in range(12)
    ]
    assert check_parity(home, sample=4)["user_history"].checked <= 6


def test_pushed_users_are_passed_over_until_the_night(home: Path) -> None:
    push_events(home, [PushedEvent("u3", "new", "view", day(49))], clock=lambda: day(50))
    found = check_parity(home, sample=200)["user_history"]
    assert (found.differences, found.pushed, found.checked) == ([], 1, 19)
    materialize(home, day(50))
    found = check_parity(home, sample=200)["user_history"]
    assert (found.differences, found.pushed, found.checked) == ([], 0, 20)


@pytest.mark.parametrize(
    ("end", "unserved"),
    [
        (5, {"item_stats", "user_activity", "user_history"}),
        (50, set()),
        (85, {"item_stats", "user_activity"}),
        (800, {"item_stats", "user_activity", "user_history"}),
    ],
)
def test_view_of_which_nothing_is_online_is_told(home: Path, end: int, unserved: set[str]) -> None:
    materialize(home, day(end))
    push_events(home, [PushedEvent("u3", "new", "view", day(end))], clock=lambda: day(end))
    found = check_parity(home, sample=200)
    assert {name for name, view in found.items() if view.unserved} == unserved
    assert [view.differences for view in found.values()] == [[], [], []]
    newest = {"item_stats": day(49), "user_activity": day(45 + 19 / 7), "user_history": day(45 + 19 / 7)}
    for name in unserved:
        seconds = (found[name].unserved or day(0)) - newest[name]
        assert abs(seconds.total_seconds()) < 1


def test_empty_mart_is_no_view_that_is_not_served(home: Path) -> None:
    write_marts(home, [row("u0", 45, 1)], [])
    materialize(home, day(50))
    found = check_parity(home, sample=200)["item_stats"]
    assert (found.checked, found.unserved, found.differences) == (0, None, [])


def test_nothing_materialized_is_told(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="nothing was materialized yet"):
        check_parity(tmp_path, sample=1)
