"""The service from outside: what it answers, whom it lets in, and what it says when it does not."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from planted import Ahead, Broken, ids, planted_engine, service

from serving.keys import KeyFile
from serving.logs import request_id
from serving.threads import FEW

PROBLEM = "application/problem+json"


def problem(response: Any, status: int, kind: str) -> str:
    """Check that a response is a problem of a kind, and return its detail."""
    told = response.json()
    assert (response.status_code, told["status"]) == (status, status)
    assert response.headers["content-type"] == PROBLEM
    assert told["type"] == f"urn:tessera:{kind}"
    assert told["request_id"] == response.headers["x-request-id"]
    detail: str = told["detail"]
    return detail


def test_every_way_to_ask(tmp_path: Path) -> None:
    client = service(tmp_path)
    session = {"history": [{"item_id": "i1", "event_type": "cart"}, {"item_id": "i2"}], "k": 2}
    for answer, source, expected in (
        (client.get("/v1/users/ann/recommendations?k=2"), "champion", ["i3", "i4"]),
        (client.get("/v1/users/ann/recommendations?k=2&category=cup&exclude=i4"), "champion", ["i6", "i8"]),
        (client.get("/v1/users/ann/recommendations?k=1&in_stock=true"), "champion", ["i6"]),
        (client.get("/v1/users/nobody/recommendations?k=2"), "popular", ["i7", "i1"]),
        (client.post("/v1/recommendations", json=session), "champion", ["i3", "i4"]),
        (client.post("/v1/recommendations", json=session | {"exclude": ["i3"]}), "champion", ["i4", "i5"]),
        (client.get("/v1/items/i0/similar?k=2"), "similar", ["i1", "i2"]),
        (client.get("/v1/items/i0/similar?k=3&diversity=1"), "similar", ["i1", "i11", "i6"]),
        (client.get("/v1/search?q=0&k=2&category=tea"), "search", ["i1", "i3"]),
        (client.get("/v1/popular?k=2"), "popular", ["i7", "i1"]),
        (client.get("/v1/latest?k=2"), "latest", ["i11", "i10"]),
    ):
        assert answer.status_code == 200, answer.text
        assert (answer.json()["source"], ids(answer.json())) == (source, expected)
    explained = client.get("/v1/users/ann/recommendations?k=1&explain=true").json()["items"][0]["explanation"]
    assert explained["semantic_id"] == [0, 1, 3]
    assert explained["because"][0] == {
        "item_id": "i2",
        "title": "Tea 2",
        "similarity": pytest.approx(0.9659),
        "shared_codes": [0],
    }


def test_fallback_is_told(tmp_path: Path) -> None:
    engine = planted_engine(champion=Broken(), heuristic=Ahead(-1))
    answer = service(tmp_path, engine).get("/v1/users/ann/recommendations?k=1")
    assert "secret" not in answer.text
    assert (answer.json()["source"], answer.json()["reason"], ids(answer.json())) == (
        "heuristic",
        "the champion failed; history of 2 items",
        ["i0"],
    )


def test_problems(tmp_path: Path) -> None:
    client = service(tmp_path, planted_engine(facts=planted_engine().facts.__class__(), encode=None))
    assert problem(client.get("/v1/items/none/similar"), 404, "unknown-item") == (
        "the catalogue has no item 'none'"
    )
    assert "nothing published here" in problem(client.get("/v1/search?q=tea"), 503, "not-ready")
    assert "does not say" in problem(client.get("/v1/popular?in_stock=1"), 422, "bad-request")
    assert problem(client.get("/v1/popular?colour=red"), 422, "bad-request").startswith("colour: Extra")
    found = client.post("/v1/recommendations", json={"history": [{"item_id": "i1", "time": "yesterday"}]})
    assert problem(found, 422, "bad-request").startswith("history.0.time: ")
    found = client.post("/v1/recommendations", content="{", headers={"content-type": "application/json"})
    assert problem(found, 422, "bad-request")
    assert problem(client.get("/nowhere"), 404, "not-found")
    assert problem(client.put("/v1/popular"), 405, "method-not-allowed")


def test_keys_and_scopes(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    reader, writer = keys.add("shop", "read"), keys.add("tracker", "write")
    client = service(tmp_path, api_keys="on")
    event = {"events": [{"event_id": "e", "user_id": "u", "event_type": "search"}]}

    assert client.get("/health/live").status_code == 200
    assert problem(client.get("/v1/popular"), 401, "unauthorized") == "the header X-API-Key is missing"
    wrong = client.get("/v1/popular", headers={"X-API-Key": reader + "x"})
    assert problem(wrong, 401, "unauthorized") == "this key is not known"
    assert wrong.headers["www-authenticate"] == "ApiKey"
    assert problem(client.get("/metrics"), 401, "unauthorized")
    assert client.get("/users/ann/recommendations").status_code == 401
    for key, reads, writes in ((reader, 200, 403), (writer, 200, 202)):
        headers = {"X-API-Key": key}
        assert client.get("/v1/popular", headers=headers).status_code == reads
        assert client.post("/v1/events", json=event, headers=headers).status_code == writes
    keys.remove("shop")
    assert client.get("/v1/popular", headers={"X-API-Key": reader}).status_code == 401
    (tmp_path / "keys.json").write_text("{}")
    assert problem(client.get("/v1/popular", headers={"X-API-Key": writer}), 503, "not-ready")


def test_keys_are_off_on_loopback_alone(tmp_path: Path) -> None:
    assert service(tmp_path).get("/v1/popular").status_code == 200
    elsewhere = service(tmp_path, host="0.0.0.0")
    assert elsewhere.get("/v1/popular").status_code == 401
    assert service(tmp_path, host="0.0.0.0", api_keys="off").get("/v1/popular").status_code == 200
    # Bound elsewhere without being told so: what arrives there needs a key.
    for address, status in (("127.0.0.1", 200), ("10.0.0.7", 401), ("::1", 200), ("2001:db8::1", 401)):
        client = service(tmp_path)
        host = f"[{address}]" if ":" in address else address
        client.base_url = f"http://{host}"
        assert client.get("/v1/popular").status_code == status, address


def test_rate_limit_is_by_key(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    one, other = keys.add("one", "read"), keys.add("other", "read")
    client = service(tmp_path, rate_limit="3/minute", api_keys="on")
    codes = [client.get("/v1/popular", headers={"X-API-Key": one}).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    refused = client.get("/v1/popular", headers={"X-API-Key": one})
    assert problem(refused, 429, "too-many-requests") == "more than 3/minute"
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert client.get("/v1/popular", headers={"X-API-Key": other}).status_code == 200
    # Whoever guesses is counted too.
    assert [client.get("/v1/popular").status_code for _ in range(4)] == [401, 401, 401, 429]
    unlimited = service(tmp_path, rate_limit="")
    assert {unlimited.get("/v1/popular").status_code for _ in range(10)} == {200}


def test_size_limit(tmp_path: Path) -> None:
    client = service(tmp_path, max_request_bytes=100)
    body = json.dumps({"history": [{"item_id": "i" * 200}]})
    json_type = {"content-type": "application/json"}
    stated = client.post("/v1/recommendations", content=body, headers=json_type)
    assert problem(stated, 413, "too-large") == "a request may hold 100 bytes at most"
    in_parts = client.post("/v1/recommendations", content=iter([body[:90].encode(), body[90:].encode()]))
    assert problem(in_parts, 413, "too-large")
    assert client.post("/v1/recommendations", json={"history": [{"item_id": "i1"}]}).status_code == 200


def test_slow_answers_end_in_time(tmp_path: Path) -> None:
    class Slow(Ahead):
        def recommend(self, *asked: Any, **more: Any) -> Any:
            time.sleep(1.5)
            return super().recommend(*asked, **more)

    with service(tmp_path, planted_engine(champion=Slow()), request_timeout=0.2) as client:
        began = time.monotonic()
        late = client.get("/v1/users/ann/recommendations")
        assert time.monotonic() - began < 1.4
        assert problem(late, 503, "timeout") == "no answer within 0.2 seconds"
        assert client.get("/health/live").json() == {"status": "alive"}


def test_few_threads_answer(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        assert client.portal is not None
        assert client.portal.call(lambda: current_default_thread_limiter().total_tokens) == FEW


def test_more_than_can_be_answered_are_refused_at_once(tmp_path: Path) -> None:
    going, go = threading.Event(), threading.Event()

    class Held(Ahead):
        def recommend(self, *asked: Any, **more: Any) -> Any:
            going.set()
            go.wait(20)
            return super().recommend(*asked, **more)

    with service(tmp_path, planted_engine(champion=Held()), max_concurrent_requests=1) as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.get, "/v1/users/ann/recommendations")
            assert going.wait(20)
            refused = client.get("/v1/users/ann/recommendations")
            assert (
                problem(refused, 503, "overloaded")
                == "1 requests are being answered: send it again a little later"
            )
            assert refused.headers["Retry-After"] == "1"
            assert client.get("/health/live").json() == {"status": "alive"}
            go.set()
            assert first.result().status_code == 200
        assert client.get("/v1/users/ann/recommendations").status_code == 200


@contextmanager
def listening(app: Any) -> Iterator[tuple[str, int]]:
    """Serve an app on a real socket."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield bound.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("trickling", [False, True])
def test_body_that_does_not_arrive_is_not_waited_for(tmp_path: Path, trickling: bool) -> None:
    app: Any = service(tmp_path, request_timeout=0.5).app
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"
    with listening(app) as address, socket.create_connection(address, timeout=0.1) as client:
        client.sendall(head)
        found, ends = b"", time.monotonic() + 20
        while time.monotonic() < ends:
            try:
                if not (part := client.recv(4096)):
                    break
                found += part
            except TimeoutError:
                if trickling:
                    client.sendall(b"x")
            except ConnectionResetError:  # closed with a byte unread
                break
        else:
            pytest.fail("the connection was not closed")
    told, body = found.decode().split("\r\n\r\n")
    assert told.startswith("HTTP/1.1 408 ")
    assert "connection: close" in told.lower().splitlines()
    assert json.loads(body)["type"] == "urn:tessera:request-timeout"
    assert json.loads(body)["detail"] == "the body did not arrive within 0.5 seconds"


def test_request_ids_and_log_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = service(tmp_path)
    with caplog.at_level(logging.INFO, "serving.access"):
        found = client.get("/v1/users/ann/recommendations?k=1", headers={"X-Request-ID": "web-7"})
        assert found.headers["x-request-id"] == "web-7"
        made = client.get("/v1/popular", headers={"X-Request-ID": "no such; id"}).headers["x-request-id"]
        assert len(made) == 32
    line = vars(caplog.records[0])
    assert line["ms"] >= 0
    told = {name: line[name] for name in ("method", "route", "status", "source", "reason", "items")}
    assert told == {
        "method": "GET",
        "route": "/v1/users/{user_id}/recommendations",
        "status": 200,
        "source": "champion",
        "reason": "history of 2 items",
        "items": 1,
    }
    assert not any("ann" in str(value) for value in line.values())
    assert request_id.get() == ""


def test_metrics(tmp_path: Path) -> None:
    client = service(tmp_path)
    client.get("/v1/users/ann/recommendations")
    client.get("/v1/users/nobody/recommendations")
    client.get("/v1/users/ann/recommendations?k=0")
    client.get("/nowhere")
    lines = client.get("/metrics").text.splitlines()
    route = "/v1/users/{user_id}/recommendations"
    for line in (
        f'tessera_requests_total{{method="GET",route="{route}",status="200"}} 2.0',
        f'tessera_requests_total{{method="GET",route="{route}",status="422"}} 1.0',
        'tessera_requests_total{method="GET",route="none",status="404"} 1.0',
        f'tessera_request_seconds_count{{route="{route}"}} 3.0',
        f'tessera_answers_total{{route="{route}",source="champion"}} 1.0',
        f'tessera_answers_total{{route="{route}",source="popular"}} 1.0',
        "tessera_history_age_seconds_sum 7200.0",
        "tessera_ready 1.0",
        'tessera_served_info{recipe="toy"} 1.0',
    ):
        assert line in lines, "\n".join(lines)


def test_apps_do_not_share_counts_where_feast_came_first(tmp_path: Path) -> None:
    code = (
        "from serving.api.metrics import Metrics; one, two = Metrics(), Metrics()\n"
        "one.events.labels('new').inc()\n"
        "two.events.labels('new')\n"
        "print([m.registry.get_sample_value('tessera_events_total', {'outcome': 'new'}) for m in (one, two)])"
    )
    shared = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=shared, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[1.0, 0.0]"


def test_health(tmp_path: Path) -> None:
    ready = service(tmp_path).get("/health/ready").json()
    assert (ready["status"], ready["text_search"]) == ("ok", "ready")
    degraded = service(tmp_path, planted_engine(missing=("index",))).get("/health/ready").json()
    assert (degraded["status"], degraded["missing"]) == ("degraded", ["index"])


def test_openapi_tells_all(tmp_path: Path) -> None:
    document = service(tmp_path).get("/openapi.json").json()
    operations = {
        (method, path): told
        for path, methods in document["paths"].items()
        for method, told in methods.items()
    }
    assert {path for _, path in operations} == {
        "/v1/users/{user_id}/recommendations",
        "/v1/recommendations",
        "/v1/items/{item_id}",
        "/v1/items/{item_id}/restore",
        "/v1/items/{item_id}/similar",
        "/v1/search",
        "/v1/popular",
        "/v1/latest",
        "/v1/events",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for told in operations.values():
        assert told["description"]
        for status, response in told["responses"].items():
            if int(status) >= 400:
                assert response["content"] == {PROBLEM: reference}, (told["operationId"], status)
    assert operations["post", "/v1/events"]["security"] == [{"key": []}]
    assert set(operations["post", "/v1/events"]["responses"]) == {
        *("202", "400", "401", "403", "408", "413", "422", "429", "500", "503")
    }
    assert document["components"]["securitySchemes"]["key"]["in"] == "header"
    assert "HTTPValidationError" not in json.dumps(document)
    assert len(operations) == 12
