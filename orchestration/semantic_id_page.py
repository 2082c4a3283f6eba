"""The report of a version of semantic IDs as one page with plots, which opens without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.tokenizers.collisions import group_ids
from ml.tokenizers.report import OVERLAP
from orchestration.quality.pages import frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from orchestration.quality.report import QualityReport

# With more levels than these, names would lie on each other.
_NAMED = 8
_BLUE, _GREY = "#4a7ebb", "#999999"


def page(
    report: Mapping[str, Any],
    codes: NDArray[np.int32],
    title: str,
    made: Mapping[str, Any],
    verdict: QualityReport | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    report
        A ``report.json``.
    codes
        int32 [n, levels], before de-duplication, for the plots.
    title
        Of the page.
    made
        What the codes were made with, by name.
    verdict
        How the report stands to its bounds.
    """
    image = base64.b64encode(plots(report, codes)).decode()
    purity = [
        {"prefix": prefix, "category": depth, **scores}
        for prefix, by_depth in (report["prefix_purity"] or {}).items()
        for depth, scores in by_depth.items()
    ]
    overlap = [{"space": space, **(found or {})} for space, found in report[OVERLAP].items()]
    parts = [
        _verdict(verdict) if verdict is not None else "",
        _pairs(made),
        f'<p><img alt="Plots of what the tables below say" style="max-width:100%" src="data:image/png;base64,{image}"></p>',
        "<h2>Items</h2>",
        _pairs(_items(report)),
        "<h2>Levels</h2>",
        _table([{"level": n + 1, **level} for n, level in enumerate(report["levels"])]),
        "<h2>Neighbours in common, of 10</h2>",
        "<p>Share of an item's nearest neighbours by vector that are nearest by its codes, and by its decoded vector. "
        "Items that are equally near count with the chance that they come first.</p>",
        _table(overlap),
        "<h2>Purity in categories</h2>",
        "<p>Share of items whose category is the commonest of their prefix; shuffled: had categories been dealt at random.</p>",
        _table(purity),
        "<h2>Against the version before</h2>",
        _pairs(report["churn"]) if report.get("churn") else "<p>There is none.</p>",
    ]
    return frame(title, "".join(parts))


def plots(report: Mapping[str, Any], codes: NDArray[np.int32]) -> bytes:
    """Return the plots as one PNG: use of codes, collisions, neighbours, purity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    (usage, collisions), (overlap, purity) = figure.subplots(2, 2)
    _plot_usage(usage, report, codes)
    _plot_collisions(collisions, codes)
    _plot_overlap(overlap, report)
    _plot_purity(purity, report)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def _plot_usage(axes: Axes, report: Mapping[str, Any], codes: NDArray[np.int32]) -> None:
    for level, column in enumerate(codes.T):
        counts = np.sort(np.bincount(column, minlength=report["levels"][level]["size"]))[::-1]
        axes.plot(np.arange(1, len(counts) + 1), counts, label=f"level {level + 1}")
    axes.set(title="Items of each code, most used first", xlabel="code", ylabel="items", yscale="symlog")
    if 0 < codes.shape[1] <= _NAMED:
        axes.legend()


def _plot_collisions(axes: Axes, codes: NDArray[np.int32]) -> None:
    from matplotlib.ticker import MaxNLocator

    sizes = np.bincount(np.bincount(group_ids(codes))) if len(codes) else np.zeros(0, np.int64)
    shown = np.flatnonzero(sizes)
    axes.bar(shown, shown * sizes[shown], color=_BLUE)
    axes.set(title="Items by how many have the same codes", xlabel="items of a tuple", ylabel="items")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_overlap(axes: Axes, report: Mapping[str, Any]) -> None:
    bars = {
        f"{space}, by {name}": value
        for space, found in report[OVERLAP].items()
        for name, value in (found or {}).items()
        if value is not None
    }
    colours = [_GREY if name.endswith("chance") else _BLUE for name in bars]
    axes.barh(list(bars)[::-1], list(bars.values())[::-1], color=colours[::-1])
    axes.set(title="Neighbours in common with vectors", xlabel="share of 10")


def _plot_purity(axes: Axes, report: Mapping[str, Any]) -> None:
    found = report["prefix_purity"] or {}
    depths = list(dict.fromkeys(depth for scores in found.values() for depth in scores))
    for n, depth in enumerate(depths):
        scores = [by_depth[depth] for by_depth in found.values()]
        axes.plot([score["purity"] for score in scores], "o-", color=f"C{n}", label=depth.replace("_", " "))
        axes.plot([score["shuffled"] for score in scores], "o:", color=f"C{n}")
    names = [name.replace("_", " ") if len(found) <= _NAMED else name.split("_")[1] for name in found]
    axes.set_xticks(range(len(found)), names)
    axes.set(title="Purity in categories (dotted: shuffled)", ylim=(0, 1.02))
    if depths:
        axes.legend()


def _items(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **report["uniqueness"],
        "items_without_vector": report["items_without_vector"],
        "reconstruction_error": report["reconstruction_error"],
        **{
            name: report[name]
            for name in ("share_outdated", "training_seconds", "encoded_per_second")
            if name in report
        },
    }


def _verdict(verdict: QualityReport) -> str:
    kind = "failed" if verdict.errors else "warned" if verdict.warnings else "passed"
    items = "".join(
        f'<li><span class="{"failed" if broken.severity == "error" else "warned"}">{broken.severity}</span>: '
        f"{escape(str(broken))} · {escape(broken.why)}</li>"
        for broken in verdict.failures
    )
    skipped = "".join(f"<li>{escape(told)}</li>" for told in verdict.skipped)
    return f'<p><b class="{kind}">{kind}</b>: {verdict.rules} promises.</p><ul>{items}{skipped}</ul>'


def _pairs(values: Mapping[str, Any]) -> str:
    return _table([{"": name.replace("_", " "), "value": value} for name, value in values.items()])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>(none)</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_show(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
