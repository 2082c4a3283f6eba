"""Measures as a table that Great Expectations checks, so that they stand in the Data Docs beside the other promises.

One table holds the measures of all days that are checked together, so that a backfill costs one verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestration.quality.report import QualityReport
from orchestration.quality.rules import Rule, Suite, has_rows
from orchestration.quality.thresholds import Limit
from orchestration.quality.trailing import Measure
from orchestration.quality.validate import validate

_TREND_DAYS = 90
_COLUMNS = ("day", "rule", "of", "value", "at_least", "at_most", "skipped")
_WHY = {
    "rows": "a delivery is missing, cut short, or was sent twice",
    "rows by type": "a tracker broke, or one event is logged twice",
    "users": "ids have changed, or robots are at work",
    "items": "the catalogue of what is shown has changed",
    "nulls": "a field got lost on the way",
    "new types": "models and features do not know the type",
    "absent types": "a tracker is silent",
    "drift of hour": "clocks or time zones have changed",
    "drift of days_late": "deliveries lag",
}
_DRIFTED = "models have learned from another distribution"


def check_measures(
    name: str,
    measures: Sequence[Measure],
    rules: Mapping[str, Limit],
    docs: Path,
    batch: str,
    max_failed_rows: int,
) -> QualityReport:
    """Hold measures against their limits.

    Parameters
    ----------
    name
        Name of the suite.
    measures
        Of one day or of many.
    rules
        Rule to its limits, of which the level counts here.
    docs
        Folder of the data docs.
    batch
        Names the days.
    max_failed_rows
        Measures outside their limits that are kept for a rule.
    """
    worst_first = sorted(measures, key=lambda measure: -measure.excess)
    columns = {column: [getattr(measure, column) for measure in worst_first] for column in _COLUMNS}
    types = {column: pa.float64() for column in ("value", "at_least", "at_most")}
    table = pa.table(
        {column: pa.array(values, types.get(column, pa.string())) for column, values in columns.items()}
    )
    suite = Suite(name, _COLUMNS, (has_rows("there is nothing to check"), *_promises(rules)), tell=_told)
    return validate(
        table,
        suite,
        docs,
        batch,
        max_failed_rows=max_failed_rows,
        skipped=_skipped(measures),
        trend=_trend(measures),
    )


def _promises(rules: Mapping[str, Limit]) -> list[Rule]:
    promises = []
    for name, limit in rules.items():
        for word, pair in (("least", ("value", "at_least")), ("most", ("at_most", "value"))):
            if not _has_side(name, word):
                continue
            says = {
                "new types": "no event type is new",
                "absent types": "no event type is absent",
                "nulls": "nulls are at most as many as usual",
            }.get(name, f"{name} {'is' if name.startswith('drift') else 'are'} at {word} {_usual(name)}")
            promises.append(
                Rule(
                    says=says,
                    expectation="ExpectColumnPairValuesAToBeGreaterThanB",
                    arguments={
                        "column_A": pair[0],
                        "column_B": pair[1],
                        "or_equal": True,
                        "ignore_row_if": "either_value_is_missing",
                    },
                    columns=pair,
                    severity="error" if limit.level == "error" else "warning",
                    why=_WHY.get(name, _DRIFTED),
                    only=("rule", (name,)),
                )
            )
    return promises


def _has_side(name: str, word: str) -> bool:
    if name == "absent types":
        return word == "least"
    return word == "most" or name in ("rows", "rows by type", "users", "items")


def _usual(name: str) -> str:
    return "its limit" if name.startswith("drift") else "as many as usual"


def _told(row: Mapping[str, Any]) -> str:
    """Return a measure in words, for example ``2025-03-30 view: 12, usually 200 to 900``."""
    sides = [_number(row[side]) for side in ("at_least", "at_most") if row[side] is not None]
    limits = (
        " to ".join(sides)
        if len(sides) == 2
        else f"{'at least' if row['at_most'] is None else 'at most'} {sides[0]}"
    )
    of = f" {row['of']}" if row["of"] and not row["rule"].startswith("drift") else ""
    return f"{row['day']}{of}: {_number(row['value'])}, expected {limits}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def _skipped(measures: Sequence[Measure]) -> list[str]:
    """Return what was not compared: each rule once, with its last reason and on how many days."""
    days: dict[str, list[Measure]] = {}
    for measure in measures:
        if measure.skipped:
            days.setdefault(measure.rule, []).append(measure)
    return [
        f"{rule}: {found[-1].skipped}" + (f", on {len(found)} days" if len(found) > 1 else "")
        for rule, found in days.items()
    ]


def _trend(measures: Sequence[Measure]) -> dict[str, dict[str, list[float | None]]]:
    days = set(sorted({measure.day for measure in measures})[-_TREND_DAYS:])
    trend: dict[str, dict[str, list[float | None]]] = {}
    for measure in measures:
        whole = measure.rule in ("rows", "users", "items") or measure.rule.startswith("drift")
        if whole and measure.day in days and (measure.rule == "rows" or not measure.skipped):
            trend.setdefault(measure.rule, {})[measure.day] = [
                measure.value,
                measure.at_least,
                measure.at_most,
            ]
    return {rule: dict(sorted(days_.items())) for rule, days_ in trend.items()}
