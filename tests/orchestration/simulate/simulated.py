"""A small simulation and its files, shared by the tests of the simulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from orchestration.simulate import SimulationConfig, SimulationReport, simulate

SMALL = SimulationConfig(seed=3, days=6, start=date(2024, 2, 27), items=400, users=500, events=12_000)
FAULTLESS = {"late": 0.0, "duplicated": 0.0, "out_of_order": 0.0, "broken": 0.0}


@dataclass(frozen=True)
class Simulated:
    config: SimulationConfig
    landing: Path
    truth: Path
    report: SimulationReport

    def files(self, kind: str) -> Iterator[tuple[date, list[bytes]]]:
        for path in sorted((self.landing / kind).iterdir()):
            yield date.fromisoformat(path.stem), path.read_bytes().splitlines()

    def events(self) -> list[dict[str, Any]]:
        """All lines in the order of the files, for logs without broken lines."""
        return [json.loads(line) for _, lines in self.files("events") for line in lines]

    def items(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, lines in self.files("items") for line in lines]


def run(config: SimulationConfig, folder: Path) -> Simulated:
    landing, truth = folder / "landing", folder / "truth"
    return Simulated(config, landing, truth, simulate(config, landing, truth))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
