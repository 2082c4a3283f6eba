"""Which parts of the exported marts a night must write, and which stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ml.artifacts import Manifest, hash_file, is_complete, read_json, read_manifest, write_manifest
from orchestration.warehouse import UNFINISHED, LoadedDays, plan_between

KIND = "marts"
PERIODS = {"daily": "week", "weekly": "month", "monthly": "year"}
"""Cadence of a source to the period that one part of its dated marts covers."""


@dataclass(frozen=True)
class ExportPlan:
    """What to hand to ``export_marts``, and what to keep.

    Parameters
    ----------
    period
        What a part covers: ``"week"``, ``"month"`` or ``"year"``.
    ranges
        Column that marts are parted by, to the first and last date whose parts are written; null is open-ended.
    kept
        Parts that stay, as ``NAME/PART``, to their content hash.
    folders
        Dated marts.
    loaded
        What the warehouse was built from.
    """

    period: str
    ranges: dict[str, tuple[str | None, str | None]]
    kept: dict[str, str]
    folders: tuple[str, ...]
    loaded: LoadedDays


def dated_marts(dbt_manifest: Path) -> dict[str, str]:
    """Return the marts that are exported in parts, each with the column that says which part a row is in."""
    nodes = read_json(dbt_manifest)["nodes"].values()
    columns = {node["name"]: node["config"].get("meta", {}).get("part_by") for node in nodes}
    return {name: column for name, column in sorted(columns.items()) if column is not None}


def is_unfinished(loaded: LoadedDays) -> bool:
    """Tell whether a build died half-way, so that the warehouse holds some of the old and some of the new."""
    return UNFINISHED in loaded.days.values() or UNFINISHED in loaded.items.values()


def plan_export(marts: Path, dated: Mapping[str, str], loaded: LoadedDays, period: str) -> ExportPlan | None:
    """Compare what the warehouse holds with what was exported.

    Parameters
    ----------
    marts
        Folder of the last export.
    dated
        What :func:`dated_marts` returns.
    loaded
        What the warehouse was built from.
    period
        What a part shall cover.

    Returns
    -------
    ExportPlan or None
        None where the last export was made from the same state.
    """
    standing = read_manifest(marts, KIND) if is_complete(marts) else None
    before = _exported_from(standing, period)
    if before == loaded:
        return None
    plan = plan_between(before, loaded)
    if standing is None or plan.full:
        return ExportPlan(period, {}, {}, tuple(dated), loaded)
    ranges: dict[str, tuple[str | None, str | None]] = {
        "event_date": (plan.min_date, plan.max_date),
        "event_timestamp": (_day_after(plan.known_from), None),
    }
    bounds = {
        column: tuple(
            bound and _period_start(date.fromisoformat(bound), period).isoformat() for bound in range_
        )
        for column, range_ in ranges.items()
    }
    kept = {}
    for name, content in standing.inputs.items():
        mart, _, part = name.partition("/")
        if mart not in dated or not part[:1].isdigit():
            continue
        first, last = bounds[dated[mart]]
        if (first is not None and part < first) or (last is not None and part > last):
            kept[name] = content
    return ExportPlan(period, ranges, kept, tuple(dated), loaded)


def lay_out(plan: ExportPlan, marts: Path, staging: Path) -> None:
    """Make the folders of dated marts in ``staging``, with the parts that stay as links to the old ones."""
    for name in plan.folders:
        (staging / name).mkdir()
    for name in plan.kept:
        os.link(marts / f"{name}.parquet", staging / f"{name}.parquet")


def certify(plan: ExportPlan, staging: Path) -> dict[str, int]:
    """Write the manifest of what was exported, and return the rows of each mart."""
    files = {
        path.relative_to(staging).with_suffix("").as_posix(): path
        for path in sorted(staging.rglob("*.parquet"))
    }
    hashes = {name: plan.kept.get(name) or hash_file(path) for name, path in files.items()}
    rows: dict[str, int] = {}
    for name, path in files.items():
        mart = name.partition("/")[0]
        rows[mart] = rows.get(mart, 0) + pq.read_metadata(path).num_rows
    recipe: dict[str, Any] = {"period": plan.period, "loaded": plan.loaded.model_dump(mode="json")}
    metrics = {"rows": rows, "parts_written": len(files) - len(plan.kept), "parts_kept": len(plan.kept)}
    write_manifest(staging, Manifest(kind=KIND, version=KIND, inputs=hashes, recipe=recipe, metrics=metrics))
    return rows


def _exported_from(standing: Manifest | None, period: str) -> LoadedDays | None:
    if standing is None or standing.recipe.get("period") != period:
        return None
    return LoadedDays.model_validate(standing.recipe["loaded"])


def _day_after(day: str | None) -> str | None:
    """Return the date of a feature row's event_timestamp: the midnight after the day at whose end it was known."""
    return None if day is None else (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def _period_start(day: date, period: str) -> date:
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "month" else day.replace(month=1, day=1)
