"""Load on a service: an open-loop generator of requests, and the service as a process of its own.

Requests are sent at fixed times, whether those before them were answered or not, and a latency counts from the time
at which a request was due. So a service that stands still is charged for everybody who would have waited.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

_BEHIND_S = 0.02
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Ask:
    """One request."""

    path: str
    body: Any = None


@dataclass
class Load:
    """What became of a load.

    Parameters
    ----------
    rate
        Requests a second that were due.
    due
        When each was due, in seconds of ``time.perf_counter``.
    seconds
        From then to the end of the answer; nan where there was none.
    behind
        From then to the moment at which it was sent: the generator's own lateness.
    failed
        Why requests failed: status or error, to how often.
    """

    rate: float
    due: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    def quantile(self, q: float, where: Callable[[float], bool] | None = None) -> float:
        """Return a quantile of the answered requests' latency in milliseconds, of those that were due where told."""
        chosen = [
            s for d, s in zip(self.due, self.seconds, strict=True) if s == s and (where is None or where(d))
        ]
        return round(1000 * float(np.quantile(chosen, q)), 3) if chosen else float("nan")

    @property
    def failures(self) -> int:
        """Requests without a right answer."""
        return sum(self.failed.values())

    @property
    def kept_up(self) -> bool:
        """Whether 99 of 100 requests were sent within 20 ms of when they were due."""
        return bool(np.quantile(self.behind, 0.99) < _BEHIND_S)

    def told(self) -> dict[str, Any]:
        """Return what is written beside the figures."""
        return {
            "rate": self.rate,
            "requests": len(self.seconds),
            "failed": self.failed,
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "p999_ms": self.quantile(0.999),
            "max_ms": self.quantile(1),
            "generator_p99_behind_ms": round(1000 * float(np.quantile(self.behind, 0.99)), 3),
        }


Check = Callable[[float, Any], str]
"""When a request was due and its parsed answer, to what is wrong with it; nothing if it is right."""


def load(base: str, asks: Iterator[Ask], rate: float, seconds: float, check: Check | None = None) -> Load:
    """Send requests at a constant rate for some seconds, and wait for the last answer.

    Parameters
    ----------
    base
        Such as ``http://127.0.0.1:8080``.
    asks
        Requests without end.
    rate
        Requests a second.
    seconds
        How long.
    check
        Judges answers; only their status is looked at without it.
    """
    return asyncio.run(_load(base, asks, rate, seconds, check))


async def _load(base: str, asks: Iterator[Ask], rate: float, seconds: float, check: Check | None) -> Load:
    found, tasks = Load(rate), []
    n = max(1, round(rate * seconds))
    found.seconds, found.behind = [float("nan")] * n, [0.0] * n
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(base, connector=connector, timeout=timeout) as session:
        begin = time.perf_counter() + 0.1
        found.due = [begin + place / rate for place in range(n)]
        for place, due in enumerate(found.due):
            ask = next(asks)
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            tasks.append(asyncio.create_task(_one(session, ask, place, found, check)))
        await asyncio.gather(*tasks)
    return found


async def _one(
    session: aiohttp.ClientSession, ask: Ask, place: int, found: Load, check: Check | None
) -> None:
    due = found.due[place]
    found.behind[place] = time.perf_counter() - due
    wrong = ""
    try:
        send = session.get(ask.path) if ask.body is None else session.post(ask.path, json=ask.body)
        async with send as response:
            content = await response.read()
            found.seconds[place] = time.perf_counter() - due
            if response.status not in (200, 202):
                wrong = f"status {response.status}"
            elif check is not None:
                wrong = check(due, await response.json())
            elif not content:
                wrong = "empty"
    except (aiohttp.ClientError, TimeoutError) as error:
        wrong = type(error).__name__
    if wrong:
        found.failed[wrong] = found.failed.get(wrong, 0) + 1


@dataclass(frozen=True)
class Service:
    """A service that runs: its address, and its processes."""

    base: str
    process: psutil.Process

    def rss_mb(self) -> float:
        """Return the resident memory of all its processes."""
        processes = [self.process, *self.process.children(recursive=True)]
        return round(sum(process.memory_info().rss for process in processes) / 2**20, 1)

    def cpu_seconds(self) -> float:
        """Return the processor time that its processes took so far."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)


@contextmanager
def serving(home: Path, workers: int = 1, log: Path | None = None, **switches: object) -> Iterator[Service]:
    """Serve a home in a process of its own, without a rate limit, until the block ends.

    Raises
    ------
    RuntimeError
        If it does not get ready, or does not end well when it is told to.
    """
    port = _free_port()
    told = {f"TESSERA_{name.upper()}": str(value) for name, value in switches.items()}
    environment = os.environ | {"TESSERA_HOME": str(home), "TESSERA_RATE_LIMIT": ""} | told
    command = [sys.executable, "-m", "orchestration", "serve", "--port", str(port)]
    with running(
        command + (["--workers", str(workers)] if workers > 1 else []), port, environment, log
    ) as service:
        yield service


@contextmanager
def running(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[Service]:
    """Run a service by a command until the block ends; see :func:`serving`."""
    out = log.open("ab") if log is not None else subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    service = Service(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        _wait(service, process)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if log is not None:
            out.close()  # type: ignore[union-attr]


def _wait(service: Service, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    import httpx

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode} before it was ready")
        try:
            found = httpx.get(f"{service.base}/health/ready", timeout=10)
            if found.status_code == 200 and "still being loaded" not in found.json().get("text_search", ""):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service was not ready within {seconds:g} s")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def cycle(asks: Iterable[Ask]) -> Iterator[Ask]:
    """Repeat requests without end."""
    kept = list(asks)
    while True:
        yield from kept


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything with the same bytes, about as many as ten items take: what HTTP and the generator cost."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


_ANSWER = b'{"items": "' + b"x" * 1500 + b'"}'


@contextmanager
def bare_service() -> Iterator[Service]:
    """Serve :func:`bare` by the server that Tessera uses."""
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        f"{__name__}:bare",
        "--port",
        str(port),
        "--log-level",
        "critical",
    ]
    with running(command, port) as service:
        yield service


def by_champion(_: float, answer: Any) -> str:
    """Say what is wrong with an answer to a user whom the champion knows."""
    return "" if answer["source"] == "champion" and answer["items"] else f"answered by {answer['source']}"


class Judge:
    """Tells answers of one publication from mixed ones: their versions, and the semantic IDs that these versions give."""

    def __init__(self, home: Path, published: list[dict[str, Any]]) -> None:
        from ml.snapshot import load_snapshot

        self._pairs = [_versions(p) for p in published]
        self._ids: dict[str, dict[str, list[int]]] = {}
        for one in published:
            catalogue = load_snapshot(home / one["snapshot"]).catalogue
            codes = catalogue.codes.tolist()
            self._ids[one["snapshot"]] = dict(zip(catalogue.item_ids, codes, strict=True))
        #: The model that was last seen.
        self.awaited: str | None = None
        self._seen: dict[str, float] = {}

    def __call__(self, due: float, answer: Any) -> str:
        """Judge an answer."""
        told = answer["versions"]
        if not any(all(told.get(k) == v for k, v in pair.items()) for pair in self._pairs):
            return "mixed: versions that were never published together"
        ids = self._ids[told["snapshot"]]
        if any(item["explanation"]["semantic_id"] != ids[item["item_id"]] for item in answer["items"]):
            return "mixed: semantic IDs of another tokenizer than the versions say"
        self.awaited = told["model"]
        return by_champion(due, answer)

    def until(self, published: dict[str, Any], seconds: float = 30) -> float:
        """Wait for the first answer of a publication; when that was."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if self.awaited == published["model"]:
                return time.perf_counter()
            time.sleep(0.005)
        raise RuntimeError(f"{published['model']} was not served within {seconds:g} s")


def _versions(published: dict[str, Any]) -> dict[str, str]:
    return {name: published[name] for name in ("recipe", "model", "snapshot", "index")}
