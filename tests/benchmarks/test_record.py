from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.record import Row, show, write


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


def test_records_are_shown_with_the_peer_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("reading", [Row("read", 1234.5, 400.0, "bare read", "rows/s", "higher")], results=tmp_path)
    show(["reading"], tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "bare read" in line]
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells == ["reading", "read", "1,234", "400", "3.09", "rows/s, higher", "bare read"]
