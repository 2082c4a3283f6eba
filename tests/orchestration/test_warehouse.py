from __future__ import annotations

from pathlib import Path

import pytest

from ml.artifacts import ArtifactError, write_json
from orchestration.warehouse import failures_of, plan_build, remember


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


def test_nothing_new_redoes_the_last_day(house: House) -> None:
    house.build()
    plan = house.plan()
    assert (plan.full, plan.changed, plan.max_date) == (False, (), "2025-03-02")


def test_changed_project_variables_or_lost_day_rebuild_everything(house: House) -> None:
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
