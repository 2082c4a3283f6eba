from __future__ import annotations

from datetime import date
from pathlib import Path

from benchmarks.replay.nights import Landing
from orchestration.ingest.spec import load_spec


def test_days_land_one_by_one(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name in (
        "events/2025-03-01.jsonl",
        "events/2025-03-02.jsonl",
        "items/2025-03-01.jsonl",
        "items/2025-03-03.jsonl",
    ):
        (logs / name).parent.mkdir(parents=True, exist_ok=True)
        (logs / name).write_text("{}\n")
    landing = Landing(load_spec("simulator"), logs, tmp_path / "landing")

    def landed() -> list[str]:
        return sorted(path.relative_to(landing.path).as_posix() for path in landing.path.rglob("*.jsonl"))

    landing.reveal(date(2025, 3, 1))
    assert landed() == ["events/2025-03-01.jsonl", "items/2025-03-01.jsonl"]
    landing.reveal(date(2025, 3, 2))
    assert landed() == ["events/2025-03-01.jsonl", "events/2025-03-02.jsonl", "items/2025-03-01.jsonl"]


def test_one_file_of_many_days_is_read_where_it_is(tmp_path: Path) -> None:
    landing = Landing(load_spec("deskdrop"), tmp_path / "logs", tmp_path / "landing")
    landing.reveal(date(2016, 4, 1))
    assert landing.path == tmp_path / "logs"
    assert not landing.folder.exists()
