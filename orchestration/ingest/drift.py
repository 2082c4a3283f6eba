"""Drift of the shape of landed files, told in words that a person can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from orchestration.ingest.shapes import Shape
from orchestration.ingest.spec import EventsSpec

Policy = Literal["mapped", "warn", "fail"]
DAYS_REMEMBERED = 7
_MUCH = 0.2  # a kind that so large a share of a column's values has is what the column holds
_SOME = 0.01  # a kind that so small a share had on one of the days before is nothing new
_SURE = 20  # values that were to be expected, or stand there, before a change is more than chance
_SHOWN = 80


@dataclass(frozen=True)
class Change:
    """One difference between a day's files and those of the days before.

    Parameters
    ----------
    kind
        What happened to the column.
    column
        Its name.
    mapped
        Whether the spec reads the column, and minds the change.
    message
        One line.
    """

    kind: Literal["new", "lost", "changed"]
    column: str
    mapped: bool
    message: str

    def stops(self, policy: Policy) -> bool:
        """Tell whether the change stops the ingestion."""
        return policy == "fail" or (policy == "mapped" and self.mapped)


def changes(
    shapes: Mapping[str, Shape],
    before: Sequence[tuple[date, Shape]],
    events: EventsSpec,
    mapped: Sequence[str],
) -> list[Change]:
    """Return how the files of a day differ from those of the days before, ordered by column.

    Parameters
    ----------
    shapes
        File name to what was seen in it.
    before
        Earlier days with their shapes, the newest first. A column is lost if the newest of them had it; a column or
        a kind of values is new if none of them had it.
    events
        The source's event files.
    mapped
        Source columns that the spec reads.
    """
    now = Shape.sum(shapes.values())
    if not before or not now.rows:
        return []
    last, newest = before[0]
    known = {column for _, shape in before for column in shape.columns}
    found: list[Change] = []
    for column in sorted({*now.columns, *newest.columns}):
        name, reads = repr(column[:_SHOWN]), column in mapped
        kinds, old = now.columns.get(column, Counter()), newest.columns.get(column, Counter())
        expected = old.total() / max(newest.rows, 1)
        gone = column not in now.columns if events.separated else not kinds
        if not kinds and gone and expected * now.rows >= _SURE:
            what = f"column {name} was there until {last} (in {expected:.0%} of the rows) and is gone"
            found.append(Change("lost", column, reads, _line(min(shapes), what, reads)))
        elif column not in known:
            file = next(f for f, shape in sorted(shapes.items()) if column in shape.columns)
            holds = f", and holds {_listed(kinds)}" if kinds else ""
            what = f"column {name} is new since {last}{holds}"
            found.append(Change("new", column, reads, _line(file, what, False)))
        elif strange := _strange(kinds, [shape.columns.get(column, Counter()) for _, shape in before]):
            file = next(
                f for f, s in sorted(shapes.items()) if strange & (s.columns.get(column) or {}).keys()
            )
            was = next((v for _, shape in before if (v := shape.columns.get(column))), Counter())
            minds = reads and (not events.separated or column in _numeric(events))
            what = f"column {name} held {_listed(was)} until {last} and holds {' and '.join(sorted(strange))} now"
            found.append(Change("changed", column, minds, _line(file, what, reads)))
    return found


def _strange(kinds: Counter[str], before: Sequence[Counter[str]]) -> set[str]:
    """Return the kinds that much of a column holds now and nothing of it held before."""
    known = {kind for old in before for kind, n in old.items() if n >= _SOME * old.total()}
    much = {kind for kind, n in kinds.items() if n >= max(_MUCH * kinds.total(), _SURE)}
    return much - known if known else set()


def _numeric(events: EventsSpec) -> set[str]:
    columns = events.columns
    return {
        o.column for o in (columns.event_ts, columns.value, columns.position) if o is not None and o.column
    }


def _listed(kinds: Counter[str]) -> str:
    much = [kind for kind, n in kinds.items() if n >= _MUCH * kinds.total()]
    return " and ".join(sorted(much)) or "no values"


def _line(file: str, what: str, mend: bool) -> str:
    remedy = (
        "; mend the file, or change the source spec, or take it as it is with TESSERA_SCHEMA_DRIFT=warn"
        if mend
        else "; the spec does not read it"
    )
    return f"{file}: {what}{remedy}"
