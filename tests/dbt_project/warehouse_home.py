"""A home with a lake, and dbt on it in this process."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner
from warehouse_lakes import HISTORY_LENGTH, Log

from orchestration.marts import dated_marts

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
