"""What an ingestion read, accepted and refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, Field

COVERED = 0.999
ERASED = "erased"
TOO_LATE = "too_late"
_Key = TypeVar("_Key", str, int)


class LagRow(NamedTuple):
    """Events that arrived some number of days after they happened, with their share and that of all up to here."""

    days: int
    events: int
    share: float
    cumulative: float


class DayReport(BaseModel):
    """Counts of one partition, or of a source's catalogue.

    Parameters
    ----------
    read
        Rows read: accepted, quarantined and erased.
    accepted, quarantined
        Rows that went to the lake, and to the quarantine.
    erased
        Rows of erased users, which went nowhere.
    reasons
        Reason to number of quarantined rows.
    lag_days
        Days from an accepted event to its arrival, to number of events.
    late_days
        The same of the events that were refused as too late.
    min_event_date, max_event_date
        First and last UTC date of the accepted events.
    drift
        What differs in the shape of the files from the days before, where it did not stop the ingestion.
    changed
        Whether what was published differs from what stood before.
    """

    read: int = 0
    accepted: int = 0
    quarantined: int = 0
    erased: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)
    lag_days: dict[int, int] = Field(default_factory=dict)
    late_days: dict[int, int] = Field(default_factory=dict)
    min_event_date: date | None = None
    max_event_date: date | None = None
    drift: list[str] = Field(default_factory=list)
    changed: bool = False

    def add_accepted(self, days_late: int, event_date: date, rows: int) -> None:
        """Count accepted events of one date."""
        self.read += rows
        self.accepted += rows
        self.lag_days[days_late] = self.lag_days.get(days_late, 0) + rows
        self.min_event_date = min(self.min_event_date or event_date, event_date)
        self.max_event_date = max(self.max_event_date or event_date, event_date)

    def add_refused(self, reason: str, rows: int) -> None:
        """Count rows that were quarantined for one reason, or erased."""
        self.read += rows
        if reason == ERASED:
            self.erased += rows
            return
        self.quarantined += rows
        self.reasons[reason] = self.reasons.get(reason, 0) + rows

    def lag_table(self) -> list[LagRow]:
        """Return how late events arrived, refused ones included, by days."""
        counts = _sum([self.lag_days, self.late_days])
        total, so_far, rows = sum(counts.values()), 0, []
        for days, events in counts.items():
            so_far += events
            rows.append(LagRow(days, events, events / total, so_far / total))
        return rows

    def days_that_cover(self, share: float = COVERED) -> int | None:
        """Return the least number of days within which ``share`` of the events arrived; ``None`` without events."""
        return next((row.days for row in self.lag_table() if row.cumulative >= share), None)


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
        erased=sum(part.erased for part in parts),
        reasons=_sum(part.reasons for part in parts),
        lag_days=_sum(part.lag_days for part in parts),
        late_days=_sum(part.late_days for part in parts),
        drift=[message for part in parts for message in part.drift],
        min_event_date=min((p.min_event_date for p in parts if p.min_event_date), default=None),
        max_event_date=max((p.max_event_date for p in parts if p.max_event_date), default=None),
        changed=any(part.changed for part in parts),
    )


def _sum(counts: Iterable[dict[_Key, int]]) -> dict[_Key, int]:
    summed: Counter[_Key] = Counter()
    for count in counts:
        summed.update(count)
    return dict(sorted(summed.items()))
