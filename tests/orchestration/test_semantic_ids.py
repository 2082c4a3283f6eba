"""Tokenizer and semantic IDs on a small home: what goes live, what does not, and what people see of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import Manifest, current, read_manifest
from ml.tokenizers.items import ItemData
from ml.tokenizers.lifecycle import load_semantic_ids
from ml.tokenizers.residual_kmeans import ResidualKMeans
from ml.vectors.store import save_vectors
from orchestration.semantic_ids import PAGE, assign, fit
from orchestration.settings import Settings, get_settings
from tests.ml.tokenizers.samples import sample_items

N = 200


def write_vectors(home: Path, n: int) -> None:
    items = sample_items(n)
    for name, vectors in items.spaces.items():
        manifest = Manifest(kind="vectors", version=f"{name}-{n}")
        save_vectors(home / "vectors" / name, manifest, list(items.item_ids), vectors)
    catalogue = {
        "item_id": pa.array(items.item_ids, pa.string()),
        "categories": pa.array(items.categories, pa.list_(pa.string())),
    }
    (home / "marts").mkdir(exist_ok=True)
    pq.write_table(pa.table(catalogue), home / "marts" / "dim_items.parquet")
    times = [datetime(2025, 1, 1 + day, tzinfo=UTC) for day in range(6)]
    histories = {
        "user_id": np.repeat([f"u{user}" for user in range(n // 6)], 6),
        "position": np.tile(np.arange(1, 7), n // 6),
        "item_id": [items.item_ids[place] for place in range(n // 6 * 6)],
        "event_type": ["view"] * (n // 6 * 6),
        "event_ts": pa.array(times * (n // 6), pa.timestamp("us", tz="UTC")),
    }
    pq.write_table(pa.table(histories), home / "marts" / "user_histories.parquet")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_vectors(tmp_path, N)
    return Settings(home=tmp_path)


def collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: ResidualKMeans, scaled: np.ndarray, items: ItemData) -> np.ndarray:
        return np.zeros((len(scaled), self.params.levels), np.int32)

    monkeypatch.setattr(ResidualKMeans, "_encode", encode)


def test_what_passes_goes_live_with_a_page(settings: Settings) -> None:
    fitted = fit(settings)
    assert fitted.verdict.passed
    assert current(settings.tokenizers) == fitted.folder
    assert not (settings.semantic_ids / "CURRENT").exists()
    given = assign(settings)
    assert given.verdict.passed
    assert current(settings.semantic_ids) == given.folder == fitted.ids
    page = (given.folder / PAGE).read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace("data:image", "")
    for told in (
        "share unique",
        "perplexity",
        "gini",
        "behaviour",
        "prefix_2",
        "residual_kmeans",
        "promises",
    ):
        assert told in page
    assert "semantic_ids" in (settings.quality / "index.html").read_text()


def test_fitting_again_changes_nothing(settings: Settings) -> None:
    first, ids = fit(settings).folder, assign(settings).folder
    assert fit(settings).folder == first
    assert assign(settings).folder == ids


def test_retrained_tokenizer_begins_from_the_live_one_unless_told_not_to(settings: Settings) -> None:
    first = fit(settings).folder
    assign(settings)
    write_vectors(settings.home, N + 16)
    warm = fit(settings)
    assert read_manifest(warm.folder).recipe["start"] == first.name
    assert warm.report["churn"]["kept"] == N
    cold = fit(settings.model_copy(update={"warm_start": False}))
    assert read_manifest(cold.folder).recipe["start"] is None
    assert cold.folder != warm.folder
    assert current(settings.tokenizers) == cold.folder


def test_collapsed_tokenizer_leaves_what_stood(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    standing, ids = fit(settings).folder, assign(settings).folder
    write_vectors(settings.home, N + 16)
    with monkeypatch.context() as patch:
        collapse(patch)
        bad = fit(settings)
    assert not bad.verdict.passed
    assert bad.folder != standing
    assert current(settings.tokenizers) == standing
    assert current(settings.semantic_ids) == ids
    assert "largest_collision" in (bad.ids / PAGE).read_text()
    # The night goes on with the tokenizer that stood.
    night = assign(settings)
    assert night.verdict.passed
    assert load_semantic_ids(night.folder).tokenizer == standing.name


def test_night_that_spoils_the_ids_leaves_what_stood(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(settings)
    ids = assign(settings).folder
    write_vectors(settings.home, 20 * N)
    collapse(monkeypatch)
    spoiled = assign(settings)
    assert not spoiled.verdict.passed
    assert spoiled.folder != ids
    assert current(settings.semantic_ids) == ids


def test_failed_expectations_stop_the_run_and_warnings_do_not(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.defs.semantic_ids.assets import semantic_ids, tokenizer

    own = tmp_path / "own.yaml"
    monkeypatch.setenv("TESSERA_HOME", str(settings.home))
    monkeypatch.setenv("TESSERA_QUALITY_THRESHOLDS", str(own))

    def run(bounds: str) -> tuple[dict[str, tuple[bool, str]], set[str]]:
        own.write_text(f"semantic_ids: {{reconstruction_error: {bounds}}}")
        get_settings.cache_clear()
        result = dg.materialize([tokenizer, semantic_ids], raise_on_error=False)
        checks = {
            found.asset_key.to_user_string(): (found.passed, found.severity.value)
            for found in result.get_asset_check_evaluations()
        }
        return checks, {step.step_key for step in result.get_step_success_events()}

    checks, done = run("{warning: 0, error: 0}")
    assert checks == {"tokenizer": (False, "ERROR")}
    assert done == set()
    assert not (settings.tokenizers / "CURRENT").exists()
    checks, done = run("{warning: 0, error: null}")
    assert checks == {"tokenizer": (False, "WARN"), "semantic_ids": (False, "WARN")}
    assert done == {"tokenizer", "semantic_ids"}
    assert current(settings.semantic_ids)
    get_settings.cache_clear()
