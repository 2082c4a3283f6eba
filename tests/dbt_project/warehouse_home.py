"""A home with a lake, and dbt on it in this process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunner
from warehouse_lakes import HISTORY_LENGTH, Log, write_lake

from orchestration.marts import dated_marts
from orchestration.warehouse import BuildPlan, begin, plan_build, remember

WAREHOUSE = "warehouse.duckdb"
PROJECT = Path(__file__).parents[2] / "dbt_project"


@dataclass(frozen=True)
class Warehouse:
    """A home with a lake, and dbt on it."""

    home: Path

    def dbt(self, *args: str, succeeds: bool = True, **variables: Any) -> list[str]:
        """Run dbt, assert how it ends, and return the ids of the nodes that failed."""
        options = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--quiet"]
        options += ["--target-path", str(self.home / "target"), "--log-path", str(self.home / "logs")]
        options += ["--vars", json.dumps({"history_length": HISTORY_LENGTH, **variables})]
        here = Path.cwd()  # dbt changes into its project
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TESSERA_HOME", str(self.home))
            patch.setenv("DO_NOT_TRACK", "1")
            outcome = dbtRunner().invoke([*args, *options])
        os.chdir(here)
        results = getattr(outcome.result, "results", [])
        failed = [
            getattr(r, "node", r).unique_id for r in results if r.status not in ("success", "pass", "skipped")
        ]
        assert outcome.success is succeeds, (failed, outcome.exception)
        return failed

    def night(self, log: Log, *command: str) -> BuildPlan:
        """Let ``log`` be the lake, and build what has changed."""
        write_lake(self.home, log)
        plan = self._plan()
        begin(self.home / WAREHOUSE, plan)
        full = ["--full-refresh"] if plan.full else []
        self.dbt(*(command or ("run",)), *full, **plan.variables)
        remember(self.home / WAREHOUSE, plan.loaded)
        return plan

    def die(self, log: Log, *models: str) -> BuildPlan:
        """Let ``log`` be the lake, and end a build of it after a few models."""
        write_lake(self.home, log)
        plan = self._plan()
        begin(self.home / WAREHOUSE, plan)
        self.dbt("run", "--select", *models, **plan.variables)
        return plan

    def _plan(self) -> BuildPlan:
        return plan_build(self.home / "lake", self.home / WAREHOUSE, PROJECT, {})

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return all marts as they stand in the database, each in the order of its key."""
        nodes = json.loads((self.home / "target" / "manifest.json").read_text())["nodes"].values()
        keys = {n["name"]: n["config"]["meta"]["key"] for n in nodes if "key" in n["config"].get("meta", {})}
        with duckdb.connect(str(self.home / WAREHOUSE), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return {
                name: connection.execute(f"select * from main_marts.{name} order by {', '.join(key)}")
                .to_arrow_table()
                .to_pylist()
                for name, key in sorted(keys.items())
            }

    def export(self, folder: str = "marts", **arguments: Any) -> Path:
        """Export the marts below the home."""
        target = self.home / folder
        for name in dated_marts(self.home / "target" / "manifest.json"):
            (target / name).mkdir(parents=True)
        self.dbt("run-operation", "export_marts", "--args", json.dumps({"target": str(target), **arguments}))
        return target


@dataclass(frozen=True)
class Built:
    """A log, the warehouse that was built of it, and its exported marts."""

    log: Log
    warehouse: Warehouse
    marts: Path
