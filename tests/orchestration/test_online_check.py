"""The asset check on what is online passes, and names a planted difference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView

from feature_repo.services import definitions
from orchestration import settings as settings_module
from orchestration.defs.features.checks import online_equals_offline
from serving import materialize as materialize_module
from serving.feature_store import apply_definitions, open_store
from serving.materialize import materialize

DAY = datetime(2025, 3, 1, tzinfo=UTC)


def write_marts(home: Path) -> None:
    """Write each mart that the views read: three entities, one row each, by the views' own schema."""
    types = {"Int64": pa.int64(), "Float64": pa.float64(), "String": pa.string()}
    for view in definitions(home):
        if not isinstance(view, FeatureView) or not view.batch_source.path.endswith("/*.parquet"):
            continue
        columns = {f"{view.entities[0]}_id": pa.array(["a", "b", "c"])}
        for name in ("event_timestamp", "created_timestamp"):
            columns[name] = pa.array([DAY] * 3, pa.timestamp("us", "UTC"))
        for feature in view.features:
            kind = types.get(str(feature.dtype))
            values = pa.array([1, 2, 3]).cast(kind) if kind is not None else None
            inner = pa.int64() if "Int64" in str(feature.dtype) else pa.string()
            columns[feature.name] = values if values is not None else pa.array([[]] * 3, pa.list_(inner))
        folder = Path(view.batch_source.path).parent
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "2025-02-24.parquet")


def test_planted_difference_fails_the_check_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("TESSERA_PARITY_SAMPLE", "2")
    settings_module.get_settings.cache_clear()
    try:
        write_marts(tmp_path)
        apply_definitions(tmp_path)
        materialize(tmp_path, DAY + timedelta(days=1))
        passed = online_equals_offline()
        assert isinstance(passed, dg.AssetCheckResult)
        assert (passed.passed, passed.description) == (True, "every sampled value is the mart's")

        store = open_store(tmp_path)
        materialize_module._blank(store, store.get_feature_view("item_stats"), ["a", "b", "c"])
        failed = online_equals_offline()
        assert isinstance(failed, dg.AssetCheckResult)
        assert not failed.passed
        assert failed.description is not None
        assert failed.description.startswith("item_stats of item_id ")
        assert "online nothing, offline 2025-03-01 00:00:00+00:00" in failed.description
        assert failed.metadata["differences"].value in (2, 3)
    finally:
        settings_module.get_settings.cache_clear()
