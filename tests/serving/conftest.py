"""A real Redis for the tests of the online store."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from serving.feature_store import REDIS_SWITCH


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Redis of our own, and return its ``host:port``; skip where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here (Debian package redis-server); .ci/run installs it where it can")
    redis = pytest.importorskip("redis", reason="the client is not installed: pip install 'feast[redis]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    folder = tmp_path_factory.mktemp("redis")
    server = subprocess.Popen([program, *options, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.ping()
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture(params=["sqlite", "redis"])
def either_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on SQLite and on Redis; the one switch is the variable."""
    if request.param == "redis":
        import redis

        address: str = request.getfixturevalue("redis_server")
        host, port = address.split(":")
        redis.Redis(host, int(port)).flushall()
        monkeypatch.setenv(REDIS_SWITCH, address)
    return str(request.param)
