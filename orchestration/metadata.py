"""Tables and plots as asset metadata."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Return rows as a Markdown table, which the UI renders; numbers are shortened."""
    if not rows:
        return dg.MetadataValue.md("(none)")
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_show(row.get(name)) for name in names) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def bar_plot(values: Mapping[str, float], title: str, unit: str) -> dg.MetadataValue:
    """Return a bar chart as an inline picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.4 * len(values) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(values)[::-1], list(values.values())[::-1], color="#4a7ebb")
    axes.set_title(title)
    axes.set_xlabel(unit)
    return _drawn(figure, title)


def curve_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    labels: tuple[str, str],
    target: float | None = None,
) -> dg.MetadataValue:
    """Return a line for each named list of points as an inline picture; the vertical axis is logarithmic.

    Parameters
    ----------
    curves
        Name to points (x, y), y above 0.
    labels
        Of the axes, x first.
    target
        An x to mark.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    if target is not None:
        axes.axvline(target, color="grey", linestyle="--", label=f"target {target:g}")
    axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend()
    return _drawn(figure, title)


def _drawn(figure: Figure, title: str) -> dg.MetadataValue:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return picture(buffer.getvalue(), title)


def picture(png: bytes, title: str) -> dg.MetadataValue:
    """Return an inline picture."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _show(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")
