"""Partitions of the asset graph: time for what lands, recipes for what is trained."""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from orchestration.ingest.spec import SourceSpec, load_spec
from orchestration.settings import get_settings

CRON = {"daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}


@cache
def source_spec() -> SourceSpec:
    """Return the spec of the source that this process works on."""
    return load_spec(get_settings().source)


@cache
def landing_partitions() -> dg.TimeWindowPartitionsDefinition:
    """Return the partitions of the raw events: daily, or coarser where the spec of a long history says so."""
    spec = source_spec()
    if spec.cadence == "daily":
        return dg.DailyPartitionsDefinition(start_date=spec.start_date.isoformat(), end_date=_end(spec))
    return dg.TimeWindowPartitionsDefinition(
        start=_floor(spec.start_date, spec.cadence).isoformat(),
        end=_end(spec),
        fmt="%Y-%m-%d",
        cron_schedule=CRON[spec.cadence],
    )


@cache
def recipe_partitions() -> dg.StaticPartitionsDefinition:
    """Return one partition for each recipe that takes part in ``retrain``."""
    return dg.StaticPartitionsDefinition(list(get_settings().recipes))


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags that make one run of a range of partitions."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}


def days_between(start: date, end: date) -> list[date]:
    """Return the days from ``start`` up to, not including, ``end``."""
    return [start + timedelta(days=n) for n in range((end - start).days)]


def partition_keys_of(days: list[date]) -> tuple[str, str]:
    """Return the first and the last partition that hold the given days."""
    cadence = source_spec().cadence
    return _floor(min(days), cadence).isoformat(), _floor(max(days), cadence).isoformat()


def _floor(day: date, cadence: str) -> date:
    if cadence == "monthly":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if cadence == "weekly" else day


def _end(spec: SourceSpec) -> str | None:
    """Return the end of the last partition, exclusive, for a log that has ended."""
    if spec.end_date is None:
        return None
    last = _floor(spec.end_date, spec.cadence)
    if spec.cadence == "monthly":
        return (last.replace(day=28) + timedelta(days=4)).replace(day=1).isoformat()
    return (last + timedelta(days=7 if spec.cadence == "weekly" else 1)).isoformat()
