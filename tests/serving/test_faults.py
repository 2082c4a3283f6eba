"""Parts are taken away from a service over real ones, while it runs and before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eventual import eventually
from fastapi.testclient import TestClient
from feature_marts import day, write_histories

from ml.artifacts import Manifest, hash_folder, write_json, write_manifest
from serving.app import create_app
from serving.feature_store import apply_definitions, online_settings
from serving.materialize import materialize
from serving.settings import ServiceSettings

NOW = day(5)
USER = "/v1/users/u0/recommendations"
GONE = ("popular", "the online store does not answer")


def make_home(home: Path) -> Path:
    """Publish transition counts over four items, with an index, a heuristic and an online store."""
    from ml.evaluation.splits import split
    from ml.index import IndexSpec, build_index, publish_index
    from ml.recommenders import build
    from ml.snapshot import load_snapshot, write_snapshot

    home.mkdir(exist_ok=True)
    write_histories(home, {"u0": ["i1", "i2"], "u1": ["i1", "i3"], "u2": ["i1", "i3", "i2"]})
    snapshot = load_snapshot(write_snapshot(home / "marts", None, None, home / "snapshots"))
    made_from = {"snapshot": snapshot.manifest.version}
    champion = build({"kind": "transitions"})
    champion.fit(split(snapshot.histories, "full"), snapshot.catalogue, seed=0)
    (home / "model").mkdir()
    champion.save(home / "model")
    write_manifest(home / "model", Manifest(kind="model", version="model", inputs=made_from))
    spec, vectors = IndexSpec(factory="Flat"), np.eye(4, dtype=np.float32)
    built_on = made_from | {"model": hash_folder(home / "model")}
    index = publish_index(home / "index", build_index(vectors, spec), spec, vectors, built_on, {})
    apply_definitions(home)
    materialize(home, day(4))
    publish(home, snapshot=f"snapshots/{snapshot.folder.name}", index=f"index/{index.name}")
    return home


def publish(home: Path, **fields: str) -> None:
    told = {"recipe": "transitions", "model": "model", "popular": ["i3"], "as_of": NOW.isoformat()}
    write_json(home / "champion.json", told | fields)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    with started(home) as client:
        yield client


def started(home: Path, lookup_timeout: float = 4) -> TestClient:
    settings = ServiceSettings(text_search=False, lookup_timeout=lookup_timeout)
    return TestClient(create_app(home, settings=settings))


def answer(client: TestClient, user: str = "u0") -> tuple[str, str]:
    response = client.get(f"/v1/users/{user}/recommendations")
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["items"]
    return found["source"], found["reason"]


def post(client: TestClient, event_id: str) -> dict[str, Any]:
    event = {"event_id": event_id, "user_id": "u0", "event_type": "view", "item_id": "i3"}
    response = client.post("/v1/events", json={"events": [event]})
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json()
    return found


def served(client: TestClient) -> tuple[str, list[str]]:
    found = client.get("/health/ready").json()
    return found["status"], found["missing"]


def test_online_store_goes_while_the_service_runs_and_comes_back(home: Path, client: TestClient) -> None:
    assert answer(client) == ("champion", "history of 2 items")
    online = home / "feast" / "online.db"
    for path in online.parent.glob("online.db*"):
        path.unlink()
    assert answer(client) == GONE
    kept = post(client, "a")
    assert (kept["accepted"], kept["online"]) == (1, 0)
    assert kept["reason"] == "the online store does not take them; they are kept for the next night"
    # SQLite would have made an empty file, and the night would take it for the store.
    assert not online.exists()
    apply_definitions(home)
    materialize(home, day(4))
    assert answer(client) == ("champion", "history of 2 items")
    assert post(client, "b")["online"] == 1
    assert answer(client) == ("champion", "history of 3 items")


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0" + b"\xff" * 200])
def test_service_starts_without_an_online_store(home: Path, content: bytes | None) -> None:
    online = home / "feast" / "online.db"
    for path in online.parent.glob("online.db*"):
        path.unlink()
    if content is not None:
        online.write_bytes(content)
    with started(home) as client:
        assert answer(client) == GONE
        assert client.get("/v1/popular").status_code == 200
        assert [answer(client) for _ in range(5)][-1] == (GONE[0], f"{GONE[1]}, and is given a pause")
        assert served(client) == ("degraded", ["online store"])


def test_redis_stops_hangs_and_comes_back(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_REDIS", f"{redis_server},db=3")
    home = make_home(tmp_path / "home")
    redis = pytest.importorskip("redis")
    host, port = redis_server.split(":")
    with started(home, lookup_timeout=0.5) as client:
        assert answer(client)[0] == "champion"
        # Redis answers no command for a second, as if it hung.
        redis.Redis(host, int(port)).execute_command("CLIENT", "PAUSE", "1500", "ALL")
        assert answer(client) == (GONE[0], "the online store does not answer within 0.5 s")
        eventually(lambda: answer(client)[0] == "champion")
    monkeypatch.setenv("TESSERA_REDIS", "127.0.0.1:1")
    # Its client tries again for some seconds by itself.
    with started(home, lookup_timeout=0.5) as client:
        assert answer(client) == (GONE[0], "the online store does not answer within 0.5 s")


def test_a_redis_that_vanished_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, asked in (
        ("db:6379", "db:6379,socket_timeout=30"),
        ("db:6379,socket_timeout=2", "db:6379,socket_timeout=2"),
    ):
        monkeypatch.setenv("TESSERA_REDIS", given)
        assert online_settings(tmp_path)["connection_string"] == asked


@pytest.mark.parametrize("name", ["index.faiss", "vectors.safetensors"])
def test_truncated_index_degrades_a_start_and_leaves_a_running_service_alone(
    home: Path, client: TestClient, name: str
) -> None:
    file = next((home / "index").glob(f"*/{name}"))
    file.write_bytes(file.read_bytes()[:50])
    content = (home / "champion.json").read_text()
    (home / "champion.json").write_text(content + "\n")
    client.app.state.holder.refresh()  # type: ignore[attr-defined]
    assert answer(client) == ("champion", "history of 2 items")
    found = client.get("/health/ready").json()
    assert (found["status"], found["missing"]) == ("degraded", [])
    assert file.name in found["stale"]
    with started(home) as late:
        assert answer(late) == ("champion", "history of 2 items")
        assert served(late) == ("degraded", ["index"])


def test_a_publication_that_cannot_be_read_leaves_the_one_before(home: Path, client: TestClient) -> None:
    assert post(client, "a")["accepted"] == 1
    for content in ("", '{"recipe": 3}', '{"recipe": "new", "model": "none", "snapshot": "none"}'):
        (home / "champion.json").write_text(content)
        client.app.state.holder.refresh()  # type: ignore[attr-defined]
        assert answer(client) == ("champion", "history of 3 items")
        assert served(client)[0] == "degraded"
        assert post(client, "a")["duplicates"] == 1
    (home / "champion.json").unlink()
    client.app.state.holder.refresh()  # type: ignore[attr-defined]
    assert answer(client) == ("champion", "history of 3 items")


def test_feature_that_is_missing_or_stale_is_told(home: Path, client: TestClient) -> None:
    assert answer(client, "nobody") == ("popular", "unknown user")
    import sqlite3

    with sqlite3.connect(home / "feast" / "online.db") as store:
        store.execute("DELETE FROM tessera_user_history")
    assert answer(client) == ("popular", "unknown user")


@pytest.mark.parametrize(
    ("jump", "expected"),
    [
        (timedelta(days=-3000), ("champion", "history of 2 items")),
        (timedelta(hours=-5), ("champion", "history of 2 items")),
        (timedelta(days=800), ("popular", "history is 802.0 days old, older than 730")),
    ],
)
def test_clock_jumps(
    home: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta, expected: tuple[str, str]
) -> None:
    """The clock of a running service jumps; it answers, and takes events, each once."""
    from serving import published

    now = NOW

    def clock() -> datetime:
        return now

    monkeypatch.setattr(published, "_clock", lambda _: clock)
    with started(home) as client:
        assert answer(client) == ("champion", "history of 2 items")
        now = NOW + jump
        assert answer(client) == expected
        assert post(client, "a")["accepted"] == 1
        assert post(client, "a")["duplicates"] == 1
        assert client.get("/metrics").status_code == 200
        now = NOW
        assert answer(client)[0] == "champion"
        assert post(client, "c")["accepted"] == 1


def test_full_disk_refuses_events_and_goes_on(home: Path, client: TestClient) -> None:
    from serving import inbox

    with pytest.MonkeyPatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(inbox.os, "fsync", full)
        event = {"event_id": "a", "user_id": "u0", "event_type": "view", "item_id": "i3"}
        refused = client.post("/v1/events", json={"events": [event]})
        assert (refused.status_code, refused.json()["detail"]) == (
            503,
            "events cannot be written down now, send them again later",
        )
        assert answer(client) == ("champion", "history of 2 items")
    assert post(client, "a")["accepted"] == 1
