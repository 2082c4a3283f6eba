"""A guarded look-up: what fails, hangs or recovers, and what that costs those who ask."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from planted import Known, ids, planted_engine, service

from serving.answers import LookupUnavailableError
from serving.features import UserFeatures
from serving.guard import Guard


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Store:
    """Answers as ``Known`` does, fails, or hangs until it is let go."""

    def __init__(self) -> None:
        self.mood = "well"
        self.let_go = threading.Event()
        self.asked = 0

    def user(self, user_id: str) -> UserFeatures:
        self.asked += 1
        if self.mood == "broken":
            raise ConnectionError("secret detail")
        if self.mood == "stuck":
            self.let_go.wait()
        return Known().user(user_id)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.let_go.set()


def reason(ask: Callable[[], Any]) -> str:
    with pytest.raises(LookupUnavailableError) as found:
        ask()
    return str(found.value)


def test_failures_in_a_row_open_the_circuit_and_one_success_closes_it(store: Store) -> None:
    clock, outcomes = Clock(), Counter[str]()
    guard = Guard(failures=3, pause=10, count=lambda outcome: outcomes.update([outcome]), now=clock)
    lookup = guard.over(store)
    store.mood = "broken"
    assert reason(lambda: lookup.user("ann")) == "the online store does not answer"
    store.mood = "well"
    assert lookup.user("ann").history is not None
    store.mood = "broken"
    for _ in range(3):
        assert not guard.is_open
        reason(lambda: lookup.user("ann"))
    assert guard.is_open
    asked = store.asked
    assert reason(lambda: lookup.user("ann")) == "the online store does not answer, and is given a pause"
    assert store.asked == asked
    clock.seconds = 10
    assert reason(lambda: lookup.user("ann")) == "the online store does not answer"
    reason(lambda: lookup.user("ann"))
    assert store.asked == asked + 1
    clock.seconds, store.mood = 20, "well"
    assert lookup.user("ann").history is not None
    assert not guard.is_open
    assert outcomes == {"ok": 2, "failed": 5, "refused": 2}


def test_one_trial_at_a_time(store: Store) -> None:
    clock = Clock()
    guard = Guard(timeout=30, failures=1, pause=10, now=clock)
    lookup = guard.over(store)
    store.mood = "broken"
    reason(lambda: lookup.user("ann"))
    clock.seconds, store.mood, store.asked = 10, "stuck", 0
    with ThreadPoolExecutor(1) as pool:
        trial = pool.submit(lookup.user, "ann")
        while not store.asked:
            pass
        assert "pause" in reason(lambda: lookup.user("ann"))
        store.let_go.set()
        assert trial.result().history is not None
    assert (store.asked, guard.is_open) == (1, False)


def test_stuck_lookups_hold_few_threads_and_what_waited_never_begins(store: Store) -> None:
    before = threading.active_count()
    guard = Guard(timeout=0.02, failures=6, workers=2)
    lookup = guard.over(store)
    store.mood = "stuck"
    for _ in range(6):
        assert reason(lambda: lookup.user("ann")) == "the online store does not answer within 0.02 s"
    assert store.asked == 2
    assert threading.active_count() <= before + 2
    assert guard.is_open
    store.let_go.set()


@pytest.mark.parametrize("mood", ["broken", "stuck"])
def test_service_degrades_says_so_and_recovers(tmp_path: Path, store: Store, mood: str) -> None:
    engine = planted_engine()
    client = service(tmp_path, engine, lookup_timeout=0.02, rate_limit="")
    guard: Any = client.app.state.guard  # type: ignore[attr-defined]
    engine.lookup = guard.over(store)
    clock = guard._now = Clock()
    asks = "/v1/users/ann/recommendations?k=2"
    assert (client.get(asks).json()["source"], client.get("/health/ready").json()["status"]) == (
        "champion",
        "ok",
    )
    store.mood = mood
    answers = [client.get(asks) for _ in range(7)]
    assert all("secret" not in answer.text for answer in answers)
    found = [(a.status_code, a.json()["source"], ids(a.json()), a.json()["user_id"]) for a in answers]
    assert found == [(200, "popular", ["i7", "i1"], "ann")] * 7
    first = "the online store does not answer" + (" within 0.02 s" if mood == "stuck" else "")
    paused = "the online store does not answer, and is given a pause"
    assert [answer.json()["reason"] for answer in answers] == [first] * 5 + [paused] * 2
    # Who brings a history along is served as ever.
    session = client.post("/v1/recommendations", json={"history": [{"item_id": "i1"}], "k": 1}).json()
    assert (session["source"], ids(session)) == ("champion", ["i2"])
    health = client.get("/health/ready").json()
    assert (health["status"], health["missing"]) == ("degraded", ["online store"])
    counted = client.get("/metrics").text
    outcome = "timeout" if mood == "stuck" else "failed"
    assert f'tessera_lookups_total{{outcome="{outcome}"}} 5.0' in counted
    store.mood, clock.seconds = "well", 60
    store.let_go.set()
    # A probe is a try too, so that it recovers without other requests.
    assert client.get("/health/ready").json()["status"] == "ok"
    assert client.get(asks).json()["source"] == "champion"
