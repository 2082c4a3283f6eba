"""``python -m orchestration serve``: several workers on one port, and an end that nobody notices."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert process.poll() is None, "the service ended"
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.05)


def is_alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5) as found:
            return bool(json.load(found)["status"] == "alive")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_under_way_are_finished(tmp_path: Path, workers: int) -> None:
    port = free_port()
    command = [sys.executable, "-m", "orchestration", "serve", "--port", str(port), "--workers", str(workers)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | {"TESSERA_HOME": str(tmp_path)}, stderr=log)
    try:
        wait_for(lambda: is_alive(port), process)
        logged = lambda: (tmp_path / "log").read_text().count("Application startup complete")  # noqa: E731
        wait_for(lambda: logged() == workers, process)
        first = psutil.Process(process.pid)
        processes = [first, *first.children(recursive=True)]
        body = json.dumps({"history": [{"item_id": "i1"}]}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            head = f"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body[:5])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: "Shutting down" in (tmp_path / "log").read_text(), process)
            client.sendall(body[5:])
            answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        assert answer.startswith("HTTP/1.1 503"), answer
        assert "nothing has been published yet" in answer
        process.wait(20)
        # The helper of Python's multiprocessing ends a moment after the others.
        gone, alive = psutil.wait_procs(processes, timeout=10)
        assert (len(gone), alive) == (len(processes), [])
    finally:
        process.kill()
        process.wait()


def test_libraries_that_were_loaded_before_keep_to_one_thread(tmp_path: Path) -> None:
    script = (
        "import json, numpy, uvicorn\n"
        "from threadpoolctl import threadpool_info\n"
        "uvicorn.run = lambda *_, **__: print(json.dumps([pool['num_threads'] for pool in threadpool_info()]))\n"
        "from orchestration.cli import serve\n"
        "serve(host=None, port=0, workers=1)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    told = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"TESSERA_HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    threads = json.loads(told.stdout.splitlines()[-1])
    assert threads
    assert set(threads) == {1}
