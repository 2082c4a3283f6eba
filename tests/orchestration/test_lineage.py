"""Where every column comes from, and what Dagster shows of it."""

from __future__ import annotations

from typing import Any

import pytest

from ml.artifacts import read_json
from orchestration.lineage import LINEAGE, LineageError, column_lineage

EVENTS = "source.shop.lake.events"


def model(name: str, sql: str, *parents: str) -> dict[str, Any]:
    return {
        "resource_type": "model",
        "relation_name": f'"db"."main"."{name}"',
        "compiled_code": sql,
        "depends_on": {"nodes": list(parents)},
    }


def manifest(**models: dict[str, Any]) -> dict[str, Any]:
    source = {
        "relation_name": "read_parquet('/x/*.parquet', hive_partitioning = true)",
        "columns": {"user_id": {}, "item_id": {}, "price": {}},
    }
    return {
        "metadata": {"adapter_type": "duckdb"},
        "sources": {EVENTS: source},
        "nodes": {f"model.shop.{name}": node for name, node in models.items()},
    }


def test_columns_are_followed_through_stars_joins_windows_and_lambdas() -> None:
    found = column_lineage(
        manifest(
            # Models stand in any order.
            totals=model(
                "totals",
                """
                with e as (select * from "db"."main"."staged"),
                lists as (select who, array_agg(item_id order by price) as items from e group by who)
                select lists.who, list_filter(lists.items, lambda x: x <> 'none') as items, count(*) as n,
                    sum(e.price) over (partition by lists.who) as spent
                from lists left join e on lists.who = e.who""",
                "model.shop.staged",
            ),
            staged=model(
                "staged",
                "select *, user_id as who from read_parquet('/x/*.parquet', hive_partitioning = true)",
                EVENTS,
            ),
        )
    )
    assert found["model.shop.staged"] == {
        "user_id": [(EVENTS, "user_id")],
        "item_id": [(EVENTS, "item_id")],
        "price": [(EVENTS, "price")],
        "who": [(EVENTS, "user_id")],
    }
    staged = "model.shop.staged"
    assert found["model.shop.totals"] == {
        "who": [(staged, "who")],
        "items": [(staged, "item_id"), (staged, "price")],
        "n": [],
        "spent": [(staged, "price"), (staged, "who")],
    }


def test_sql_that_cannot_be_read_is_named() -> None:
    with pytest.raises(LineageError, match=r"^model\.shop\.broken: .+"):
        column_lineage(manifest(broken=model("broken", "select from where (", EVENTS)))


def test_every_column_of_a_mart_comes_from_somewhere_unless_it_counts_rows() -> None:
    found = read_json(LINEAGE)
    bare = {
        f"{key.rpartition('.')[2]}.{column}"
        for key, columns in found.items()
        for column, parents in columns.items()
        if not parents and ("ftr_" in key or "fct_" in key or "dim_" in key)
    }
    assert bare <= {"dim_users.n_events", "ftr_user__history.history_length"}
    assert ["source.tessera.lake.events", "event_ts"] in found["model.tessera.stg_lake__events"]["event_date"]
    assert ["model.tessera.stg_lake__events", "user_id"] in found["model.tessera.fct_events"]["user_id"]


def test_dagster_shows_meaning_unit_and_lineage() -> None:
    from orchestration.definitions import defs

    graph = defs().resolve_asset_graph()
    nodes = {key.path[-1]: graph.get(key) for key in graph.get_all_asset_keys()}

    def parents(asset: str, column: str) -> list[tuple[str, str]]:
        deps = nodes[asset].metadata["dagster/column_lineage"].deps_by_column[column]
        return [(dep.asset_key.path[-1], dep.column_name) for dep in deps]

    assert parents("fct_events", "item_id") == [("stg_lake__events", "item_id")]
    assert parents("stg_lake__events", "value") == [("raw_events", "value")]
    for asset in ("raw_events", "raw_items", "fct_events", "ftr_user__activity"):
        assert all(c.description for c in nodes[asset].metadata["dagster/column_schema"].columns), asset
    shown = {column.name: column for column in nodes["raw_events"].metadata["dagster/column_schema"].columns}
    assert shown["event_ts"].description == "When it happened. [UTC, microseconds]"
