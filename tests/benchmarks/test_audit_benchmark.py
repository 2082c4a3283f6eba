from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.audit import main
from ml.artifacts import read_json
from ml.snapshot import write_snapshot


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Write a snapshot of forty users who walk a ring of ten items, a day a step."""
    events = [
        (f"u{user:02d}", step + 1, f"i{(user + step) % 10}", "view", datetime(2025, 1, 1 + step, tzinfo=UTC))
        for user in range(40)
        for step in range(6)
    ]
    names = ("user_id", "position", "item_id", "event_type", "event_ts")
    columns = dict(zip(names, map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "user_histories.parquet")
    items = [f"i{n}" for n in range(10)]
    table = {"item_id": items, "title": items, "categories": pa.array([["c"]] * 10, pa.list_(pa.string()))}
    pq.write_table(pa.table(table), tmp_path / "dim_items.parquet")
    return write_snapshot(tmp_path, None, None, tmp_path / "snapshots")


def test_record_of_a_snapshot(ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ring), "--out", str(tmp_path)]) == 0
    told = read_json(tmp_path / f"audit-{ring.name}.json")
    assert told["labels"] == ["local"]
    assert told["data_hash"] == ring.name
    assert told["depth"]["1"] == pytest.approx(1.0)
    assert told["same_day"] == {"training": 0.0, "targets": 0.0}
    assert {"machine", "versions", "cpu_seconds", "date"} <= set(told["provenance"])
    printed = capsys.readouterr().out
    assert f"{ring.name}: Local" in printed
    assert "targets one hop away: 1.0000 (catalogue 0.1000)" in printed


def test_what_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "neither a snapshot nor one of amazon-beauty-2014" in capsys.readouterr().err
