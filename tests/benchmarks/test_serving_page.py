"""The figures in docs/serving.md are those of the committed record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.record import RESULTS
from benchmarks.serving_page import BEGIN, END, PAGE, newest, table, with_table
from ml.artifacts import write_json

RECORD: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {"cores": 2, "processor": "Some CPU"},
    "rows": [
        {"case": "p99", "ours": 12.345, "peer": 50.0, "peer_name": "limit", "ratio": 0.2469, "unit": "ms"},
        {"case": "mixed", "ours": 0, "peer": None, "peer_name": "", "ratio": None, "unit": "requests"},
        {"case": "rate", "ours": 1234.5, "peer": None, "peer_name": "", "ratio": None, "unit": "requests/s"},
    ],
}


def test_rows_become_a_table() -> None:
    assert table(RECORD).splitlines() == [
        "2026-01-02, 2 cores (Some CPU), client and service together:",
        "",
        "| case | | beside | |",
        "|---|---|---|---|",
        "| p99 | 12.3 ms | 50 ms: limit | 0.25x |",
        "| mixed | 0 requests |  |  |",
        "| rate | 1,234 requests/s |  |  |",
    ]


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = with_table(f"before {BEGIN} old {END} after", RECORD)
    assert page == f"before {BEGIN}\n{table(RECORD)}\n{END} after"
    assert with_table(page, RECORD) == page


def test_later_records_of_some_cases_take_the_place_of_their_rows(tmp_path: Path) -> None:
    def part(date: str, case: str, ours: float) -> dict[str, Any]:
        return RECORD | {"date": date, "rows": [RECORD["rows"][0] | {"case": case, "ours": ours}]}

    write_json(tmp_path / "serving.json", RECORD)
    write_json(tmp_path / "serving-a.json", part("2026-01-03T00:00:00+00:00", "p99", 2.0))
    write_json(tmp_path / "serving-b.json", part("2026-01-04T00:00:00+00:00", "p99", 1.0))
    write_json(tmp_path / "serving-c.json", part("2025-01-01T00:00:00+00:00", "rate", 3.0))
    assert [row["ours"] for row in newest(tmp_path)["rows"]] == [1.0, 0, 1234.5]


def test_the_page_tells_the_committed_figures() -> None:
    if not (RESULTS / "serving.json").is_file():
        pytest.skip("nothing was measured yet")
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, newest(RESULTS)) == page
