"""The asset check on what is online passes, and names a planted difference."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a home with marts and definitions, of which nothing is online yet."""
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("TESSERA_PARITY_SAMPLE", "2")
    settings_module.get_settings.cache_clear()
    write_marts(tmp_path)
    apply_definitions(tmp_path)
    yield tmp_path
    settings_module.get_settings.cache_clear()


def check() -> tuple[dg.AssetCheckResult, str]:
    found = online_equals_offline()
    assert isinstance(found, dg.AssetCheckResult)
    assert found.description is not None
    return found, found.description


def test_planted_difference_fails_the_check_and_is_named(home: Path) -> None:
    materialize(home, DAY + timedelta(days=1))
    passed, told = check()
    assert (passed.passed, told) == (True, "every sampled value is the mart's")

    store = open_store(home)
    materialize_module._blank(store, store.get_feature_view("item_stats"), ["a", "b", "c"])
    failed, told = check()
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert told.startswith("item_stats of item_id ")
    assert "online nothing, offline 2025-03-01 00:00:00+00:00" in told
    assert failed.metadata["differences"].value in (2, 3)


@pytest.mark.parametrize(
    ("days", "severity", "views"),
    [
        (-40, "ERROR", ["item_stats", "user_activity", "user_history"]),
        (400, "WARN", ["item_stats", "user_activity"]),
    ],
)
def test_nothing_online_is_not_taken_for_equal(
    home: Path, days: int, severity: str, views: list[str]
) -> None:
    materialize(home, DAY + timedelta(days=1))
    end = DAY + timedelta(days=days)
    materialize(home, end)
    failed, told = check()
    assert (failed.passed, failed.severity.value) == (False, severity)
    assert [part.split(" is online")[0] for part in told.split("; ")] == [
        f"nothing of {name}" for name in views
    ]
    assert told.startswith(f"nothing of item_stats is online: its newest row is of {DAY}, served are ")
    assert told.endswith(f" to {end}")
