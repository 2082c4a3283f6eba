"""Lines and files: events and items as JSON lines, one file per day of arrival, each appearing at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from orchestration.simulate.catalogue import Catalogue
from orchestration.simulate.config import SimulationConfig, SimulationError
from orchestration.simulate.events import CART, DAY_MS, EVENT_TYPES, SEARCH, VIEW, Events
from orchestration.simulate.text import item_record, query_text


def start_ms(config: SimulationConfig) -> int:
    """Return the first instant of the period, ms since 1970 UTC."""
    return int(datetime.combine(config.start, datetime.min.time(), UTC).timestamp()) * 1000


def day_name(config: SimulationConfig, day: int) -> str:
    """Return the name of a day's file."""
    return f"{config.start + timedelta(days=day)}.jsonl"


def user_id(user: int) -> str:
    """Return the id of a user."""
    return f"u{user:06d}"


def item_id(item: int) -> str:
    """Return the id of an item."""
    return f"i{item:05d}"


def event_lines(events: Events, config: SimulationConfig, catalogue: Catalogue) -> list[bytes]:
    """Return one JSON line per event, ended by a newline."""
    origin = start_ms(config)
    day: date = config.start + timedelta(days=int(events.ts[0] // DAY_MS)) if len(events) else config.start
    stamp = f"{day:%y%m%d}"
    columns = zip(
        events.number.tolist(),
        (events.ts + origin).tolist(),
        events.kind.tolist(),
        events.user.tolist(),
        events.item.tolist(),
        events.session.tolist(),
        events.price.tolist(),
        events.position.tolist(),
        events.form.tolist(),
        strict=True,
    )
    lines = []
    for number, ts, kind, user, item, session, price, position, form in columns:
        line = {
            "id": f"e{stamp}-{number:07d}",
            "ts": ts,
            "type": EVENT_TYPES[kind],
            "user": user_id(user),
            "session": f"s{stamp}-{session:06d}",
        }
        if kind == SEARCH:
            line["query"] = query_text(catalogue, item, form)
        else:
            line["item"] = item_id(item)
            if position:
                line["pos"] = position
            if kind in (VIEW, CART) or not position:
                line["price"] = price
        lines.append(as_line(line))
    return lines


def item_lines(day: int, config: SimulationConfig, catalogue: Catalogue) -> Iterator[bytes]:
    """Yield one JSON line per item that is new or has a new price on a day; day 0 also has the initial catalogue."""
    origin = start_ms(config)
    new = catalogue.launch_day == day
    changed = (catalogue.reprice_day == day) & ~new
    for item in np.flatnonzero(new | changed).tolist():
        listed = origin + day * DAY_MS - (int(catalogue.listed_before[item]) if day == 0 else 0)
        price = catalogue.new_price[item] if changed[item] else catalogue.price[item]
        yield as_line(
            {"id": item_id(item), **item_record(catalogue, item), "price": float(price), "ts": listed}
        )


def as_line(value: dict[str, Any]) -> bytes:
    """Return a value as a JSON line, ended by a newline.

    The concatenation copies: what orjson returns holds on to a buffer many times the size of a line.
    """
    return orjson.dumps(value) + b"\n"


class Queue:
    """Lines on their way, each to be written when its time of arrival has come."""

    def __init__(self) -> None:
        self._arrival: NDArray[np.int64] = np.zeros(0, np.int64)
        self._lines: list[bytes] = []

    def put(self, arrival: NDArray[np.int64], lines: list[bytes]) -> None:
        """Add lines; those of equal arrival leave in the order in which they came."""
        self._arrival = np.concatenate([self._arrival, arrival])
        self._lines += lines

    def take(self, before: int) -> list[bytes]:
        """Remove and return the lines that arrive before a time, in the order of arrival."""
        due = np.flatnonzero(self._arrival < before)
        taken = [self._lines[i] for i in due[np.argsort(self._arrival[due], kind="stable")].tolist()]
        rest = np.flatnonzero(self._arrival >= before)
        self._lines = [self._lines[i] for i in rest.tolist()]
        self._arrival = self._arrival[rest]
        return taken


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file beside ``path`` that becomes ``path``, synced, if the block succeeds.

    Raises
    ------
    SimulationError
        If the file cannot be written; what stood at ``path`` stays.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        # Only what an unfinished write has left; it may be that even this fails on a dying disk.
        with suppress(OSError):
            beside.unlink(missing_ok=True)
