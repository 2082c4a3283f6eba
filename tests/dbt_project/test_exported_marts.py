"""What `dbt run-operation export_marts` leaves."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warehouse_home import PROJECT, Built, Warehouse

KEYS = {
    "dim_items": ["item_id"],
    "dim_users": ["user_id"],
    "fct_events": ["event_id"],
    "ftr_item__stats": ["item_id", "event_timestamp"],
    "ftr_user__activity": ["user_id", "event_timestamp"],
    "ftr_user__history": ["user_id", "event_timestamp"],
    "item_daily": ["item_id", "event_date"],
    "item_transitions": ["item_id", "next_item_id"],
    "user_daily": ["user_id", "event_date"],
    "user_histories": ["user_id", "position"],
}
PARTED = {
    "fct_events": "event_date",
    "ftr_item__stats": "event_timestamp",
    "ftr_user__activity": "event_timestamp",
    "ftr_user__history": "event_timestamp",
    "item_daily": "event_date",
    "user_daily": "event_date",
}


def files_of(marts: Path, name: str) -> list[Path]:
    """Return the one file of a mart, or the parts of a dated one."""
    return sorted((marts / name).glob("*.parquet")) or [marts / f"{name}.parquet"]


def test_every_mart_is_exported_in_the_order_of_its_key(full: Built) -> None:
    assert sorted(p.stem for p in full.marts.iterdir()) == sorted(KEYS)
    for name, key in KEYS.items():
        keys = []
        for path in files_of(full.marts, name):
            table = pq.read_table(path, columns=key)
            part = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
            assert part == sorted(part)
            keys += part
        assert keys
        assert len(keys) == len(set(keys))


def test_strings_in_arrays_are_stored_in_a_dictionary(full: Built) -> None:
    items = 0
    for path in files_of(full.marts, "ftr_user__history"):
        metadata = pq.read_metadata(path)
        leaves = [metadata.row_group(0).column(place) for place in range(metadata.num_columns)]
        (leaf,) = (leaf for leaf in leaves if leaf.path_in_schema.startswith("recent_items."))
        assert leaf.has_dictionary_page
        recent = pq.read_table(path)["recent_items"]
        items = max(items, len(set(recent.combine_chunks().flatten().to_pylist())) / len(recent))
    # So many that DuckDB would not make one by itself.
    assert items > 1 / 5


@pytest.mark.parametrize(("name", "column"), sorted(PARTED.items()))
def test_a_part_holds_the_week_that_names_it(full: Built, name: str, column: str) -> None:
    files = files_of(full.marts, name)
    assert len(files) > 2
    for path in files:
        monday = date.fromisoformat(path.stem)
        assert monday.weekday() == 0
        days = {getattr(v, "date", lambda v=v: v)() for v in pq.read_table(path)[column].to_pylist()}
        assert days
        assert monday <= min(days) <= max(days) < monday + timedelta(days=7)


def test_only_the_parts_that_were_asked_for_are_written(full: Built) -> None:
    weeks = {name: [path.stem for path in files_of(full.marts, name)] for name in PARTED}
    first, last = weeks["fct_events"][1], weeks["fct_events"][-2]
    inside = date.fromisoformat(last) + timedelta(days=3)
    partly = full.warehouse.export(
        "partly", ranges={"event_date": [first, str(inside)], "event_timestamp": [str(inside), None]}
    )
    for name, column in PARTED.items():
        written = [w for w in weeks[name] if (first <= w <= last if column == "event_date" else w >= last)]
        assert [path.stem for path in files_of(partly, name)] == written
        for part in written:
            path = f"{name}/{part}.parquet"
            assert (partly / path).read_bytes() == (full.marts / path).read_bytes()


def test_timestamps_are_utc_microseconds_and_files_zstd(full: Built) -> None:
    for name in KEYS:
        for path in files_of(full.marts, name):
            file = pq.ParquetFile(path)
            stamps = [f.type for f in file.schema_arrow if pa.types.is_timestamp(f.type)]
            assert all(stamp == pa.timestamp("us", "UTC") for stamp in stamps)
            assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    history = pq.read_schema(files_of(full.marts, "ftr_user__history")[0])
    assert history.field("recent_items").type == pa.list_(pa.field("element", pa.string()))
    assert history.field("recent_ts").type == pa.list_(pa.field("element", pa.int64()))
    assert pq.read_schema(full.marts / "user_histories.parquet").field("position").type == pa.int32()


def test_a_second_full_build_exports_the_same_bytes(full: Built) -> None:
    full.warehouse.dbt("run", "--full-refresh")
    again = full.warehouse.export("again")
    paths = sorted(path.relative_to(full.marts) for path in full.marts.rglob("*.parquet"))
    assert paths == sorted(path.relative_to(again) for path in again.rglob("*.parquet"))
    for path in paths:
        assert (full.marts / path).read_bytes() == (again / path).read_bytes(), path


@pytest.mark.parametrize("name", sorted(KEYS))
def test_contract_describes_every_column(full: Built, name: str) -> None:
    manifest = json.loads((full.warehouse.home / "target" / "manifest.json").read_text())
    node = manifest["nodes"][f"model.tessera.{name}"]
    assert node["config"]["contract"]["enforced"]
    assert node["config"]["meta"]["owner"]
    assert node["config"]["meta"]["key"] == KEYS[name]
    assert node["meta"]["dagster"]["group"] == "warehouse"
    assert list(node["columns"]) == pq.read_schema(files_of(full.marts, name)[0]).names
    assert all(column["description"] for column in node["columns"].values())


def test_sources_are_the_assets_of_ingestion(full: Built) -> None:
    manifest = json.loads((full.warehouse.home / "target" / "manifest.json").read_text())
    keys = {s["name"]: s["config"]["meta"]["dagster"]["asset_key"] for s in manifest["sources"].values()}
    assert keys == {"events": ["raw_events"], "items": ["raw_items"]}


def test_every_model_has_a_page_beside_it() -> None:
    models = {p.with_suffix("") for p in (PROJECT / "models").rglob("*.sql")}
    assert models == {p.with_suffix("") for p in (PROJECT / "models").rglob("*.yml") if p.stem != "sources"}


def test_export_into_a_missing_folder_fails(full: Built, warehouse: Warehouse) -> None:
    missing = warehouse.home / "missing"
    full.warehouse.dbt(
        "run-operation", "export_marts", "--args", json.dumps({"target": str(missing)}), succeeds=False
    )
    assert not missing.exists()


@pytest.mark.parametrize("name", sorted(KEYS))
def test_numbers_and_moments_have_a_unit_and_marts_an_owner(full: Built, name: str) -> None:
    manifest = json.loads((full.warehouse.home / "target" / "manifest.json").read_text())
    node = manifest["nodes"][f"model.tessera.{name}"]
    assert node["config"]["meta"]["dagster"]["owners"] == [f"team:{node['config']['meta']['owner']}"]
    measured = ("bigint", "double", "integer", "decimal", "timestamp")
    assert [
        column["name"]
        for column in node["columns"].values()
        if column["data_type"].startswith(measured) and not column["config"]["meta"].get("unit")
    ] == []
