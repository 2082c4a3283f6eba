"""A service that is killed under load: the next one answers, and no event that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from eventual import eventually
from test_faults import make_home

pytestmark = pytest.mark.slow
KILLS = 4
POSTERS = 4


class Load:
    """Callers who post events, each with an id of its own, and read in between."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.acknowledged: list[str] = []
        self.sent: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._number = iter(range(10**9))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        stop = threading.Event()
        threads = [threading.Thread(target=self._call, args=(stop,)) for _ in range(POSTERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def post(self, client: httpx.Client, event_id: str) -> int:
        event = {"event_id": event_id, "user_id": f"v{event_id[-1]}", "event_type": "view", "item_id": "i3"}
        return client.post("/v1/events", json={"events": [event]}).status_code

    def _call(self, stop: threading.Event) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not stop.is_set():
                event_id = f"e{next(self._number)}"
                self.sent.append(event_id)
                # The connection breaks when the service dies; nothing was promised then.
                with suppress(httpx.TransportError):
                    status = self.post(client, event_id)
                    self.statuses[status] += 1
                    if status == 202:
                        self.acknowledged.append(event_id)
                    self.statuses[client.get("/v1/users/u0/recommendations").status_code] += 1


def serve(home: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TESSERA_")}
    environment |= {"TESSERA_HOME": str(home), "TESSERA_TEXT_SEARCH": "false", "TESSERA_RATE_LIMIT": ""}
    command = ["-m", "uvicorn", "serving.app:create_app_from_env", "--factory", "--port", str(port)]
    return subprocess.Popen([sys.executable, *command, "--log-level", "critical"], env=environment)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").json()["status"] == "ok"
    except (httpx.TransportError, KeyError, ValueError):
        return False


def landed(home: Path) -> list[str]:
    """Return the ids of the whole lines below the landing folder; half a line may follow a kill."""
    ids = []
    for file in (home / "landing" / "posted").glob("*.jsonl"):
        for line in file.read_bytes().splitlines():
            with suppress(ValueError):
                ids.append(json.loads(line)["event_id"])
    return ids


def test_kill_under_load(tmp_path: Path) -> None:
    home, chance = make_home(tmp_path / "home"), random.Random(3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    load = Load(port)
    for _ in range(KILLS):
        service = serve(home, port)
        try:
            eventually(lambda: is_ready(load.url), 60)
            before = len(load.acknowledged)
            wanted = before + chance.randrange(10, 60)
            with load.at_work():
                eventually(lambda wanted=wanted: len(load.acknowledged) >= wanted, 60)  # type: ignore[misc]
                service.kill()
        finally:
            service.kill()
            service.wait()
        kept = Counter(landed(home))
        assert not set(load.acknowledged) - set(kept)
        assert kept.total() == len(kept)
    service = serve(home, port)
    try:
        eventually(lambda: is_ready(load.url), 60)
        # Callers who heard nothing send again: each event is there once in the end.
        with httpx.Client(base_url=load.url, timeout=30) as client:
            unsure = sorted(set(load.sent) - set(load.acknowledged))[-20:]
            assert unsure
            assert {load.post(client, event_id) for event_id in [*unsure, *load.acknowledged[-20:]]} == {202}
            found = client.get("/v1/users/u0/recommendations").json()
            assert (found["source"], found["reason"]) == ("champion", "history of 2 items")
            # What was acknowledged is seen, too.
            assert client.get("/v1/users/v1/recommendations").json()["source"] == "champion"
    finally:
        service.kill()
        service.wait()
    kept = Counter(landed(home))
    assert set(kept.values()) == {1}
    assert set(load.acknowledged) | set(unsure) <= set(kept)
    assert set(load.statuses) == {200, 202}
