"""How often the comparisons with the past cry wolf: ``python -m benchmarks.false_alarms`` writes ``results/false-alarms.json``.

Logs of the simulator at the size of the demo, which nothing was done to, are held day by day against the weeks before,
with the default thresholds. Every rule that breaks is a false alarm.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, machine
from ml.artifacts import package_versions, write_json
from orchestration.ingest.events import ingest_events
from orchestration.ingest.spec import load_spec
from orchestration.quality.profiles import Engine
from orchestration.quality.profiling import event_profiles
from orchestration.quality.thresholds import load_thresholds
from orchestration.quality.trailing import compare, event_rules, trailing
from orchestration.simulate import simulate
from orchestration.simulate.config import SimulationConfig

SEEDS = range(5)


def count(seed: int, folder: Path) -> dict[str, Any]:
    """Return what was compared and what broke on the logs of one seed."""
    config = SimulationConfig(seed=seed)
    simulate(config, folder / "landing", folder / "truth")
    days = [config.start + timedelta(days=n) for n in range(config.days)]
    ingest_events(load_spec("simulator"), folder / "landing", days, folder / "lake", folder / "quarantine")
    limits = load_thresholds(None).events
    names = [str(day) for day in days]
    profiles = event_profiles(folder / "lake", folder / "profiles", names, Engine())
    measures = [
        measure
        for day in names
        for measure in compare(
            day, profiles[day], trailing(day, profiles, limits.window), limits.window, event_rules(limits)
        )
    ]
    compared = [measure for measure in measures if not measure.skipped]
    return {
        "seed": seed,
        "days": len({measure.day for measure in compared}),
        "comparisons": len(compared),
        "skipped": len(measures) - len(compared),
        "alarms": [f"{m.day}: {m.rule} {m.of}".strip() for m in compared if m.excess > 0],
    }


def main() -> None:
    """Count, print and record."""
    found = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory(prefix="tessera-alarms-") as folder:
            found.append(count(seed, Path(folder)))
        sys.stdout.write(f"{found[-1]}\n")
    told = {"machine": machine(), "versions": package_versions("tessera", "duckdb", "numpy"), "seeds": found}
    write_json(RESULTS / "false-alarms.json", told)


if __name__ == "__main__":
    main()
