"""What goes wrong between an event and its line: lateness, repetition, disorder and damage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from orchestration.simulate.config import SimulationConfig
from orchestration.simulate.events import DAY_MS, Events

# Characters: longer than any field has a reason to be, so that the ingest contract rejects it.
OVERSIZED = 5_000
DAMAGES = (
    "truncated",
    "missing_user",
    "unknown_type",
    "unparsable_time",
    "future_time",
    "bad_utf8",
    "oversized_field",
)
_LATEST_DAYS = 3
_DISORDER_MS = 15 * 60_000
_REPEAT_MS = 2 * 3_600_000
_CENTURY_MS = 36_525 * DAY_MS


@dataclass(frozen=True)
class Deliveries:
    """When and how events are written; one row per line.

    Parameters
    ----------
    row
        Event that the line tells of, int64; the first ``n_events`` lines are events 0, 1, ..., then come repetitions.
    arrival
        Place in the files, ms since the start of the period, int64: its day names the file, its time the order.
    damage
        Index into ``DAMAGES``; -1 where the line is intact, int8.
    counts
        Name of a fault to the number of events that it struck.
    """

    row: NDArray[np.int64]
    arrival: NDArray[np.int64]
    damage: NDArray[np.int8]
    counts: dict[str, int]


def deliver(events: Events, config: SimulationConfig, rng: np.random.Generator) -> Deliveries:
    """Decide when each event arrives, how often, and in what shape; nothing arrives after the period."""
    n = len(events)
    last_day = config.days - 1
    day = events.ts // DAY_MS
    midnight = (day + 1) * DAY_MS

    disordered = rng.random(n) < config.out_of_order
    behind = rng.integers(1_000, _DISORDER_MS, n)
    arrival = np.where(disordered, np.minimum(events.ts + behind, midnight - 1), events.ts)
    delay = np.minimum(rng.integers(1, _LATEST_DAYS + 1, n), last_day - day)
    late = (rng.random(n) < config.late) & (delay > 0)
    arrival += np.where(late, delay * DAY_MS, 0)

    broken = rng.random(n) < config.broken
    damage = np.where(broken, rng.integers(0, len(DAMAGES), n), -1).astype(np.int8)
    repeated = np.flatnonzero(~broken & (rng.random(n) < config.duplicated))
    again = arrival[repeated]
    end_of_day = (again // DAY_MS + 1) * DAY_MS - 1
    next_day = (rng.random(len(repeated)) < 0.5) & (again // DAY_MS < last_day)
    again = np.where(
        next_day, again + DAY_MS, np.minimum(again + rng.integers(1, _REPEAT_MS, len(repeated)), end_of_day)
    )
    return Deliveries(
        row=np.concatenate([np.arange(n), repeated]),
        arrival=np.concatenate([arrival, again]),
        damage=np.concatenate([damage, np.full(len(repeated), -1, np.int8)]),
        counts={
            "late": int(late.sum()),
            "duplicated": len(repeated),
            "out_of_order": int(disordered.sum()),
            "broken": int(broken.sum()),
        },
    )


def damaged(line: bytes, damage: str, rng: np.random.Generator) -> bytes:
    """Return an event's line as it looks after one of ``DAMAGES``; it stays one line."""
    if damage == "truncated":
        return line[: int(rng.integers(1, len(line) - 1))] + b"\n"
    event = orjson.loads(line)
    if damage == "missing_user":
        del event["user"]
    elif damage == "unknown_type":
        event["type"] = "teleport"
    elif damage == "unparsable_time":
        event["ts"] = "yesterday at noon"
    elif damage == "future_time":
        event["ts"] += _CENTURY_MS
    elif damage == "bad_utf8":
        return line.replace(b'"session":"', b'"session":"\xff\xfe\xc3')
    else:
        event["query"] = "x" * OVERSIZED
    return orjson.dumps(event) + b"\n"
