"""The whole chain on tiny logs, in this process: demo, again, a new night, a rollback, a request."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from ml.artifacts import ArtifactError, current, hash_folder, read_json
from orchestration import partitions
from orchestration.demo import ChainError, run_demo
from orchestration.ingest.errors import IngestError
from orchestration.settings import get_settings

TINY = {"DAYS": "5", "EVENTS": "8000", "ITEMS": "300", "USERS": "250"}
RECIPES = ("popularity", "transitions", "graph-heuristic", "sasrec", "tiger")


@dataclass(frozen=True)
class Chain:
    """A finished demo: its home, what it returned and what it printed."""

    home: Path
    summary: dict[str, Any]
    printed: str


def demo() -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    return run_demo("simulator", None, Console(file=out, width=200, soft_wrap=True)), out.getvalue()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("chain") / "home"
    before = dict(os.environ)
    os.environ |= {f"TESSERA_SIMULATION__{name}": value for name, value in TINY.items()}
    os.environ["TESSERA_HOME"] = str(home)
    for cached in (get_settings, partitions.source_spec, partitions.landing_partitions):
        cached.cache_clear()
    yield Chain(home, *demo())
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


def test_summary_has_what_design_promises(chain: Chain) -> None:
    summary = json.loads((chain.home / "summary.json").read_text())
    assert summary == json.loads(json.dumps(chain.summary))
    events = summary["events"]
    assert events["read"] == events["accepted"] + events["quarantined"]
    assert events["quarantined"] > 0
    assert (summary["source"], summary["users"]) == ("simulator", 250)
    assert 0 < summary["semantic_ids"]["distinct"] <= summary["semantic_ids"]["items"] == summary["items"]
    assert set(summary["recommenders"]) == set(RECIPES)
    for found in summary["recommenders"].values():
        for protocol in ("leave_one_out", "temporal"):
            assert {"ndcg@10", "recall@10"} <= set(found[protocol])
            assert 0 <= found[protocol]["ndcg@10"] <= found[protocol]["recall@10"] <= 1
    assert summary["champion"] in RECIPES
    assert summary["bar"] in RECIPES[:3]
    assert summary["index"]["recall@100"] >= 0.99
    assert {"ingest", "warehouse", "features", "vectors", "semantic_ids", "models", "index"} <= set(
        summary["stages"]
    )
    assert summary["seconds"] > 0
    assert summary["peak_rss_mb"] > 100


def test_counting_beats_popularity_and_interests_are_recovered(chain: Chain) -> None:
    found = {name: r["leave_one_out"]["ndcg@10"] for name, r in chain.summary["recommenders"].items()}
    assert found["transitions"] > found["popularity"]
    recovery = chain.summary["interest_recovery"]
    assert recovery["recommendations"] > recovery["popularity"] > recovery["chance"] - 0.05


def test_progress_and_titles_are_printed(chain: Chain) -> None:
    lines = chain.printed.splitlines()
    for stage in (
        "raw_events",
        "warehouse",
        "online_features",
        "semantic_ids",
        "candidates",
        "recommendations",
    ):
        assert sum(f" {stage} " in line and line.endswith(" ok") for line in lines) == 1
    titles = set(
        pq.read_table(chain.home / "marts" / "dim_items.parquet", columns=["title"])["title"].to_pylist()
    )
    shown = [line.split(" gets ")[1].strip().split("; ") for line in lines if " gets " in line]
    assert len(shown) == 3
    assert all(title in titles for row in shown for title in row)


def test_every_stage_left_a_complete_artefact(chain: Chain) -> None:
    for versions in ("vectors/text", "vectors/behaviour", "vectors/fused", "tokenizers", "semantic_ids"):
        current(chain.home / versions)
    for versions in ("snapshots", "index", "tries", "recommendations", *(f"models/{r}" for r in RECIPES)):
        current(chain.home / versions)
    rejected = list((chain.home / "quarantine" / "events").glob("day=*/rejected.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in rejected) == chain.summary["events"]["quarantined"]
    assert "events" in (chain.home / "quality" / "index.html").read_text()
    assert "Purity in categories" in (current(chain.home / "semantic_ids") / "report.html").read_text()


def test_lists_hold_no_item_of_the_history(chain: Chain) -> None:
    lists = pq.read_table(current(chain.home / "recommendations") / "recommendations.parquet")
    histories = pq.read_table(chain.home / "marts" / "user_histories.parquet", columns=["user_id", "item_id"])
    seen = set(zip(*(histories[name].to_pylist() for name in ("user_id", "item_id")), strict=True))
    recommended = list(zip(*(lists[name].to_pylist() for name in ("user_id", "item_id")), strict=True))
    assert recommended
    assert not seen & set(recommended)
    assert len(set(recommended)) == len(recommended)


def test_service_answers_from_the_online_store(chain: Chain) -> None:
    from serving.app import create_app

    user = pq.read_table(chain.home / "marts" / "user_histories.parquet", columns=["user_id"])["user_id"][
        0
    ].as_py()
    with TestClient(create_app(chain.home)) as client:
        answer = client.get(f"/users/{user}/recommendations", params={"k": 5}).json()
        stranger = client.get("/users/nobody/recommendations", params={"k": 5}).json()
    lists = pq.read_table(
        current(chain.home / "recommendations") / "recommendations.parquet", filters=[("user_id", "=", user)]
    )
    assert answer["source"] == "champion"
    assert [item["item_id"] for item in answer["items"]] == lists["item_id"].to_pylist()[:5]
    assert stranger["source"] == "popular"
    assert len(stranger["items"]) == 5


def _online_id(home: Path, item: str) -> str | None:
    from serving.feature_store import open_store

    row = (
        open_store(home).get_online_features(["item_semantic_id:semantic_id"], [{"item_id": item}]).to_dict()
    )
    return row["semantic_id"][0]


def test_semantic_ids_are_online(chain: Chain) -> None:
    ids = pq.read_table(
        current(chain.home / "semantic_ids") / "items.parquet", columns=["item_id", "semantic_id"]
    )
    assert _online_id(chain.home, ids["item_id"][0].as_py()) == ids["semantic_id"][0].as_py()
    assert _online_id(chain.home, "never-seen") is None


def test_second_run_changes_nothing(chain: Chain) -> None:
    marts = hash_folder(chain.home / "marts")
    versions = [
        current(chain.home / name).name for name in ("semantic_ids", "snapshots", "index", "recommendations")
    ]
    again, _ = demo()
    assert hash_folder(chain.home / "marts") == marts
    assert versions == [
        current(chain.home / name).name for name in ("semantic_ids", "snapshots", "index", "recommendations")
    ]
    assert again["recommenders"] == chain.summary["recommenders"]
    assert [path.name for path in (chain.home / "publications").glob("*.json")] == ["1.json"]
    # What the champion was made of, and not what a night serves it with.
    assert {"index", "trie", "heuristic"}.isdisjoint(
        read_json(chain.home / "evaluation" / "champion.json")["bound"]
    )


def test_recall_check_blocks_an_index_that_lost_its_items(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration import index

    live = current(chain.home / "index").name
    honest = index.tune_index

    def halved(vectors: Any, *rest: Any) -> Any:
        built, spec, trials = honest(vectors, *rest)
        built.reset()
        built.add(vectors[: len(vectors) // 2])
        return built, spec.model_copy(update={"effort": 1}), trials

    monkeypatch.setattr(index, "_settled", lambda *_: None)
    monkeypatch.setattr(index, "tune_index", halved)
    built = index.build_item_index(get_settings())
    assert not built.passed
    assert "index holds 150 vectors, the catalogue 300" in built.reason
    assert current(chain.home / "index").name == live
    # Its setting is made up, and later builds begin with the setting of the last one.
    shutil.rmtree(built.folder)


def test_nightly_takes_in_a_new_day(chain: Chain) -> None:
    """A day that landed later, with an item that the champion has never seen."""
    from orchestration.definitions import defs

    landing = chain.home / "landing" / "events"
    last = sorted(landing.glob("*.jsonl"))[-1]
    day = date.fromisoformat(last.stem)
    tomorrow = day.replace(day=day.day + 1).isoformat()
    lines = [
        json.loads(line) for line in last.read_text(errors="replace").splitlines()[:200] if line.endswith("}")
    ]
    for n, line in enumerate(lines):
        line |= (
            {"id": f"new-{n}", "ts": int(line.get("ts", 0)) + 86_400_000}
            if isinstance(line.get("ts"), int)
            else {}
        )
    lines[0] |= {"user": "u000000", "item": "never-seen", "type": "view"}
    fresh = landing / f"{tomorrow}.jsonl"
    fresh.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    before = current(chain.home / "recommendations").name
    try:
        with dg.instance_for_test() as instance:
            job = defs().resolve_job_def("nightly")
            assert job.execute_in_process(instance=instance, partition_key=tomorrow).success
    finally:
        fresh.unlink()
    events = pq.read_table(chain.home / "marts" / "fct_events", columns=["event_id", "event_date"])
    assert date.fromisoformat(tomorrow) in set(events["event_date"].to_pylist())
    assert (
        "never-seen"
        in pq.read_table(current(chain.home / "semantic_ids") / "items.parquet")["item_id"].to_pylist()
    )
    assert current(chain.home / "recommendations").name != before
    assert read_json(chain.home / "champion.json")["recipe"] == chain.summary["champion"]


def test_promotion_needs_an_audit_of_the_live_snapshot(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from ml.evaluation import audit
    from orchestration import models

    settings = get_settings()
    found = models.read_audit(settings)
    assert found is not None
    assert found.data_hash == current(chain.home / "snapshots").name
    gates = {gate["name"]: gate for gate in read_json(settings.evaluation / "champion.json")["gates"]}
    assert gates["audited"]["passed"]
    monkeypatch.setattr(audit, "audit", None)
    assert models.audit_dataset(settings) == found, "what was audited is not audited again"
    path = settings.evaluation / "audit.json"
    kept = path.read_bytes()
    for content in (None, kept.replace(found.data_hash.encode(), b"other"), b"{}"):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"has no audit.*: run dataset_audit"):
            models.decide(settings)
    path.write_bytes(kept)


def test_rollback_brings_back_what_was_served_without_training(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.evaluation.gates import Verdict
    from orchestration import models
    from orchestration.index import publish_champion
    from orchestration.publications import roll_back

    first = chain.summary["champion"]
    other = "sasrec" if first != "sasrec" else "tiger"
    settings = get_settings()
    with pytest.raises(ArtifactError, match="no earlier champion"):
        roll_back(settings)
    monkeypatch.setattr(models, "choose_champion", lambda *_, **__: Verdict(other, []))
    decision = models.decide(settings)
    assert decision.verdict.champion == other
    assert set(decision.version.bound) >= {
        *("encoder", "text_vectors", "vectors", "tokenizer", "semantic_ids"),
        *("catalogue", "evaluated", "recommender"),
    }
    publish_champion(settings)
    champion = models.Registry(settings.mlflow).champion()
    assert champion is not None
    assert {"index", "trie", "heuristic"} <= set(champion.bound)
    assert read_json(chain.home / "champion.json")["recipe"] == other
    monkeypatch.setattr("ml.train.train", None)
    monkeypatch.setattr("orchestration.index.tune_index", None)
    assert roll_back(settings)[0].recipe == first
    live = read_json(chain.home / "champion.json")
    assert live["recipe"] == models.read_decision(settings)["recipe"] == first
    assert live["recommendations"] == f"recommendations/{current(settings.recommendations).name}"


def test_failed_ingest_leaves_what_stood(chain: Chain) -> None:
    lake, marts = hash_folder(chain.home / "lake"), hash_folder(chain.home / "marts")
    victim = sorted((chain.home / "landing" / "events").glob("*.jsonl"))[1]
    kept = victim.read_bytes()
    victim.write_bytes(b"not json\n" * 50)
    try:
        with pytest.raises(ChainError) as error:
            run_demo("simulator", chain.home / "landing", Console(file=io.StringIO()))
    finally:
        victim.write_bytes(kept)
    assert victim.name in str(error.value)
    assert "\n" not in str(error.value)
    assert (hash_folder(chain.home / "lake"), hash_folder(chain.home / "marts")) == (lake, marts)


def test_mistake_about_another_source_leaves_this_home_in_place(chain: Chain) -> None:
    with pytest.raises(IngestError, match="void"):
        run_demo("ml-100k", chain.home / "void", Console(file=io.StringIO()))
    assert (chain.home / "champion.json").is_file()
    assert [p.name for p in chain.home.parent.glob("home.*")] == ["home.lock"]


def test_files_of_the_user_are_never_simulated_over(chain: Chain, tmp_path: Path) -> None:
    mine = tmp_path / "events" / "2025-03-01.jsonl"
    mine.parent.mkdir()
    mine.write_text("mine\n")
    os.environ["TESSERA_DATA"] = str(tmp_path)
    try:
        with pytest.raises(ChainError, match="raw_events"):
            run_demo("simulator", None, Console(file=io.StringIO()))
    finally:
        del os.environ["TESSERA_DATA"]
    assert mine.read_text() == "mine\n"


def test_smaller_simulation_leaves_no_day_of_the_larger(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_SIMULATION__DAYS", "4")
    # What is trained on the days is of no matter here, and takes long.
    monkeypatch.setenv("TESSERA_RECIPES", "popularity,transitions")
    monkeypatch.delenv("TESSERA_DATA", raising=False)
    (chain.home / "settings.json").unlink()
    smaller, _ = demo()
    assert sum(smaller["stages"].values()) <= smaller["seconds"]
    assert len(list((chain.home / "lake" / "events").glob("day=*"))) == 4
    assert smaller["events"]["read"] < chain.summary["events"]["read"] + 100
    events = pq.read_table(chain.home / "marts" / "fct_events", columns=["event_date"])["event_date"]
    assert max(events.to_pylist()) == date(2025, 3, 4)
