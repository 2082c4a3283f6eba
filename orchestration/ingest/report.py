"""What an ingestion read, accepted and refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import TypeVar

from pydantic import BaseModel, Field

_Key = TypeVar("_Key", str, int)


class DayReport(BaseModel):
    """Counts of one partition, or of a source's catalogue.

    Parameters
    ----------
    read
        Rows read: accepted plus quarantined.
    accepted, quarantined
        Rows that went to the lake, and to the quarantine.
    reasons
        Reason to number of quarantined rows.
    lag_days
        Days from an accepted event to its arrival, to number of events.
    min_event_date, max_event_date
        First and last UTC date of the accepted events.
    changed
        Whether what was published differs from what stood before.
    """

    read: int = 0
    accepted: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)
    lag_days: dict[int, int] = Field(default_factory=dict)
    min_event_date: date | None = None
    max_event_date: date | None = None
    changed: bool = False


class IngestReport(DayReport):
    """Totals of an ingestion, and the counts of each of its partitions.

    Parameters
    ----------
    source
        Name of the source.
    filtered
        Rows that the spec's filters left out; they are not among those read.
    days
        Partition (a day, or ``"undated"`` for quarantined rows without a usable time) to its counts.
    """

    source: str
    filtered: int = 0
    days: dict[str, DayReport] = Field(default_factory=dict)


def total(source: str, days: dict[str, DayReport], filtered: int) -> IngestReport:
    """Return the report over all partitions."""
    parts = list(days.values())
    return IngestReport(
        source=source,
        filtered=filtered,
        days=days,
        read=sum(part.read for part in parts),
        accepted=sum(part.accepted for part in parts),
        quarantined=sum(part.quarantined for part in parts),
        reasons=_sum(part.reasons for part in parts),
        lag_days=_sum(part.lag_days for part in parts),
        min_event_date=min((p.min_event_date for p in parts if p.min_event_date), default=None),
        max_event_date=max((p.max_event_date for p in parts if p.max_event_date), default=None),
        changed=any(part.changed for part in parts),
    )


def _sum(counts: Iterable[dict[_Key, int]]) -> dict[_Key, int]:
    summed: Counter[_Key] = Counter()
    for count in counts:
        summed.update(count)
    return dict(sorted(summed.items()))
