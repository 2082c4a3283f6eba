"""A rollback under load: ``python -m benchmarks.rollback HOME`` writes ``results/rollback.json``.

On a copy of a home with two champions published, a real ``serve`` process is asked without a pause while the command
``rollback`` runs: how many seconds until the first answer by the other champion, and how many requests failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

from benchmarks.record import RESULTS, Row, write
from orchestration.settings import Settings

LIMIT_S = 10.0
_WAIT_S = 120.0


@dataclass
class Client(threading.Thread):
    """Asks for one user's recommendations again and again, until told to stop.

    Parameters
    ----------
    answers
        Time (``time.monotonic``) and model of each answer.
    failed
        Answers that were none, and requests that got none.
    """

    port: int
    user: str
    answers: list[tuple[float, str]] = field(default_factory=list)
    failed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Ask."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        user = quote(self.user, safe="")
        path = f"/v1/users/{user}/recommendations?k=10"
        while not self.stop.is_set():
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                told = json.loads(response.read())
                if response.status != 200 or not told["items"]:
                    raise ValueError(f"answer of {response.status}")
                self.answers.append((time.monotonic(), told["versions"]["model"]))
            except (OSError, ValueError, http.client.HTTPException):
                self.failed += 1
                connection.close()

    def first_by(self, model: str, after: float, within: float) -> float:
        """Wait for the first answer by a model after a time; return when it came.

        Raises
        ------
        SystemExit
            If none comes within so many seconds.
        """
        place, deadline = 0, time.monotonic() + within
        while time.monotonic() < deadline:
            while place < len(self.answers):
                at, answered = self.answers[place]
                if at > after and answered == model:
                    return at
                place += 1
            time.sleep(0.005)
        raise SystemExit(f"error: no answer by {model} within {within:.0f} s")


def two_champions(settings: Settings) -> tuple[str, str]:
    """Return the models of two publications, the live one last; publish another champion where there is one alone."""
    from orchestration.index import publish_champion
    from orchestration.models import promote
    from orchestration.publications import live, publications

    if live(settings) is None:
        publish_champion(settings)
    now = live(settings)
    assert now is not None
    earlier = [one for one in publications(settings) if one.model != now.model and one.number < now.number]
    if not earlier:
        # The last-named one is usually the heaviest.
        promote(settings, next(recipe for recipe in reversed(settings.recipes) if recipe != now.recipe))
        publish_champion(settings)
        earlier, now = [now], live(settings)
        assert now is not None
    return earlier[-1].model, now.model


def measure(home: Path, times: int) -> Row:
    """Roll back so many times, and forward again after each; return the row.

    Parameters
    ----------
    home
        Is changed: hand over a copy.
    """
    from orchestration.publications import live, publications

    settings = Settings(home=home)
    before, now = two_champions(settings)
    newest = {one.model: one.number for one in publications(settings)}
    user = pq.read_table(settings.marts / "user_histories.parquet", columns=["user_id"])["user_id"][0].as_py()
    seconds: dict[str, list[float]] = {"back": [], "forward": []}
    with _service(home) as port:
        client = Client(port, user)
        client.start()
        client.first_by(now, 0.0, _WAIT_S)
        for _ in range(times):
            # By default it goes to the champion before; a publication that is named needs no registry.
            seconds["back"].append(_roll(home, client, before))
            seconds["forward"].append(_roll(home, client, now, to=newest[now]))
        client.stop.set()
        client.join()
    ended = live(settings)
    assert ended is not None
    assert ended.model == now
    return Row(
        "rollback by one command, from its start to the first answer by the other champion",
        round(float(np.median(seconds["back"])), 3),
        LIMIT_S,
        "the limit that is asked for",
        "seconds",
        "lower",
        {
            "seconds": {name: [round(value, 3) for value in all_] for name, all_ in seconds.items()},
            "slowest": round(max(seconds["back"] + seconds["forward"]), 3),
            "requests": len(client.answers) + client.failed,
            "failed": client.failed,
            "champions": [before, now],
        },
    )


def _roll(home: Path, client: Client, model: str, to: int | None = None) -> float:
    command = [sys.executable, "-m", "orchestration", "rollback", *(["--to", str(to)] if to else [])]
    began = time.monotonic()
    done = subprocess.Popen(command, env=_environment(home), stdout=subprocess.DEVNULL)
    took = client.first_by(model, began, _WAIT_S) - began
    if done.wait() != 0:
        raise SystemExit(f"error: {' '.join(command)} failed")
    return took


@contextmanager
def _service(home: Path) -> Iterator[int]:
    """Serve a home on a free port for as long as the block runs; its log goes to ``serve.log`` beside the home."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (home.parent / "serve.log").open("w") as log:
        command = [sys.executable, "-m", "orchestration", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=_environment(home), stdout=log, stderr=log)
        try:
            _until_ready(port, process)
            yield port
        finally:
            process.terminate()
            process.wait()


def _until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("error: the service does not become ready")


def _environment(home: Path) -> dict[str, str]:
    # One client asks more than the default rate allows.
    return os.environ | {"TESSERA_HOME": str(home), "TESSERA_RATE_LIMIT": ""}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path, help="a home that a demo finished; it is copied")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not (options.home / "champion.json").is_file():
        raise SystemExit(f"error: {options.home} has no champion: run make demo first")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        shutil.copytree(options.home, home)
        os.environ["TESSERA_HOME"] = str(home)
        row = measure(home, options.times)
    sys.stdout.write(f"{write('rollback', [row], results=options.results)}\n{json.dumps(row.extra)}\n")


if __name__ == "__main__":
    main()
