"""Curves of measures over days, as pictures inside a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _DAYS = 240, 36, 90

Trend = Mapping[str, Mapping[str, Sequence[float | None]]]


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Sequence[float | None]]]:
    """Return the trend of several verdicts, of which later ones win, over the newest days."""
    found: dict[str, dict[str, Sequence[float | None]]] = {}
    for record in records:
        for measure, days in record.get("trend", {}).items():
            found.setdefault(measure, {}).update(days)
    return {
        measure: dict(sorted(days.items())[-_DAYS:])
        for measure, days in sorted(found.items(), key=_rows_first)
    }


def trend_table(trend: Trend) -> str:
    """Return a table with a curve for each measure; days outside their limits are red."""
    rows = []
    for measure, days in trend.items():
        day, (value, low, high) = list(days.items())[-1]
        if value is None:
            continue
        limits = f"{'' if low is None else _short(low)} to {'' if high is None else _short(high)}"
        kind = "warned" if _outside(value, low, high) else "passed"
        rows.append(
            f"<tr><td>{escape(measure)}</td><td>{sparkline(list(days.values()))}</td>"
            f'<td>{escape(day)}</td><td class="{kind}">{_short(value)}</td>'
            f"<td>{limits if (low, high) != (None, None) else ''}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("Measure", "Newest days", "Day", "Value", "Expected"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def sparkline(points: Sequence[Sequence[float | None]]) -> str:
    """Return a small curve.

    Parameters
    ----------
    points
        Value and its two limits by day, oldest first.
    """
    values = [point[0] or 0.0 for point in points]
    low, high = min(0.0, *values), max(1e-9, *values)
    places = [
        (
            4 + (_WIDTH - 8) * place / max(len(values) - 1, 1),
            _HEIGHT - 4 - (_HEIGHT - 8) * (value - low) / (high - low),
        )
        for place, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="var(--bad)"/>'
        for (x, y), (value, least, most) in zip(places, points, strict=True)
        if value is not None and _outside(value, least, most)
    )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{len(values)} days">'
        f'<polyline points="{line}" fill="none" stroke="currentColor"/>{marks}</svg>'
    )


def _outside(value: float, low: float | None, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rows_first(item: tuple[str, object]) -> tuple[bool, str]:
    return item[0] != "rows", item[0]
