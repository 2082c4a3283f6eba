from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.artifacts import ArtifactError, write_json
from orchestration.warehouse import (
    LoadedDays,
    begin,
    failures_of,
    plan_between,
    plan_build,
    read_loaded,
    remember,
)


class House:
    """A lake of manifests, a warehouse file and a dbt project."""

    def __init__(self, root: Path) -> None:
        self.lake, self.warehouse, self.project = root / "lake", root / "warehouse.duckdb", root / "dbt"
        (self.project / "models").mkdir(parents=True)
        (self.project / "macros").mkdir()
        (self.project / "models" / "a.sql").write_text("select 1")
        (self.project / "dbt_project.yml").write_text("name: tessera")
        self.variables = {"history_event_types": ["view"]}

    def land(self, day: str, content: str, first: str | None = None) -> None:
        manifest = {"content_hash": content, "min_event_date": first or day, "max_event_date": day}
        write_json(self.lake / "events" / f"day={day}" / "manifest.json", manifest)

    def describe(self, *entries: tuple[str, str | None, float, str]) -> None:
        """Write catalogue entries: item, valid from, price, title."""
        rows: list[dict[str, Any]] = [
            {
                "item_id": item,
                "valid_from": valid_from,
                "price": price,
                "title": title,
                "categories": ["books", "novels"],
                "source_file": "items.jsonl",
                "source_row": row,
            }
            for row, (item, valid_from, price, title) in enumerate(entries)
        ]
        table = pa.Table.from_pylist(rows)
        moments = table["valid_from"].cast(pa.timestamp("us", "UTC"))
        table = table.set_column(table.schema.get_field_index("valid_from"), "valid_from", moments)
        (self.lake / "items").mkdir(exist_ok=True)
        pq.write_table(table, self.lake / "items" / "items.parquet")

    def plan(self):
        return plan_build(self.lake, self.warehouse, self.project, self.variables)

    def build(self) -> None:
        plan = self.plan()
        self.warehouse.touch()
        remember(self.warehouse, plan.loaded)


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.land("2025-03-01", "a")
    house.land("2025-03-02", "b", first="2025-02-27")
    return house


def test_empty_lake_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no events: materialize raw_events first"):
        House(tmp_path).plan()


def test_first_build_is_full(house: House) -> None:
    plan = house.plan()
    assert (plan.full, plan.min_date, plan.changed) == (True, None, ("2025-03-01", "2025-03-02"))


def test_build_that_died_is_planned_again(house: House) -> None:
    house.warehouse.touch()
    assert house.plan().full


def test_new_day_redoes_the_dates_it_holds(house: House) -> None:
    house.build()
    house.land("2025-03-03", "c", first="2025-03-01")
    plan = house.plan()
    assert (plan.full, plan.min_date, plan.max_date) == (False, "2025-03-01", "2025-03-03")
    assert plan.changed == ("2025-03-03",)


def test_changed_day_redoes_the_dates_it_used_to_hold(house: House) -> None:
    house.build()
    house.land("2025-03-02", "b2")
    plan = house.plan()
    assert (plan.min_date, plan.max_date) == ("2025-02-27", "2025-03-02")
    assert plan.known_from == plan.arrived_from == "2025-03-02"


def test_all_that_arrived_since_the_changed_day_is_redone(house: House) -> None:
    """A later day may hold an event of the changed one again, which then counts or counts no more."""
    house.land("2025-03-03", "c", first="2025-02-20")
    house.land("2025-03-04", "d")
    house.build()
    house.land("2025-03-02", "b2")
    plan = house.plan()
    assert plan.changed == ("2025-03-02",)
    assert (plan.arrived_from, plan.min_date, plan.max_date) == ("2025-03-02", "2025-02-20", "2025-03-04")


def test_lost_day_is_a_changed_one(house: House) -> None:
    house.build()
    (house.lake / "events" / "day=2025-03-02" / "manifest.json").unlink()
    plan = house.plan()
    assert (plan.full, plan.changed) == (False, ("2025-03-02",))
    assert (plan.min_date, plan.max_date, plan.known_from) == ("2025-02-27", "2025-03-02", "2025-03-02")


def test_nothing_new_redoes_the_last_day(house: House) -> None:
    house.build()
    plan = house.plan()
    assert (plan.full, plan.changed, plan.max_date, plan.known_from) == (
        False,
        (),
        "2025-03-02",
        "2025-03-02",
    )


def test_changed_project_variables_or_first_day_rebuild_everything(house: House) -> None:
    house.build()
    house.variables = {"history_event_types": ["purchase"]}
    assert house.plan().full
    house.build()
    assert not house.plan().full
    (house.project / "models" / "a.sql").write_text("select 2")
    assert house.plan().full
    house.build()
    (house.lake / "events" / "day=2025-03-01" / "manifest.json").unlink()
    assert house.plan().full
    house.build()
    house.land("2025-02-28", "early")
    assert house.plan().full


def test_features_change_from_where_catalogue_entries_hold(house: House) -> None:
    house.describe(("a", "2025-02-10T09:00:00Z", 1.0, "A"), ("b", None, 2.0, "B"))
    house.build()
    house.describe(("a", "2025-02-10T09:00:00Z", 1.0, "Another title"), ("b", None, 2.0, "B"))
    assert house.plan().known_from == "2025-03-02"
    # Of entries for the same time the last row counts, wherever it stands.
    house.describe(
        ("b", None, 3.0, "B"), ("a", "2025-02-10T09:00:00Z", 1.0, "A"), ("b", None, 2.0, "Corrected")
    )
    assert house.plan().known_from == "2025-03-02"
    house.describe(("a", "2025-02-10T09:00:00Z", 1.5, "A"), ("b", None, 2.0, "B"))
    plan = house.plan()
    assert (plan.full, plan.arrived_from, plan.min_date) == (False, "2025-03-02", "2025-02-27")
    assert plan.known_from == "2025-02-10"
    house.describe(("a", "2025-02-10T09:00:00Z", 1.0, "A"), ("b", None, 2.5, "B"))
    assert house.plan().known_from == "0001-01-01"
    house.describe(("b", None, 2.0, "B"))
    assert house.plan().known_from == "2025-02-10"


def test_plan_between_is_the_same_in_both_directions() -> None:
    one = LoadedDays(
        project="p",
        days={"2025-03-01": "a", "2025-03-02": "b", "2025-03-03": "c"},
        event_dates={"2025-03-02": ("2025-03-01", "2025-03-02"), "2025-03-03": (None, None)},
        items={"2025-03-02": "x"},
    )
    two = one.model_copy(update={"days": one.days | {"2025-03-03": "c2"}, "items": {}})
    there, back = plan_between(one, two), plan_between(two, one)
    assert there.variables == back.variables
    assert (there.changed, there.known_from, there.min_date) == (("2025-03-03",), "2025-03-02", "2025-03-03")
    assert plan_between(None, one).full
    assert plan_between(one, one).changed == ()


def test_build_that_died_is_redone_even_if_the_lake_returns_to_what_it_was(house: House) -> None:
    house.describe(("a", "2025-02-28T00:00:00Z", 1.0, "A"))
    house.land("2025-03-03", "c", first="2025-03-02")
    house.build()
    (house.lake / "events" / "day=2025-03-03" / "manifest.json").unlink()
    house.land("2025-03-02", "b2", first="2025-02-26")
    house.describe(("a", "2025-02-28T00:00:00Z", 2.0, "A"))
    died = house.plan()
    begin(house.warehouse, died)
    again = house.plan()
    assert (again.changed, again.variables) == (died.changed, died.variables)
    house.land("2025-03-02", "b", first="2025-02-27")
    house.land("2025-03-03", "c", first="2025-03-02")
    house.describe(("a", "2025-02-28T00:00:00Z", 1.0, "A"))
    returned = house.plan()
    assert not returned.full
    assert (returned.changed, returned.variables) == (("2025-03-02", "2025-03-03"), died.variables)
    house.build()
    begin(house.warehouse, house.plan())
    assert house.plan().changed == ("2025-03-03",)
    (house.project / "models" / "a.sql").write_text("select 3")
    begin(house.warehouse, house.plan())
    assert read_loaded(house.warehouse) is None


def test_failures_of_a_build_are_one_line(tmp_path: Path) -> None:
    assert failures_of(tmp_path / "none.json") == "dbt ended before it built anything; its log says why"
    nodes = [
        {"unique_id": "model.tessera.dim_items", "status": "success", "message": "OK"},
        {"unique_id": "model.tessera.fct_events", "status": "error", "message": "Out of\n  memory"},
        {"unique_id": "test.tessera.unique_dim_users.ab12", "status": "fail", "message": "Got 2 results"},
        {"unique_id": "model.tessera.marts", "status": "skipped", "message": None},
    ]
    write_json(tmp_path / "run_results.json", {"results": nodes})
    told = failures_of(tmp_path / "run_results.json")
    assert told == "fct_events: Out of memory; unique_dim_users: Got 2 results"


def test_dbt_is_told_the_window_or_everything() -> None:
    day = LoadedDays(project="p", days={"2025-03-01": "a"}, event_dates={"2025-03-01": (None, None)})
    two = LoadedDays(
        project="p",
        days={"2025-03-01": "a", "2025-03-02": "b"},
        event_dates={"2025-03-01": (None, None), "2025-03-02": ("2025-03-01", "2025-03-02")},
    )
    full, night = plan_between(None, day).command({"x": 1}), plan_between(day, two).command({"x": 1})
    assert full[:3] == night[:3] == ["build", "--exclude-resource-type", "unit_test"]
    assert full[-1] == "--full-refresh"
    assert json.loads(night[-1]) == {
        "x": 1,
        "arrived_from": "2025-03-02",
        "min_date": "2025-03-01",
        "max_date": "2025-03-02",
        "known_from": "2025-03-02",
    }
