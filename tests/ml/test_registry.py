from __future__ import annotations

from pathlib import Path

import pytest

from ml.artifacts import ArtifactError
from ml.registry import Registry


def test_register_promote_rollback(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "mlflow")
    assert registry.champion() is None
    with pytest.raises(ArtifactError, match="no earlier champion"):
        registry.rollback()
    first = registry.register(tmp_path / "a", {"seed": 0}, {"ndcg@10": 0.04}, {"recipe": "transitions"})
    second = registry.register(tmp_path / "b", {"seed": 0}, {"ndcg@10": 0.05}, {"recipe": "sasrec"})
    assert registry.register(tmp_path / "a", {}, {}, {"recipe": "ignored"}) == first
    registry.promote(first)
    registry.promote(second)
    registry.promote(second)
    assert registry.champion() == second
    assert registry.rollback() == first
    assert registry.rollback() == second
    run = registry.client.search_runs(
        [registry.experiment], "params.seed = '0'", order_by=["metrics.ndcg_at_10"]
    )
    assert [r.data.metrics["ndcg_at_10"] for r in run] == [0.04, 0.05]
    assert Registry(tmp_path / "mlflow").champion() == second
