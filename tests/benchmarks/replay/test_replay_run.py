from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml.artifacts import read_json
from orchestration.simulate import simulate
from orchestration.simulate.config import SimulationConfig

SNIPPET = """
import sys
from pathlib import Path
from benchmarks import record, replay
from benchmarks.replay import __main__ as run, page
run.RESULTS = page.PAGES = Path(sys.argv[1])
run.RETRAIN_EVERY = 1
run.write_page = lambda name, told: page.write_page(name, told, Path(sys.argv[1]))
run.main(data=Path(sys.argv[2]), days=2, until=None, recipes="popularity,transitions", folder=Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_two_nights_of_three_policies_are_lived_and_judged(tmp_path: Path) -> None:
    simulate(
        SimulationConfig(days=6, events=8000, items=300, users=250), tmp_path / "logs", tmp_path / "truth"
    )
    command = [sys.executable, "-c", SNIPPET, *(str(tmp_path / name) for name in ("results", "logs", "work"))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    subprocess.run(command, check=True, env=environment, timeout=900)
    told = read_json(tmp_path / "results" / "replay-simulator.json")
    assert [row["day"] for row in told["rows"]] == ["2025-03-05", "2025-03-06"]
    first, second = (row["policies"] for row in told["rows"])
    # All policies begin with the same lists; the last day is served by lists of the night before.
    assert first["frozen"]["ndcg@10"] == first["nightly"]["ndcg@10"] == first["weekly"]["ndcg@10"] > 0
    assert set(second["weekly"]["seconds"]) == {"nightly", "retrain"}
    assert set(second["nightly"]["seconds"]) == {"nightly"}
    assert second["frozen"]["churn"] == {"lists": 0.0, "semantic_ids": 0.0}
    assert second["nightly"]["churn"]["lists"] > 0
    assert (tmp_path / "results" / "simulator.svg").is_file()
