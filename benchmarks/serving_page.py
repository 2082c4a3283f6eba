"""The figures of ``results/serving.json`` in ``docs/serving.md``: ``python -m benchmarks.serving_page``.

A later record of some cases alone, ``results/serving-CASE.json``, takes the place of their rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS
from ml.artifacts import read_json, write_text

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- figures: begin, by benchmarks/serving_page.py -->", "<!-- figures: end -->"


def table(record: dict[str, Any]) -> str:
    """Return the rows of a record as Markdown."""
    machine, date = record["machine"], record["date"][:10]
    lines = [
        f"{date}, {machine['cores']} cores ({machine['processor']}), client and service together:",
        "",
        "| case | | beside | |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        peer = "" if row["peer"] is None else f"{_number(row['peer'])} {row['unit']}: {row['peer_name']}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        lines.append(f"| {row['case']} | {_number(row['ours'])} {row['unit']} | {peer} | {ratio} |")
    return "\n".join(lines)


def newest(results: Path) -> dict[str, Any]:
    """Return the record of all cases, with the rows of later records of some in place of its own."""
    record: dict[str, Any] = read_json(results / "serving.json")
    parts = sorted(
        (read_json(path) for path in results.glob("serving-*.json")), key=lambda part: part["date"]
    )
    again = {row["case"]: row for part in parts if part["date"] > record["date"] for row in part["rows"]}
    return record | {"rows": [again.get(row["case"], row) for row in record["rows"]]}


def with_table(page: str, record: dict[str, Any]) -> str:
    """Return a page with the figures between its marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(record)}\n{END}{after}"


def main(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the figures into the page."""
    write_text(page, with_table(page.read_text(encoding="utf-8"), newest(results)))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


if __name__ == "__main__":
    main()
