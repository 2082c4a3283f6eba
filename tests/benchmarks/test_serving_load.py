"""The load generator: sends on time whatever comes back, and charges the service for those it kept waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from benchmarks.serving import highest
from benchmarks.serving_load import Ask, Load, cycle, load

PAUSE_S = 0.4


class Server:
    """Stands still once, on its first request, for everybody."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if not self.paths:
            time.sleep(PAUSE_S)
        self.paths.append(request.path)
        return web.json_response({"n": len(self.paths)}, status=500 if request.path == "/broken" else 200)


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    served, address = Server(), [""]
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def begin() -> None:
        app = web.Application()
        app.router.add_route("*", "/{anything}", served.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address[0] = site.name
        ready.set()

    thread = threading.Thread(
        target=lambda: (loop.run_until_complete(begin()), loop.run_forever()), daemon=True
    )
    thread.start()
    assert ready.wait(10)
    yield served, address[0]
    loop.call_soon_threadsafe(loop.stop)


def test_a_pause_is_charged_to_all_who_would_have_waited(server: tuple[Server, str]) -> None:
    served, base = server
    found = load(base, cycle([Ask("/one"), Ask("/two", {"some": "body"})]), 100, 1)
    assert len(found.seconds) == len(served.paths) == 100
    assert sorted(served.paths) == ["/one"] * 50 + ["/two"] * 50
    assert not found.failures
    waited = [
        pause for due, pause in zip(found.due, found.seconds, strict=True) if due - found.due[0] < PAUSE_S / 2
    ]
    # A generator that waits for answers would have sent one request in that time.
    assert len(waited) >= 20
    assert min(waited) >= PAUSE_S / 2 - 0.01


def test_failures_are_counted_by_kind(server: tuple[Server, str]) -> None:
    _, base = server

    def even(_: float, answer: Any) -> str:
        return "odd" if answer["n"] % 2 else ""

    found = load(base, cycle([Ask("/fine"), Ask("/fine"), Ask("/broken")]), 300, 0.1, even)
    assert found.failed["status 500"] == 10
    assert found.failures == sum(found.failed.values()) > 10


def test_quantiles_are_of_what_was_answered() -> None:
    found = Load(10, due=[1.0, 2.0, 3.0], seconds=[0.001, float("nan"), 0.003], behind=[0.0, 0.0, 0.5])
    assert found.quantile(0.5) == 2
    assert found.quantile(0.5, lambda due: due > 1) == 3
    assert np.isnan(found.quantile(0.5, lambda due: due > 3))
    assert not found.kept_up


def test_the_highest_rate_is_the_last_that_held() -> None:
    asked: list[float] = []

    def ask(rate: float, seconds: float) -> Load:
        asked.append(rate)
        late = rate > 80 or len(asked) == 2
        return Load(rate, [0.0], [0.06 if late else 0.001], [0.0])

    held, steps = highest(ask, 1, start=50)
    # One bad second is no limit, two are.
    assert asked == [50, 62, 62, 78, 98, 98]
    assert (held, len(steps)) == (78, 6)


def test_no_home_is_told_in_one_line(tmp_path: Path) -> None:
    from benchmarks.serving_home import copy_home

    with pytest.raises(FileNotFoundError, match="has published nothing") as raised:
        copy_home(tmp_path, tmp_path / "copy")
    assert "\n" not in str(raised.value)
