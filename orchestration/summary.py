"""What a run of the chain came to: ``summary.json``, and the same for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from ml.artifacts import MANIFEST, current, read_json, read_manifest
from ml.evaluation.gates import bar_of
from ml.evaluation.results import read_result
from orchestration.models import BASELINE, PROTOCOLS
from orchestration.settings import Settings

SHOWN = ("ndcg@10", "recall@10")
_USERS = 3
_TITLES = 5
_WIDTH = 72


def summarise(
    settings: Settings, stages: dict[str, float], seconds: float, peak_rss_mb: float
) -> dict[str, Any]:
    """Gather the summary from what the stages left on disk."""
    champion = read_json(settings.home / "champion.json")
    index = read_json(settings.evaluation / "index.json")
    ids = read_json(current(settings.semantic_ids) / "report.json")["uniqueness"]
    results = {
        recipe: {p: read_result(current(settings.models / recipe), p) for p in PROTOCOLS}
        for recipe in settings.recipes
    }
    summary: dict[str, Any] = {
        "source": settings.source,
        "events": _events(settings.lake),
        "tables": read_manifest(settings.marts).metrics["rows"],
        "items": pq.read_metadata(settings.marts / "dim_items.parquet").num_rows,
        "users": pq.read_metadata(settings.marts / "dim_users.parquet").num_rows,
        "semantic_ids": {name: ids[name] for name in ("distinct", "items", "largest_collision")},
        "recommenders": {
            recipe: {protocol: result.test.metrics for protocol, result in found.items()}
            for recipe, found in results.items()
        },
        "champion": champion["recipe"],
        "bar": bar_of({recipe: found["temporal"] for recipe, found in results.items()}, BASELINE),
        "index": {f"recall@{index['k']}": index["recall"]},
        "stages": {stage: round(value, 2) for stage, value in stages.items()},
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(peak_rss_mb),
    }
    if settings.source == "simulator":
        summary["interest_recovery"] = _recovery(settings, champion["popular"])
    return summary


def show(console: Console, settings: Settings, summary: dict[str, Any]) -> None:
    """Print the summary and three users' histories with their recommendations."""
    events, ids = summary["events"], summary["semantic_ids"]
    console.print(
        f"\n[bold]{summary['source']}[/]: {events['read']:,} rows read, {events['accepted']:,} accepted, "
        f"{events['quarantined']:,} quarantined; {summary['users']:,} users, {summary['items']:,} items"
    )
    console.print("tables: " + ", ".join(f"{name} {rows:,}" for name, rows in summary["tables"].items()))
    console.print(
        f"semantic IDs: {ids['distinct']:,} distinct before de-duplication for {ids['items']:,} items, "
        f"largest collision {ids['largest_collision']}"
    )
    console.print(_metrics_table(summary))
    console.print(
        f"champion: [bold]{summary['champion']}[/]; the bar is {summary['bar']}, which needs no training"
    )
    console.print("index: " + ", ".join(f"{name} {value:.4f}" for name, value in summary["index"].items()))
    if "interest_recovery" in summary:
        found = summary["interest_recovery"]
        console.print(
            f"true interests recovered (0 chance, 1 best possible): recommendations {found['recommendations']:.3f}, "
            f"popularity {found['popularity']:.3f}, chance {found['chance']:.3f}"
        )
    console.print(
        "stages: " + ", ".join(f"{name} {value:.1f} s" for name, value in summary["stages"].items())
    )
    console.print(f"in all {summary['seconds']:.0f} s, peak memory {summary['peak_rss_mb']:,} MB\n")
    for user, history, recommended in _sample_users(settings):
        console.print(f"[bold]{user}[/] had   {'; '.join(history)}", highlight=False)
        console.print(f"{'':{len(user)}} gets  {'; '.join(recommended)}\n", highlight=False)


def _events(lake: Path) -> dict[str, int]:
    manifests = [read_json(path) for path in (lake / "events").glob(f"day=*/{MANIFEST}")]
    return {name: sum(m[name] for m in manifests) for name in ("read", "accepted", "quarantined")}


def _metrics_table(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe")
    for protocol in PROTOCOLS:
        for name in SHOWN:
            table.add_column(f"{protocol.replace('_', ' ')}\n{name}", justify="right")
    for recipe, found in summary["recommenders"].items():
        table.add_row(recipe, *(f"{found[p][name]:.4f}" for p in PROTOCOLS for name in SHOWN))
    return table


def _recovery(settings: Settings, popular: Sequence[str]) -> dict[str, Any]:
    from orchestration.simulate import interest_recovery

    rows = pq.read_table(
        current(settings.recommendations) / "recommendations.parquet", columns=["user_id", "rank", "item_id"]
    )
    lists: dict[str, list[str]] = {}
    top = rows.filter(pc.field("rank") <= 10)
    for user, item in zip(top["user_id"].to_pylist(), top["item_id"].to_pylist(), strict=True):
        lists.setdefault(user, []).append(item)
    return dict(interest_recovery(settings.truth, lists, list(popular[:10])))


def _sample_users(settings: Settings) -> list[tuple[str, list[str], list[str]]]:
    """Return three users spread over those with some history: ID, last titles, recommended titles."""
    items = pq.read_table(settings.marts / "dim_items.parquet", columns=["item_id", "title"])
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    histories = pq.read_table(settings.marts / "user_histories.parquet", columns=["user_id", "item_id"])
    lists = pq.read_table(
        current(settings.recommendations) / "recommendations.parquet", columns=["user_id", "item_id"]
    )
    counts = histories.group_by("user_id").aggregate([("item_id", "count")]).sort_by("user_id")
    enough = counts.filter(pc.greater_equal(counts["item_id_count"], 5))["user_id"].to_pylist()
    chosen = [enough[len(enough) * n // _USERS] for n in range(_USERS)] if enough else []

    def shown(table: Any, user: str) -> list[str]:
        ids: list[str] = table.filter(pc.equal(table["user_id"], user))["item_id"].to_pylist()
        return [shorten(titles.get(item) or item, _WIDTH, placeholder="...") for item in ids]

    return [(user, shown(histories, user)[-_TITLES:], shown(lists, user)[:_TITLES]) for user in chosen]
