"""A webhook of the test's own: keeps what it is sent, and answers what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """What was received; the next answers are taken from ``answers``, then 200; 0 is an answer that is no HTTP."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.url = ""
        self.asked = 0


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Listen on the loopback interface for as long as the block runs."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked += 1
            status = state.answers.pop(0) if state.answers else 200
            if status == 0:
                self.wfile.write(b"no HTTP\r\n")
                return
            if status == 200:
                state.messages.append(json.loads(body))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", state.url.replace("hook", "other"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/hook/s3cret"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
