"""The page of a replay: Markdown and one picture, of the committed record alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.artifacts import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGES = Path(__file__).parents[2] / "docs" / "replay"
_QUALITY = "ndcg@10"


def write_page(name: str, record: Mapping[str, Any], folder: Path = PAGES) -> Path:
    """Write ``NAME.md`` and ``NAME.svg``; return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"{name}.svg", picture(record))
    write_text(folder / f"{name}.md", page(name, record))
    return folder / f"{name}.md"


def page(name: str, record: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    rows, summary = record["rows"], record["summary"]
    policies = list(rows[0]["policies"])
    head = ["day", "queries", *policies, "popularity", "PSI", "by chance", "new items"]
    head += [f"churn {policy}" for policy in policies[1:]] + [f"seconds {policy}" for policy in policies[1:]]
    lines = [
        [
            row["day"],
            f"{row['queries']:,}",
            *(f"{row['policies'][policy][_QUALITY]:.4f}" for policy in policies),
            f"{row['popularity'][_QUALITY]:.4f}",
            f"{row['psi']:.3f}",
            f"{row['psi_by_chance']:.3f}",
            f"{row['new_items']:.1%}",
            *(f"{row['policies'][policy]['churn']['lists']:.1%}" for policy in policies[1:]),
            *(_seconds(row["policies"][policy]["seconds"]) for policy in policies[1:]),
        ]
        for row in rows
    ]
    differences = [
        [pair, f"{d['mean']:+.4f}", f"[{d['low']:+.4f}, {d['high']:+.4f}]"]
        for pair, d in summary["differences"].items()
    ]
    means = [[policy, f"{value:.4f}"] for policy, value in summary[_QUALITY].items()]
    parts = [
        f"# Replay of {name}",
        _about(record),
        f"![quality, drift, churn and time, day by day]({name}.svg)",
        f"## {len(rows)} days, {summary['queries']:,} first meetings",
        _table(["policy", "NDCG@10"], means),
        _table(["difference of NDCG@10", "mean", "95 % interval"], differences),
        "## Day by day",
        _table(head, lines),
        "## Champions",
        _champions(rows, policies),
    ]
    return "\n\n".join(parts) + "\n"


def picture(record: Mapping[str, Any]) -> bytes:
    """Return quality, drift, churn and time by day as an SVG; the same bytes for the same record."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = record["rows"]
    policies = list(rows[0]["policies"])
    figure = Figure(figsize=(11, 7), layout="constrained")
    (quality, drift), (churn, time) = figure.subplots(2, 2)
    days = [row["day"][5:] for row in rows]
    for policy in policies:
        quality.plot(days, [row["policies"][policy][_QUALITY] for row in rows], "o-", label=policy)
    quality.plot(days, [row["popularity"][_QUALITY] for row in rows], ":", label="popularity", color="grey")
    drift.plot(days, [row["psi"] for row in rows], "o-", label="PSI against the last week before the start")
    drift.plot(
        days, [row["psi_by_chance"] for row in rows], ":", label="once in twenty by chance", color="grey"
    )
    drift.plot(days, [row["new_items"] for row in rows], "s-", label="share of meetings with new items")
    for policy in policies[1:]:
        churn.plot(
            days, [row["policies"][policy]["churn"]["lists"] for row in rows], "o-", label=f"lists, {policy}"
        )
        moved = [row["policies"][policy]["churn"]["semantic_ids"] for row in rows]
        churn.plot(days, moved, "x--", label=f"semantic IDs, {policy}")
    _plot_time(time, days, rows, policies[-1])
    titles = {
        quality: "NDCG@10 of last night's lists",
        drift: "Drift of what users meet",
        churn: "Share of lists, of IDs, changed overnight",
        time: f"Seconds by stage, {policies[-1]}",
    }
    for axes, title in titles.items():
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", rotation=60)
        axes.legend(fontsize=7)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "tessera", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _plot_time(axes: Axes, days: Sequence[str], rows: Sequence[Mapping[str, Any]], policy: str) -> None:
    """Stack the seconds of a policy's nights by asset group."""
    nights = [_groups(row["policies"][policy]["groups"]) for row in rows]
    floor = [0.0] * len(days)
    for group in dict.fromkeys(group for night in nights for group in night):
        values = [night.get(group, 0.0) for night in nights]
        axes.bar(days, values, bottom=floor, label=group)
        floor = [low + value for low, value in zip(floor, values, strict=True)]


def _groups(jobs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for groups in jobs.values():
        for group, seconds in groups.items():
            total[group] = total.get(group, 0.0) + seconds
    return total


def _about(record: Mapping[str, Any]) -> str:
    start = record["start"]
    return (
        f"Written from `benchmarks/results/{record['benchmark']}.json` alone; `make replay` makes that file, and "
        f"[replay](../replay.md) says how it is measured. Logs from {record['first_day_loaded']} on were loaded "
        f"({start['backfill']['seconds']:.0f} s) and {', '.join(record['recipes'])} trained "
        f"({start['retrain']['seconds']:.0f} s) before the first of these days; {record['machine']['cores']} cores. "
        "A line is a day: what it was served was published the night before, and seconds, churn and champion are that "
        "night's. The first day has no night of its own."
    )


def _champions(rows: Sequence[Mapping[str, Any]], policies: Sequence[str]) -> str:
    return _table(
        ["policy", "champions, in order"],
        [
            [policy, ", ".join(dict.fromkeys(row["policies"][policy]["champion"] for row in rows))]
            for policy in policies
        ],
    )


def _seconds(jobs: Mapping[str, float]) -> str:
    return " + ".join(f"{seconds:.0f}" for seconds in jobs.values()) or "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
