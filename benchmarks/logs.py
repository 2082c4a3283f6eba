"""Public logs as benchmarks read them: who met what in which order, and what each item is.

What an item is follows the chain's own ``orchestration/sources/NAME.yaml``; here it is read without a warehouse.
"""

from __future__ import annotations

import csv
import gzip
import html
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ml.histories import Histories

_SOURCES = Path(__file__).parents[1] / "orchestration" / "sources"
_MICROSECONDS = 1_000_000
_Event = tuple[str, int, int, str]


@dataclass(frozen=True)
class Log:
    """A log in memory.

    Parameters
    ----------
    user_ids
        Of each history.
    histories
        Items by their place in `items`. Times in microseconds since the epoch; where a log tells only the order, the
        place in the history. Types by their place in `event_types`.
    items
        What `ml.vectors.text.item_text` reads, and ``item_id``.
    event_types
        Their names, sorted.
    """

    user_ids: list[str]
    histories: Histories
    items: list[dict[str, Any]]
    event_types: list[str]


@dataclass(frozen=True)
class _Source:
    """How one log is read: its events (user, item's place, time, type), oldest first within a user; its items' lines."""

    events: Callable[[Path], Iterator[_Event]]
    items: Callable[[Path], list[dict[str, Any]]]
    describe: Callable[[dict[str, Any]], dict[str, Any]]
    timed: bool = True


def read_log(folder: Path) -> Log:
    """Read the log in a folder whose name is one of `LOGS`.

    Raises
    ------
    KeyError
        If it is not.
    """
    source = LOGS[folder.name]
    rows: dict[str, list[tuple[int, int, str]]] = {}
    for user, item, time, kind in source.events(folder):
        rows.setdefault(user, []).append((item, time, kind))
    histories = Histories.of([[item for item, _, _ in row] for row in rows.values()])
    events = [event for row in rows.values() for event in row]
    if source.timed:
        times = np.array([time for _, time, _ in events], np.int64) * _MICROSECONDS
        histories = replace(histories, times=times)
    names, types = np.unique([kind for _, _, kind in events], return_inverse=True)
    histories = replace(histories, event_types=types.astype(np.int8))
    items = [
        source.describe(line) | {"item_id": str(line.get("asin", line["item_idx"]))}
        for line in source.items(folder)
    ]
    return Log(list(rows), histories, items, names.tolist())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a packed file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _amazon_items(folder: Path) -> list[dict[str, Any]]:
    return sorted(read_lines(folder / "items.jsonl.gz"), key=lambda line: int(line["item_idx"]))


def _interactions(folder: Path) -> Iterator[_Event]:
    """Yield events; times are whole days, so that the order within one is the file's."""
    with gzip.open(folder / "interactions.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row["user_id"], int(row["item_idx"]), int(row["timestamp"]), "rating"


def _sequences(folder: Path) -> Iterator[_Event]:
    for line in read_lines(folder / "sequences.jsonl.gz"):
        for place, item in enumerate(line["items"]):
            yield line["user"], item, place, "rating"


def _beauty(line: dict[str, Any]) -> dict[str, Any]:
    paths = line.get("categories") or []
    brand, _ = _brand("amazon-beauty-2014", line)
    return {
        "title": html.unescape(line.get("title") or ""),
        "brand": brand,
        "categories": [html.unescape(name) for name in (paths[0] if paths else []) if name != "Beauty"],
    }


def _sports(line: dict[str, Any]) -> dict[str, Any]:
    brand, others = _brand("amazon-sports-2014", line)
    categories = [name for name in others if name != "Unknown"]
    return {"description": line.get("idgenrec_text_id"), "brand": brand, "categories": categories}


def _scientific(line: dict[str, Any]) -> dict[str, Any]:
    names = [name.strip() for name in (line.get("categories") or "").split(",")]
    told = {name: html.unescape(line.get(name) or "") for name in ("title", "description", "brand")}
    return told | {"categories": [name for name in names if name and name != "Industrial & Scientific"]}


def _brand(source: str, line: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Return the brand, if the first attribute is one, and the other attributes."""
    told = [html.unescape(name) for name in line.get("s3rec_attributes") or []]
    if not told or told[0] in _no_brands(source):
        return None, told
    return told[0], told[1:]


@cache
def _no_brands(source: str) -> frozenset[str]:
    spec = yaml.safe_load((_SOURCES / f"{source}.yaml").read_text(encoding="utf-8"))
    return frozenset(spec["items"]["columns"]["brand"]["nulls"])


def _table(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a packed RecBole table, whose header says ``name:type``."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield {name.split(":")[0]: value for name, value in row.items()}


def _film_lines(folder: Path) -> list[dict[str, Any]]:
    rows = sorted(_table(folder / "ml-100k.item.gz"), key=lambda row: int(row["item_id"]))
    return [row | {"item_idx": row["item_id"]} for row in rows]


def _ratings(folder: Path) -> Iterator[_Event]:
    place = {row["item_id"]: n for n, row in enumerate(_film_lines(folder))}
    rows = sorted(_table(folder / "ml-100k.inter.gz"), key=lambda row: float(row["timestamp"]))
    for row in rows:
        yield row["user_id"], place[row["item_id"]], int(float(row["timestamp"])), "rating"


def _film(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": line["movie_title"],
        "categories": [name for name in line["class"].split() if name != "unknown"],
        "attributes": {"year": line["release_year"]},
    }


def _portal_rows(folder: Path) -> list[dict[str, str]]:
    with gzip.open(folder / "users_interactions.csv.gz", "rt", encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["timestamp"]))


def _portal_lines(folder: Path) -> list[dict[str, Any]]:
    return [{"item_idx": name} for name in sorted({row["contentId"] for row in _portal_rows(folder)})]


def _portal_events(folder: Path) -> Iterator[_Event]:
    place = {line["item_idx"]: n for n, line in enumerate(_portal_lines(folder))}
    spec = yaml.safe_load((_SOURCES / "deskdrop.yaml").read_text(encoding="utf-8"))
    names = spec["events"]["event_types"]
    return _first_of_each(
        (row["personId"], place[row["contentId"]], int(row["timestamp"]), names[row["eventType"]])
        for row in _portal_rows(folder)
    )


def _shop_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the items of a simulation, each as it was launched."""
    found: dict[str, dict[str, Any]] = {}
    for line in _plain_lines(folder / "items"):
        found.setdefault(line["id"], line | {"item_idx": line["id"]})
    return [found[name] for name in sorted(found)]


def _shop_events(folder: Path) -> Iterator[_Event]:
    place = {line["item_idx"]: n for n, line in enumerate(_shop_lines(folder))}
    spec = yaml.safe_load((_SOURCES / "simulator.yaml").read_text(encoding="utf-8"))
    kept = spec["history_event_types"]
    lines = sorted(
        (line for line in _plain_lines(folder / "events") if line["type"] in kept),
        key=lambda line: line["ts"],
    )
    return _first_of_each(
        (line["user"], place[line["item"]], line["ts"] // 1000, line["type"]) for line in lines
    )


def _plain_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _first_of_each(events: Iterable[_Event]) -> Iterator[_Event]:
    """Yield what a user does with an item once for each type: a history that tells more than the mart's first meeting."""
    seen = set()
    for event in events:
        user, item, _, kind = event
        if (user, item, kind) not in seen:
            seen.add((user, item, kind))
            yield event


#: Name of the folder to how it is read.
LOGS = {
    "amazon-beauty-2014": _Source(_interactions, _amazon_items, _beauty),
    "amazon-sports-2014": _Source(_interactions, _amazon_items, _sports),
    "amazon-scientific": _Source(_sequences, _amazon_items, _scientific, timed=False),
    "ml-100k": _Source(_ratings, _film_lines, _film),
    "deskdrop": _Source(_portal_events, _portal_lines, lambda line: {}),
    "simulator": _Source(_shop_events, _shop_lines, dict),
}
