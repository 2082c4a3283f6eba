from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.rollback import Client


@pytest.fixture
def service() -> Iterator[dict[str, Any]]:
    """Answer by the model ``told["model"]``; with the status ``told["status"]``."""
    told: dict[str, Any] = {"model": "models/a", "status": 200, "paths": set()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told["paths"].add(self.path)
            body = json.dumps({"items": [1], "versions": {"model": told["model"]}}).encode()
            self.send_response(told["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told["port"] = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()
    server.server_close()


def test_client_sees_the_other_champion_and_counts_what_fails(service: dict[str, Any]) -> None:
    client = Client(service["port"], "u/1")
    client.start()
    first = client.first_by("models/a", 0.0, within=30)
    with pytest.raises(SystemExit, match="no answer by models/b within 0 s"):
        client.first_by("models/b", time.monotonic(), within=0.05)
    assert client.failed == 0
    changed = time.monotonic()
    service["model"] = "models/b"
    assert client.first_by("models/b", changed, within=30) > changed > first
    service["status"] = 503
    while client.failed < 2:
        time.sleep(0.01)
    client.stop.set()
    client.join()
    assert service["paths"] == {"/v1/users/u%2F1/recommendations?k=10"}
    assert {model for _, model in client.answers} == {"models/a", "models/b"}
