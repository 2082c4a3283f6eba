"""What is published together was built together: a champion's index, trie and snapshot are its own."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml import files
from ml.artifacts import (
    ArtifactError,
    Manifest,
    current,
    hash_folder,
    read_json,
    read_manifest,
    set_current,
    write_json,
    write_manifest,
    write_text,
)
from ml.evaluation.splits import split
from ml.index import IndexSpec, build_index, make_live, publish_index
from ml.recommenders import build
from ml.snapshot import load_snapshot, write_snapshot
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer
from orchestration import index, publications
from orchestration.index import build_trie, load_champion, publish_recommendations
from orchestration.publications import roll_back
from orchestration.settings import Settings
from serving.published import read_published
from serving.withdrawn import WithdrawnItems
from tests.ml.tokenizers.samples import sample_items

N = 12


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return a home with marts, and two champions to choose from, each on a snapshot of its own tokenizer."""
    settings = Settings(home=tmp_path, seed=0)
    items = sample_items(N)
    settings.marts.mkdir()
    ids = sorted(items.item_ids)
    catalogue = {"item_id": ids, "title": ids, "categories": [["c"]] * N}
    pq.write_table(pa.table(catalogue), settings.marts / "dim_items.parquet")
    histories = {
        "user_id": np.repeat(["u0", "u1", "u2"], 4),
        "position": np.tile(np.arange(1, 5), 3),
        "item_id": ids,
        "event_type": ["view"] * N,
        "event_ts": pa.array(
            [datetime(2025, 1, 1 + n % 4, tzinfo=UTC) for n in range(N)], pa.timestamp("us", tz="UTC")
        ),
    }
    pq.write_table(pa.table(histories), settings.marts / "user_histories.parquet")
    for seed, name in enumerate(("first", "second")):
        params = {"levels": 2, "code_size": 4}
        tokenizer = fit_tokenizer(items, "residual_kmeans", params, seed, {}, settings.tokenizers)
        given = assign_semantic_ids(tokenizer, items, None, settings.semantic_ids)
        snapshot = load_snapshot(write_snapshot(settings.marts, given, None, settings.snapshots))
        model = build({"kind": "popularity"})
        model.fit(split(snapshot.histories, "full"), snapshot.catalogue, seed=0)
        (settings.models / name).mkdir(parents=True)
        model.save(settings.models / name)
        write_json(settings.models / name / "name.json", name)
        made_from = {"snapshot": snapshot.folder.name}
        write_manifest(settings.models / name, Manifest(kind="model", version=name, inputs=made_from))
    return settings


def choose(settings: Settings, model: str, snapshot_of: str | None = None) -> None:
    snapshot = read_manifest(settings.models / (snapshot_of or model)).inputs["snapshot"]
    write_json(
        settings.evaluation / "champion.json",
        {"recipe": "popularity", "model": f"models/{model}", "snapshot": f"snapshots/{snapshot}"},
    )


def index_of(settings: Settings, model: str) -> None:
    spec, vectors = IndexSpec(factory="Flat"), np.eye(N, dtype=np.float32)
    folder = settings.models / model
    made_from = {"model": hash_folder(folder), "snapshot": read_manifest(folder).inputs["snapshot"]}
    make_live(publish_index(settings.index, build_index(vectors, spec), spec, vectors, made_from, {}))


def test_champion_and_snapshot_belong_together(settings: Settings) -> None:
    choose(settings, "first")
    assert load_champion(settings).recipe == "popularity"
    choose(settings, "first", snapshot_of="second")
    with pytest.raises(ArtifactError, match=r"models/first was built on snapshot \w+, not on \w+"):
        load_champion(settings)


def test_index_and_trie_of_another_champion_are_not_published(settings: Settings) -> None:
    choose(settings, "first")
    index_of(settings, "first")
    first_trie, _ = build_trie(settings)
    publish_recommendations(settings)
    standing = read_json(settings.home / "champion.json")
    assert standing["trie"] == f"tries/{first_trie.name}"
    # What answers where the champion cannot is there, and of the same snapshot.
    made = read_manifest(settings.home / standing["heuristic"])
    assert made.inputs["snapshot"] == Path(standing["snapshot"]).name
    assert Path(standing["heuristic"]).parts[:2] == ("models", "transitions")
    assert (standing["encoder"], standing["landing"]["path"]) == (None, "landing/events/{day}.posted.jsonl")
    choose(settings, "second")
    with pytest.raises(ArtifactError, match="was built on model"):
        publish_recommendations(settings)
    index_of(settings, "second")
    with pytest.raises(ArtifactError, match=f"tries/{first_trie.name} was built on snapshot"):
        publish_recommendations(settings)
    assert read_json(settings.home / "champion.json") == standing
    trie, _ = build_trie(settings)
    publish_recommendations(settings)
    assert read_json(settings.home / "champion.json")["trie"] == f"tries/{trie.name}" != standing["trie"]


def test_trie_names_its_tokenizer(settings: Settings) -> None:
    choose(settings, "first")
    trie, _ = build_trie(settings)
    snapshot = load_snapshot(settings.home / read_json(settings.evaluation / "champion.json")["snapshot"])
    assert snapshot.catalogue.tokenizer is not None
    assert read_manifest(trie).inputs == {
        "snapshot": snapshot.folder.name,
        "tokenizer": snapshot.catalogue.tokenizer,
    }
    set_current(settings.tries, trie.name)
    assert current(settings.tries) == trie


def test_setting_is_searched_for_once_for_a_champion(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: list[int] = []
    honest = index.tune_index

    def counted(vectors: Any, queries: Any, k: int, target: float) -> Any:
        tuned.append(k)
        _, _, trials = honest(vectors, queries, k, target)
        spec = IndexSpec(factory="HNSW16", effort=64)
        return build_index(vectors, spec), spec, trials

    monkeypatch.setattr(index, "tune_index", counted)
    choose(settings, "first")
    first = index.build_item_index(settings)
    assert first.passed
    assert current(settings.index) == first.folder
    # Others, of nights long ago, say nothing any more.
    for content in ("{", "{}"):
        write_text(settings.index / f"old{len(content)}" / "manifest.json", content)
    again = index.build_item_index(settings)
    assert (again.spec, again.trials, again.folder) == (first.spec, first.trials, first.folder)
    assert tuned == [100]
    # What was damaged is made anew, by the same setting; another goal asks for another search.
    for name in ("index.faiss", "vectors.safetensors"):
        (first.folder / name).write_bytes(b"damaged")
        assert index.build_item_index(settings).passed
    assert tuned == [100]
    # With its manifest the setting is lost.
    write_text(first.folder / "manifest.json", "{")
    assert index.build_item_index(settings).folder == first.folder
    assert read_manifest(first.folder).metrics["trials"]
    assert tuned == [100, 100]
    index.build_item_index(settings.model_copy(update={"index_k": 5}))
    choose(settings, "second")
    index.build_item_index(settings)
    assert tuned == [100, 100, 5, 100]


def test_withdrawn_items_are_in_no_list(settings: Settings) -> None:
    def lists() -> dict[str, list[str]]:
        table = pq.read_table(publish_recommendations(settings).folder / "recommendations.parquet")
        rows = table.to_pylist()
        assert [row["rank"] for row in rows if row["user_id"] == "u0"] == [1, 2, 3]
        return {user: [r["item_id"] for r in rows if r["user_id"] == user] for user in ("u0", "u1")}

    settings = settings.model_copy(update={"recommendations_k": 3})
    choose(settings, "first")
    index_of(settings, "first")
    build_trie(settings)
    before = lists()
    first = before["u0"][0]
    WithdrawnItems(settings.home).add([first])
    after = lists()
    assert all(first not in items for items in after.values())
    assert after["u0"][:2] == before["u0"][1:]
    WithdrawnItems(settings.home).remove([first])
    assert lists() == before


def publish(settings: Settings, model: str) -> dict[str, Any]:
    """Make a model the champion, and publish it with an index and a trie of its own."""
    choose(settings, model)
    index_of(settings, model)
    build_trie(settings)
    publish_recommendations(settings)
    told: dict[str, Any] = read_json(settings.home / "champion.json")
    return told


def live_versions(settings: Settings) -> list[str]:
    """Return what ``CURRENT`` names, as ``champion.json`` would say it."""
    folders = (settings.index, settings.tries, settings.recommendations)
    return [str(current(folder).relative_to(settings.home)) for folder in folders]


def test_rollback_while_lists_are_made_keeps_the_live_lists(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(settings, "first")
    publish(settings, "second")
    honest = index._recommend_all

    def rolled_back_meanwhile(*told: Any) -> pa.Table:
        roll_back(settings)
        return honest(*told)

    monkeypatch.setattr(index, "_recommend_all", rolled_back_meanwhile)
    WithdrawnItems(settings.home).add(["i0"])
    with pytest.raises(ArtifactError, match="became champion while the lists of"):
        publish_recommendations(settings)
    assert live_versions(settings) == [first[key] for key in ("index", "trie", "recommendations")]


def test_lists_that_are_refused_do_not_become_live(settings: Settings) -> None:
    told = publish(settings, "first")
    (settings.home / told["trie"] / "more.json").write_text("{}")
    WithdrawnItems(settings.home).add(["i0"])
    with pytest.raises(ArtifactError, match=r"trie: .* has changed"):
        publish_recommendations(settings)
    assert live_versions(settings) == [told[key] for key in ("index", "trie", "recommendations")]


@pytest.mark.parametrize("part", ["trie", "heuristic", "recommendations", "index"])
@pytest.mark.parametrize("how", ["truncated", "gone", "manifest truncated", "manifest emptied"])
def test_damaged_part_is_made_anew_by_the_next_night(settings: Settings, part: str, how: str) -> None:
    told = publish(settings, "first")
    folder = settings.home / told[part]
    before, version = hash_folder(folder), read_manifest(folder).version
    file = next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".parquet"))
    file = folder / "manifest.json" if "manifest" in how else file
    file.write_bytes(b"{}" if how == "manifest emptied" else file.read_bytes()[:-10])
    if how == "gone":
        shutil.rmtree(folder)
    assert publish(settings, "first") == told
    assert hash_folder(folder) == before
    assert read_manifest(folder).version == version


def test_damaged_manifest_of_a_training_is_written_again(settings: Settings) -> None:
    told = publish(settings, "first")
    model = settings.home / told["heuristic"]
    before = read_manifest(model.parent)
    for folder in (model.parent, model):
        write_text(folder / "manifest.json", "{")
    assert publish(settings, "first") == told
    assert read_manifest(model.parent).metrics == before.metrics


def test_part_that_was_never_published_is_taken_as_it_is(settings: Settings) -> None:
    choose(settings, "first")
    trie, _ = build_trie(settings)
    assert publications.is_intact(settings, trie)
    assert not publications.is_intact(settings, settings.tries / "other")
    write_json(trie / "manifest.json", {})
    assert not publications.is_intact(settings, trie)


def test_night_that_changes_only_the_catalogue_is_told_to_the_service(settings: Settings) -> None:
    """A late item, taken in by the same day run again: no list changes, and the service watches one file."""
    before = publish(settings, "first")
    assert before["newcomers"] is None
    mark = files.mark(settings.home / "champion.json")
    publish_recommendations(settings)
    assert files.mark(settings.home / "champion.json") == mark, "nothing has changed"
    mart = settings.marts / "dim_items.parquet"
    late = pa.table({"item_id": ["late"], "title": ["late"], "categories": [["c"]]})
    pq.write_table(pa.concat_tables([pq.read_table(mart), late]), mart)
    publish_recommendations(settings)
    after = read_json(settings.home / "champion.json")
    assert {key for key in after if after[key] != before[key]} == {"dim_items", "publication"}
    write_manifest(settings.newcomers / "n", Manifest(kind="newcomers", version="n"))
    set_current(settings.newcomers, "n")
    publish_recommendations(settings)
    assert read_json(settings.home / "champion.json")["newcomers"] == "newcomers/n"
    assert read_published(settings.home).index == before["index"]
