"""The service answers, says why where it cannot, and follows what is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from eventual import eventually
from fastapi.testclient import TestClient
from feature_marts import day, write_histories

from ml.artifacts import Manifest, hash_folder, write_json, write_manifest
from serving.app import create_app, create_app_from_env
from serving.engine import Engine, EngineError
from serving.features import UserFeatures
from serving.items import ItemFacts
from serving.published import load_engine, load_fallback, read_published


class Lookup:
    def user(self, user_id: str) -> UserFeatures:
        if user_id == "broken":
            raise RuntimeError("secret detail")
        return UserFeatures(user_id, absent={"user_history": "unknown"})


class Champion:
    def recommend(self, *_: Any, **__: Any) -> Any:
        return np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32)

    query_vectors = None


def toy(home: Path) -> Engine:
    published = read_published(home)
    titles = [f"Tea {n}" for n in range(200)]
    items = [f"i{n}" for n in range(200)]
    facts = ItemFacts(text=np.eye(200, 3, dtype=np.float32))
    versions = {"recipe": published.recipe}
    return Engine(
        Champion(),
        Lookup(),
        items,
        titles,
        ["view"],
        items,
        versions=versions,
        facts=facts,
        encode=no_encoder,
    )


def no_encoder(_: str) -> Any:
    raise RuntimeError("secret detail")


def publish(home: Path, **fields: Any) -> None:
    write_json(home / "champion.json", {"recipe": "toy", "model": "m", "snapshot": "s"} | fields)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    publish(tmp_path)
    with TestClient(create_app(tmp_path, load=toy), raise_server_exceptions=False) as client:
        yield client


def test_answers(client: TestClient) -> None:
    found = client.get("/users/ann/recommendations", params={"k": 2})
    assert found.status_code == 200
    assert found.json() == {
        "user_id": "ann",
        "items": [
            {"item_id": "i0", "title": "Tea 0", "score": None, "explanation": None},
            {"item_id": "i1", "title": "Tea 1", "score": None, "explanation": None},
        ],
        "source": "popular",
        "reason": "unknown user",
        "versions": {"recipe": "toy"},
    }
    assert len(client.get("/users/ann/recommendations").json()["items"]) == 10
    assert len(client.get("/users/ann/recommendations?k=100").json()["items"]) == 100
    assert client.get("/users/a%2Fb%20c/recommendations").json()["user_id"] == "a/b c"
    assert client.get("/v1/users/ann/recommendations?k=2").json() == found.json()
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/health").json()["versions"] == {"recipe": "toy"}


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/users/ann/recommendations?k=0", "k: Input should be greater than or equal to 1"),
        ("/users/ann/recommendations?k=101", "k: Input should be less than or equal to 100"),
        (
            "/users/ann/recommendations?k=ten",
            "k: Input should be a valid integer, unable to parse string as an integer",
        ),
        (f"/users/{'u' * 257}/recommendations", "user_id: String should have at most 256 characters"),
    ],
)
def test_bad_requests_are_told_in_one_line(client: TestClient, path: str, detail: str) -> None:
    found = client.get(path)
    field, _, told = detail.partition(": ")
    assert found.headers["content-type"] == "application/problem+json"
    problem = found.json()
    assert found.headers["x-request-id"] == problem.pop("request_id")
    assert problem == {
        "type": "urn:tessera:bad-request",
        "title": HTTPStatus(422).phrase,
        "status": found.status_code,
        "detail": detail,
        "errors": [{"field": field, "detail": told}],
    }


def test_failures_keep_their_details_to_the_log(client: TestClient) -> None:
    found = client.get("/v1/search?q=broken")
    # Who cannot be looked up is a stranger.
    answer = client.get("/users/broken/recommendations").json()
    assert found.status_code == 500
    assert found.json()["detail"] == "internal error; the service's log says more"
    assert "secret" not in found.text
    assert (answer["source"], answer["reason"]) == ("popular", "the online store does not answer")


def test_not_ready_until_something_is_published(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path, load=toy)) as client:
        for path in ("/health", "/users/ann/recommendations"):
            found = client.get(path)
            assert found.status_code == 503
            assert found.json()["detail"].endswith(
                "champion.json does not exist: nothing has been published yet, run `make demo`"
            )
        publish(tmp_path)
        eventually(lambda: client.get("/health").status_code == 200)


def test_what_is_published_next_is_served_next(tmp_path: Path) -> None:
    publish(tmp_path, recipe="first")
    with TestClient(create_app(tmp_path, load=toy)) as client:

        def health() -> tuple[str, str, str]:
            told = client.get("/health").json()
            return told["versions"]["recipe"], told["status"], told["stale"]

        assert health() == ("first", "ok", "")
        publish(tmp_path, recipe="second")
        eventually(lambda: health() == ("second", "ok", ""))
        # What cannot be loaded, or was taken away, does not end the service.
        (tmp_path / "champion.json").write_text("{}", encoding="utf-8")
        eventually(
            lambda: health() == ("second", "degraded", f"{tmp_path}/champion.json: recipe: Field required")
        )
        (tmp_path / "champion.json").unlink()
        eventually(lambda: "does not exist" in health()[2])
        assert health()[:2] == ("second", "degraded")
        publish(tmp_path, recipe="third")
        eventually(lambda: health() == ("third", "ok", ""))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        (json.dumps({"model": "m", "snapshot": "s"}), "recipe: Field required"),
        (json.dumps({"recipe": "r", "model": "m", "snapshot": "s", "as_of": "2025-01-01T00:00:00"}), "as_of"),
    ],
)
def test_malformed_publication_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "champion.json").write_text(content, encoding="utf-8")
    with pytest.raises(EngineError, match=message) as raised:
        read_published(tmp_path)
    assert "\n" not in str(raised.value)
    assert "champion.json" in str(raised.value)


def test_missing_snapshot_is_named(tmp_path: Path) -> None:
    publish(tmp_path, snapshot="snapshots/nowhere")
    with pytest.raises(EngineError, match="snapshots/nowhere"):
        load_engine(tmp_path)


def test_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    with TestClient(create_app_from_env()) as client:
        assert str(tmp_path) in client.get("/health").json()["detail"]


def test_from_marts_to_an_answer(tmp_path: Path) -> None:
    """The real parts together: snapshot, recommender, feature store, service."""
    from ml.evaluation.splits import split
    from ml.recommenders import build
    from ml.snapshot import load_snapshot, write_snapshot
    from serving.feature_store import apply_definitions
    from serving.materialize import materialize

    write_histories(tmp_path, {"u0": ["i1", "i2"], "u1": ["i1", "i3"], "u2": ["i1", "i3", "i2"]})
    snapshot = load_snapshot(write_snapshot(tmp_path / "marts", None, None, tmp_path / "snapshots"))
    champion = build({"kind": "transitions"})
    champion.fit(split(snapshot.histories, "full"), snapshot.catalogue, seed=0)
    (tmp_path / "model").mkdir()
    champion.save(tmp_path / "model")
    made_from = {"snapshot": snapshot.manifest.version}
    write_manifest(tmp_path / "model", Manifest(kind="model", version="m", inputs=made_from))
    apply_definitions(tmp_path)
    materialize(tmp_path, day(4))
    fields = {"model": "model", "snapshot": f"snapshots/{snapshot.folder.name}", "popular": ["i3", "i1"]}

    def answer(user: str, **extra: Any) -> dict[str, Any]:
        publish(tmp_path, **fields, **extra)
        with TestClient(create_app(tmp_path)) as client:
            found: dict[str, Any] = client.get(f"/users/{user}/recommendations").json()
            return found

    expected, scores = champion.recommend(snapshot.histories.rows(np.array([0])), 2)
    served = answer("u0", as_of=day(5).isoformat())
    assert served["source"] == "champion"
    assert [i["item_id"] for i in served["items"]] == [f"i{n}" for n in expected[0] if n >= 0]
    assert served["items"][0]["score"] == pytest.approx(float(scores[0, 0]))
    assert served["items"][0]["title"] == "Tea 3"
    late = answer("u0", as_of=(day(5) + timedelta(days=800)).isoformat())
    assert (late["source"], late["reason"]) == ("popular", "history is 802.0 days old, older than 730")
    # These logs ended long ago: without a time of their own, real time makes every history too old.
    assert answer("u0")["source"] == "popular"


def test_what_is_left_of_a_publication_is_served(tmp_path: Path) -> None:
    from ml.evaluation.splits import split
    from ml.recommenders import build
    from ml.snapshot import load_snapshot, write_snapshot
    from serving.feature_store import apply_definitions
    from serving.materialize import materialize

    write_histories(tmp_path, {"u0": ["i1", "i2"], "u1": ["i1", "i3"], "u2": ["i1", "i3", "i2"]})
    snapshot = load_snapshot(write_snapshot(tmp_path / "marts", None, None, tmp_path / "snapshots"))
    for name, kind in (("model", "popularity"), ("heuristic", "transitions")):
        recommender = build({"kind": kind})
        recommender.fit(split(snapshot.histories, "full"), snapshot.catalogue, seed=0)
        (tmp_path / name).mkdir()
        recommender.save(tmp_path / name)
        made_from = {"snapshot": snapshot.manifest.version}
        write_manifest(tmp_path / name, Manifest(kind="model", version=name, inputs=made_from))
    fields = {"model": "model", "snapshot": f"snapshots/{snapshot.folder.name}", "as_of": day(5).isoformat()}

    def answer() -> tuple[str, str, str]:
        publish(tmp_path, heuristic="heuristic", **fields)
        with TestClient(create_app(tmp_path)) as client:
            found = client.get("/users/u0/recommendations").json()
            return client.get("/health").json()["status"], found["source"], found["reason"]

    unreachable = "history is out of reach: the online store cannot be opened"
    assert answer() == ("degraded", "popular", unreachable)
    apply_definitions(tmp_path)
    materialize(tmp_path, day(4))
    assert answer() == ("ok", "champion", "history of 2 items")
    weights = next((tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:20])
    assert answer() == ("degraded", "heuristic", "the champion cannot be loaded; history of 2 items")
    shutil.rmtree(tmp_path / "heuristic")
    assert answer() == ("degraded", "popular", "the champion cannot be loaded")
    assert load_fallback(tmp_path).missing == ("champion", "heuristic")
    with pytest.raises(EngineError):
        load_engine(tmp_path)


def test_parts_that_were_not_built_on_each_other_are_refused(tmp_path: Path) -> None:
    from ml.evaluation.splits import split
    from ml.index import IndexSpec, build_index, publish_index
    from ml.recommenders import build
    from ml.snapshot import load_snapshot, write_snapshot
    from serving.feature_store import apply_definitions

    write_histories(tmp_path, {"u0": ["i1", "i2"], "u1": ["i1", "i3"]})
    snapshot = load_snapshot(write_snapshot(tmp_path / "marts", None, None, tmp_path / "snapshots"))
    other = load_snapshot(_another_snapshot(tmp_path))
    champion = build({"kind": "transitions"})
    champion.fit(split(snapshot.histories, "full"), snapshot.catalogue, seed=0)
    names = {"of": snapshot.folder.name, "other": other.folder.name}
    for name, made_from in names.items():
        (tmp_path / f"model-{name}").mkdir()
        champion.save(tmp_path / f"model-{name}")
        write_json(tmp_path / f"model-{name}" / "told.json", name)
        (tmp_path / f"trie-{name}").mkdir()
        for kind in ("model", "trie"):
            manifest = Manifest(kind=kind, version=name, inputs={"snapshot": made_from})
            write_manifest(tmp_path / f"{kind}-{name}", manifest)
    spec, vectors = IndexSpec(factory="Flat"), np.eye(4, dtype=np.float32)
    index = {
        (model, made_from): publish_index(
            tmp_path / "index",
            build_index(vectors, spec),
            spec,
            vectors,
            {"model": hash_folder(tmp_path / f"model-{model}"), "snapshot": names[made_from]},
            {},
        )
        for model in names
        for made_from in names
    }
    apply_definitions(tmp_path)

    def load(model: str = "of", trie: str = "of", built_on: tuple[str, str] = ("of", "of")) -> Engine:
        publish(
            tmp_path,
            model=f"model-{model}",
            snapshot=f"snapshots/{names['of']}",
            trie=f"trie-{trie}",
            index=f"index/{index[built_on].name}",
        )
        return load_engine(tmp_path)

    assert load().versions["index"] == f"index/{index['of', 'of'].name}"
    unlike = f"was built on snapshot {names['other']}, not on {names['of']}"
    with pytest.raises(EngineError, match=f"model-other {unlike}"):
        load(model="other")
    with pytest.raises(EngineError, match=f"trie-other {unlike}"):
        load(trie="other")
    with pytest.raises(EngineError, match=unlike):
        load(built_on=("of", "other"))
    with pytest.raises(EngineError, match="was built on model"):
        load(built_on=("other", "of"))


def _another_snapshot(home: Path) -> Path:
    from ml.snapshot import write_snapshot

    marts = home / "marts"
    histories = pq.read_table(marts / "user_histories.parquet")
    (home / "later").mkdir()
    pq.write_table(histories.slice(0, 2), home / "later" / "user_histories.parquet")
    pq.write_table(pq.read_table(marts / "dim_items.parquet"), home / "later" / "dim_items.parquet")
    return write_snapshot(home / "later", None, None, home / "snapshots")
