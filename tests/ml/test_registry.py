from __future__ import annotations

from pathlib import Path

import pytest

from ml.artifacts import ArtifactError
from ml.registry import PREVIOUS, Registry


def test_register_bind_promote(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "mlflow")
    assert registry.champion() is None
    tags = {"recipe": "transitions", "bound.tokenizer": "aa"}
    first = registry.register(tmp_path / "a", {"seed": 0}, {"ndcg@10": 0.04}, tags)
    second = registry.register(tmp_path / "b", {"seed": 0}, {"ndcg@10": 0.05}, {"recipe": "sasrec"})
    assert registry.register(tmp_path / "a", {}, {}, {"recipe": "ignored"}) == first
    assert first.bound == {"tokenizer": "aa"}
    registry.promote(first.number)
    registry.promote(second.number)
    registry.promote(second.number)
    assert registry.champion() == second
    assert registry.client.get_model_version_by_alias("recommender", PREVIOUS).tags == first.tags
    registry.bind(first.number, {"index": "bb"})
    registry.bind(first.number, {"index": "cc"})
    registry.promote(first.number)
    live = registry.champion()
    assert live is not None
    assert live.bound == {"tokenizer": "aa", "index": "cc"}
    run = registry.client.search_runs(
        [registry.experiment], "params.seed = '0'", order_by=["metrics.ndcg_at_10"]
    )
    assert [r.data.metrics["ndcg_at_10"] for r in run] == [0.04, 0.05]
    assert Registry(tmp_path / "mlflow").champion() == live


def test_part_that_changed_since_it_was_registered_is_named(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "mlflow")
    registry.register(tmp_path / "a", {}, {}, {"bound.tokenizer": "aa", "bound.vectors": "vv"})
    with pytest.raises(ArtifactError, match=r"tokenizer: what version 1 .* its content is bb, aa was bound"):
        registry.register(tmp_path / "a", {}, {}, {"bound.tokenizer": "bb", "bound.vectors": "vv"})
