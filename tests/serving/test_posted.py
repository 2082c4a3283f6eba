"""Posted events are seen by the next request, and by the next night."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feature_marts import day, row, write_marts
from planted import ids, planted_engine, service

from ml.artifacts import read_json, write_json
from orchestration.ingest import erased
from orchestration.ingest.files import find_files
from orchestration.ingest.users import UserSecret
from orchestration.posted import landing_form
from orchestration.settings import Settings
from serving.answers import EngineError
from serving.engine import Engine
from serving.feature_store import apply_definitions
from serving.features import FeatureLookup
from serving.inbox import LandingForm
from serving.materialize import materialize
from serving.posted import EventDesk, FutureEventError, PostedEvent
from serving.push import PushedEvent

NOW = day(20)
SECRET = "a secret of sixteen"


class Pushed(list[PushedEvent]):
    def __call__(self, home: Path, events: Sequence[PushedEvent], clock: Any) -> int:
        self.extend(events)
        return len(events)


def engine(**parts: Any) -> Engine:
    return planted_engine(**({"clock": lambda: NOW} | parts))


def posted(home: Path) -> list[dict[str, Any]]:
    path = home / "landing" / "posted" / f"{NOW.date()}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_the_next_request_sees_them(tmp_path: Path) -> None:
    write_marts(tmp_path, [row("u2", 10, 2)], [row("i0", 1, 1)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(11))
    lookup = FeatureLookup(tmp_path, clock=lambda: NOW)
    client = service(tmp_path, engine(lookup=lookup))

    def answer(user: str) -> tuple[str, list[str]]:
        found = client.get(f"/v1/users/{user}/recommendations?k=2").json()
        return found["source"], ids(found)

    assert answer("u2") == ("champion", ["i4", "i5"])  # after i2 and i3
    assert answer("new/comer") == ("popular", ["i7", "i1"])
    events = [
        {"event_id": "1", "user_id": "new/comer", "event_type": "cart", "item_id": "i5"},
        {
            "event_id": "2",
            "user_id": "u2",
            "event_type": "view",
            "item_id": "i7",
            "time": day(19).isoformat(),
        },
        {"event_id": "3", "user_id": "u2", "event_type": "search", "query": "tea"},
    ]
    receipt = client.post("/v1/events", json={"events": events})
    assert (receipt.status_code, receipt.json()) == (
        202,
        {"accepted": 3, "duplicates": 0, "online": 2, "reason": "histories are made of cart, view"},
    )
    assert answer("new/comer") == ("champion", ["i6", "i7"])
    assert answer("u2") == ("champion", ["i8", "i9"])
    again = client.post("/v1/events", json={"events": events[:1]}).json()
    assert again == {"accepted": 0, "duplicates": 1, "online": 1, "reason": ""}
    assert answer("new/comer") == ("champion", ["i6", "i7"])
    assert [line["event_id"] for line in posted(tmp_path)] == ["1", "2", "3"]


def test_what_cannot_be_pushed_is_kept(tmp_path: Path) -> None:
    def refuse(*_: Any) -> int:
        raise RuntimeError("secret detail")

    receipt = EventDesk(tmp_path, push=refuse).take(
        [PostedEvent("a", "u", "view", "i1")], engine(), LandingForm()
    )
    assert (receipt.accepted, receipt.online) == (1, 0)
    assert receipt.reason == "the online store does not take them; they are kept for the next night"
    assert len(posted(tmp_path)) == 1


def test_nobody_waits_for_a_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.posted._PUSH_WAIT_S", 0.05)
    night, pushed = threading.Event(), Pushed()

    def wait(*asked: Any) -> int:
        assert night.wait(20)
        return pushed(*asked)

    desk = EventDesk(tmp_path, push=wait)
    receipt = desk.take([PostedEvent("a", "u", "view", "i1")], engine(), LandingForm())
    assert (receipt.accepted, receipt.online) == (1, 0)
    assert receipt.reason.startswith("the online store is being written")
    night.set()
    assert desk.take([PostedEvent("b", "u", "view", "i2")], engine(), LandingForm()).accepted == 1
    desk._pusher.shutdown(wait=True)
    assert [event.item_id for event in pushed] == ["i1", "i2"]


def test_behind_a_late_push_others_queue_up_to_a_limit_and_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.posted._MOST_LATE", 3)
    waits: list[float] = []
    result = Future.result

    def noted(self: Future[int], timeout: float | None = None) -> int:
        waits.append(timeout or 0)
        return result(self, 0)

    monkeypatch.setattr(Future, "result", noted)
    night, pushed = threading.Event(), Pushed()

    def wait(*asked: Any) -> int:
        assert night.wait(20)
        return pushed(*asked)

    desk = EventDesk(tmp_path, push=wait)
    receipts = [
        desk.take([PostedEvent(f"{n}", "u", "view", f"i{n}")], engine(), LandingForm()) for n in range(5)
    ]
    assert [receipt.accepted for receipt in receipts] == [1] * 5
    late, kept = "the online store is being written", "the online store does not take them"
    assert [receipt.reason.split(";")[0] for receipt in receipts] == [late] * 3 + [kept] * 2
    assert waits == [1.0, 0, 0]
    night.set()
    desk._pusher.shutdown(wait=True)
    assert [event.item_id for event in pushed] == ["i0", "i1", "i2"]
    assert not desk._late


def test_the_future_is_refused_as_a_whole(tmp_path: Path) -> None:
    late = PostedEvent("b", "u", "view", "i2", time=NOW + timedelta(seconds=1))
    with pytest.raises(FutureEventError, match="event 'b' lies in the future"):
        EventDesk(tmp_path).take([PostedEvent("a", "u", "view", "i1"), late], engine(), LandingForm())
    assert posted(tmp_path) == []


def test_erased_users_do_not_come_back(tmp_path: Path) -> None:
    erased.add(tmp_path / "erased.json", ["gone"])
    pushed = Pushed()
    events = [PostedEvent("a", "gone", "view", "i1"), PostedEvent("b", "here", "view", "i2")]
    receipt = EventDesk(tmp_path, push=pushed).take(events, engine(), LandingForm())
    assert (receipt.accepted, receipt.online) == (1, 1)
    assert [line["user_id"] for line in posted(tmp_path)] == ["here"]
    assert [event.user_id for event in pushed] == ["here"]
    write_json(tmp_path / "erased.json", {})
    with pytest.raises(EngineError, match="list of erased users cannot be read"):
        EventDesk(tmp_path, push=pushed).take(events, engine(), LandingForm())
    # Stands for one that may not be read: no permission stops a test that runs as root.
    (tmp_path / "erased.json").unlink()
    (tmp_path / "erased.json").mkdir()
    with pytest.raises(EngineError, match="list of erased users cannot be read"):
        EventDesk(tmp_path, push=pushed).take(events, engine(), LandingForm())


def test_list_of_erased_users_is_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    monkeypatch.setattr("serving.posted.read_json", lambda path: (reads.append(path), read_json(path))[1])
    desk = EventDesk(tmp_path, push=Pushed())

    def accepted(event_id: str) -> list[int]:
        users = ("one", "two")
        return [
            desk.take([PostedEvent(event_id + u, u, "view", "i1")], engine(), LandingForm()).accepted
            for u in users
        ]

    assert (accepted("a"), len(reads)) == ([1, 1], 0)
    erased.add(tmp_path / "erased.json", ["one"])
    assert (accepted("b"), len(reads)) == ([0, 1], 1)
    assert (accepted("c"), len(reads)) == ([0, 1], 1)
    erased.add(tmp_path / "erased.json", ["two"])
    assert (accepted("d"), len(reads)) == ([0, 0], 2)


def test_hashed_users_are_known_by_their_hash_online_and_land_as_they_are(tmp_path: Path) -> None:
    pushed = Pushed()
    desk = EventDesk(tmp_path, SECRET, pushed)
    desk.take([PostedEvent("a", "ünïcode", "view", "i1")], engine(), LandingForm())
    assert [event.user_id for event in pushed] == [UserSecret(SECRET).hashed("ünïcode")]
    assert posted(tmp_path)[0]["user_id"] == "ünïcode"

    known = engine().lookup

    class Lookup:
        def user(self, user_id: str) -> Any:
            name = "ann" if user_id == UserSecret(SECRET).hashed("ann") else user_id
            return replace(known.user(name), user_id=user_id)

    answer = service(tmp_path, engine(lookup=Lookup()), user_secret=SECRET).get(
        "/v1/users/ann/recommendations"
    )
    assert (answer.json()["source"], answer.json()["user_id"]) == ("champion", "ann")


def test_only_a_search_may_name_no_item(tmp_path: Path) -> None:
    event = {"event_id": "a", "user_id": "u", "event_type": "view"}
    found = service(tmp_path).post("/v1/events", json={"events": [event]})
    assert (found.status_code, found.json()["detail"]) == (422, "event 'a': only a search may name no item")


def test_posted_events_land_where_the_source_reads(tmp_path: Path) -> None:
    form = LandingForm.model_validate(landing_form(Settings(home=tmp_path)))
    assert form.path == "landing/events/{day}.posted.jsonl"
    EventDesk(tmp_path, push=Pushed()).take([PostedEvent("a", "u", "view", "i1")], engine(), form)
    found = find_files("events/{day}*.jsonl", tmp_path / "landing")
    assert [(file.name, file.day) for file in found] == [(f"events/{NOW.date()}.posted.jsonl", NOW.date())]
    assert json.loads(found[0].path.read_text()) == {
        "id": "a",
        "user": "u",
        "type": "view",
        "item": "i1",
        "ts": int(NOW.timestamp() * 1000),
    }
    # A source whose files cannot be written in keeps them aside.
    other = LandingForm.model_validate(landing_form(Settings(home=tmp_path, source="ml-100k")))
    assert other == LandingForm()
