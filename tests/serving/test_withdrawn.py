"""A withdrawn item comes back by no way, from the next request on, until it is restored."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from planted import VECTORS, Ahead, Broken, N, ids, planted_engine, service

from ml.artifacts import ArtifactError, read_json
from ml.histories import Histories
from ml.index import IndexSpec, ItemSearch, build_index
from serving.answers import EngineError
from serving.keys import KeyFile
from serving.withdrawn import WithdrawnItems


class Alike(Ahead):
    def query_vectors(self, histories: Histories) -> np.ndarray:  # type: ignore[override]
        return VECTORS[histories.items[-1:]]


def client_over(home: Path, **parts: Any) -> TestClient:
    engine = planted_engine(withdrawn=WithdrawnItems(home).now, **parts)
    return service(home, engine, rate_limit="")


WAYS = {
    "champion": ({}, "/v1/users/ann/recommendations?k=12", "champion"),
    "filtered": ({}, "/v1/users/ann/recommendations?k=12&category=cup", "champion"),
    "heuristic": (
        {"champion": Broken(), "heuristic": Ahead()},
        "/v1/users/ann/recommendations?k=12",
        "heuristic",
    ),
    "stranger": ({}, "/v1/users/nobody/recommendations?k=12", "popular"),
    "popular": ({}, "/v1/popular?k=12", "popular"),
    "unknown to the champion": ({"popular": ["gone", "i4"]}, "/v1/popular?k=12", "popular"),
    "latest": ({}, "/v1/latest?k=12", "latest"),
    "similar": ({}, "/v1/items/i2/similar?k=12", "similar"),
    "search": ({}, "/v1/search?q=4&k=12", "search"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("indexed", [False, True])
def test_it_comes_by_no_way_until_it_is_restored(tmp_path: Path, way: str, indexed: bool) -> None:
    parts, url, source = WAYS[way]
    if indexed:
        index = build_index(VECTORS, IndexSpec(factory="Flat"))
        parts = {"champion": Alike(), "search": ItemSearch(index)} | parts
    client = client_over(tmp_path, **parts)
    before = client.get(url).json()
    assert before["source"] == source
    assert "i4" in ids(before)
    assert client.delete("/v1/items/i4").status_code == 204
    after = client.get(url).json()
    assert after["source"] == source
    assert ids(after) == [item for item in ids(before) if item != "i4"]
    assert client.post("/v1/items/i4/restore").status_code == 204
    assert ids(client.get(url).json()) == ids(before)


def test_a_session_with_it_goes_on_and_is_not_explained_by_it(tmp_path: Path) -> None:
    client = client_over(tmp_path)
    session = {"history": [{"item_id": "i4"}, {"item_id": "i5"}], "k": 2, "explain": True}

    def because() -> set[str]:
        items = client.post("/v1/recommendations", json=session).json()["items"]
        return {why["item_id"] for item in items for why in item["explanation"]["because"]}

    assert because() == {"i4", "i5"}
    client.delete("/v1/items/i4")
    assert because() == {"i5"}


def test_what_is_asked_of_it_is_not_found(tmp_path: Path) -> None:
    client = client_over(tmp_path)
    assert client.delete("/v1/items/never-there").status_code == 404
    assert client.post("/v1/items/i4/restore").json()["type"] == "urn:tessera:unknown-item"
    for _ in range(2):
        assert client.delete("/v1/items/i4").status_code == 204
    assert client.get("/v1/items/i4/similar").status_code == 404


def test_only_a_key_that_may_write_withdraws(tmp_path: Path) -> None:
    client = service(tmp_path, planted_engine(withdrawn=WithdrawnItems(tmp_path).now), api_keys="on")
    reader, writer = (KeyFile(tmp_path).add(scope, scope) for scope in ("read", "write"))
    assert client.delete("/v1/items/i4", headers={"X-API-Key": reader}).status_code == 403
    assert client.delete("/v1/items/i4").status_code == 401
    assert client.delete("/v1/items/i4", headers={"X-API-Key": writer}).status_code == 204
    assert client.post("/v1/items/i4/restore", headers={"X-API-Key": reader}).status_code == 403


def test_another_process_is_heard_and_the_file_is_read_once(tmp_path: Path) -> None:
    here, there = WithdrawnItems(tmp_path), WithdrawnItems(tmp_path)
    assert here.now() == frozenset()
    there.add(["a", "b"])
    assert here.now() == {"a", "b"}
    assert here.now() is here.now()
    first = read_json(tmp_path / "withdrawn.json")["items"]["a"]
    there.add(["a", "c"])
    there.remove(["b", "never"])
    assert here.now() == {"a", "c"}
    assert read_json(tmp_path / "withdrawn.json")["items"]["a"] == first
    (tmp_path / "withdrawn.json").unlink()
    assert here.now() == frozenset()


def test_a_damaged_file_brings_nothing_back(tmp_path: Path) -> None:
    known = WithdrawnItems(tmp_path)
    known.add(["i4"])
    assert known.now() == {"i4"}
    file = tmp_path / "withdrawn.json"
    file.write_text('{"items": ["i4"')
    assert known.now() == {"i4"}
    with pytest.raises(EngineError, match="is not valid JSON"):
        WithdrawnItems(tmp_path).now()
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        known.add(["i5"])
    file.write_text('{"items": {"i4": "yesterday"}}')
    os.utime(file, ns=(1, 1))
    client = client_over(tmp_path)
    assert client.get("/v1/popular").status_code == 503
    assert N == 12


def refused(client: TestClient) -> set[str]:
    """Check that nothing can be withdrawn or restored now, and return why."""
    answers = [client.delete("/v1/items/i5"), client.post("/v1/items/i4/restore")]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert {answer.json()["type"] for answer in answers} == {"urn:tessera:not-ready"}
    return {answer.json()["detail"] for answer in answers}


def test_a_file_that_was_damaged_since_or_cannot_be_read_is_not_ready(tmp_path: Path) -> None:
    client, file = client_over(tmp_path), tmp_path / "withdrawn.json"
    assert client.delete("/v1/items/i4").status_code == 204
    assert "i4" not in ids(client.get("/v1/popular?k=12").json())
    file.write_text("{}")
    assert refused(client) == {f"{file} is no file of withdrawn items"}
    file.unlink()
    file.mkdir()
    assert "i4" not in ids(client.get("/v1/popular?k=12").json())
    assert client_over(tmp_path).get("/v1/popular").status_code == 503


def test_a_full_disk_is_not_ready_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_over(tmp_path)
    assert client.delete("/v1/items/i4").status_code == 204

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("serving.withdrawn.write_json", full)
        assert refused(client) == {
            f"{tmp_path / 'withdrawn.json'} cannot be changed: No space left on device"
        }
    assert WithdrawnItems(tmp_path).now() == {"i4"}
    assert client.post("/v1/items/i4/restore").status_code == 204
