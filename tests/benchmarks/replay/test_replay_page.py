from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.replay.page import page, write_page


def record() -> dict[str, Any]:
    def policy(ndcg: float, champion: str, seconds: dict[str, float]) -> dict[str, Any]:
        return {
            "ndcg@10": ndcg,
            "champion": champion,
            "churn": {"lists": 0.25, "semantic_ids": 0.0},
            "groups": {job: {"ingest": value} for job, value in seconds.items()},
            "seconds": seconds,
        }

    def row(day: str, seconds: dict[str, float]) -> dict[str, Any]:
        return {
            "day": day,
            "queries": 1200,
            "popularity": {"ndcg@10": 0.01},
            "psi": 0.05,
            "psi_by_chance": 0.02,
            "new_items": 0.125,
            "policies": {
                "frozen": policy(0.1, "sasrec", {}),
                "nightly": policy(0.2, "sasrec", seconds),
                "weekly": policy(0.3, "transitions", seconds | {"retrain": 90.0} if seconds else {}),
            },
        }

    return {
        "benchmark": "replay-shop",
        "machine": {"cores": 2},
        "first_day_loaded": "2025-03-01",
        "start": {"backfill": {"seconds": 10.0}, "retrain": {"seconds": 100.0}},
        "recipes": ["sasrec", "transitions"],
        "rows": [row("2025-03-10", {}), row("2025-03-11", {"nightly": 40.0})],
        "summary": {
            "queries": 2400,
            "ndcg@10": {"frozen": 0.1, "nightly": 0.2},
            "differences": {"nightly - frozen": {"mean": 0.1, "low": 0.09, "high": 0.11}},
        },
    }


def test_a_line_tells_each_policys_day() -> None:
    lines = page("shop", record()).splitlines()
    told = next(line for line in lines if line.startswith("| 2025-03-11"))
    assert [cell.strip() for cell in told.strip("|").split("|")] == [
        *["2025-03-11", "1,200", "0.1000", "0.2000", "0.3000", "0.0100", "0.050", "0.020", "12.5%"],
        *["25.0%", "25.0%", "40", "40 + 90"],
    ]
    assert "| nightly - frozen | +0.1000 | [+0.0900, +0.1100] |" in lines
    assert "| weekly | transitions |" in lines


def test_the_picture_is_the_same_for_the_same_record(tmp_path: Path) -> None:
    first = write_page("shop", record(), tmp_path / "a").with_suffix(".svg").read_bytes()
    again = write_page("shop", record(), tmp_path / "b").with_suffix(".svg").read_bytes()
    assert first == again
    assert b"<svg" in first
