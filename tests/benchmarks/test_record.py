from __future__ import annotations

import json
from pathlib import Path

from benchmarks.record import Row, write


def test_the_record_holds_ours_the_peers_and_the_ratio(tmp_path: Path) -> None:
    rows = [
        Row("read", 800.0, 1600.0, "bare read", "rows/s", "higher", {"rows": 10}),
        Row("alone", 3.0, None, "", "seconds", "lower"),
    ]
    path = write("reading", rows, seed=7, results=tmp_path)
    told = json.loads(path.read_text())
    assert path == tmp_path / "reading.json"
    assert (told["benchmark"], told["seed"]) == ("reading", 7)
    assert told["rows"][0] == {
        "case": "read",
        "ours": 800.0,
        "peer": 1600.0,
        "peer_name": "bare read",
        "ratio": 0.5,
        "unit": "rows/s",
        "better": "higher",
        "extra": {"rows": 10},
    }
    assert told["rows"][1]["ratio"] is None
    assert {"system", "processor", "cores", "memory_gb"} <= told["machine"].keys()
    assert told["versions"]["duckdb"] != "unknown"
    assert told["date"].endswith("+00:00")
