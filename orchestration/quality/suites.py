"""What the lake promises: suites of events and items."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from ml.histories import EventType
from orchestration.quality.rules import (
    EARLIEST,
    LATEST,
    Rule,
    Suite,
    at_least,
    between,
    has_rows,
    length,
    list_lengths,
    listed,
    never_null,
    one_of,
    unique,
)

EVENT_TYPES = frozenset(get_args(EventType))
ITEMLESS_TYPES = frozenset({"search"})


def events_suite(
    event_types: Collection[str] = EVENT_TYPES,
    itemless: Collection[str] = ITEMLESS_TYPES,
    max_duplicates: float = 0.05,
) -> Suite:
    """Return what one arrival day of the lake's events promises.

    Parameters
    ----------
    event_types
        The types that sources are mapped to.
    itemless
        Types whose events need not name an item.
    max_duplicates
        Share of repeated ``event_id`` from which on a warning is given; the warehouse keeps one of each.
    """
    return Suite(
        name="events",
        required=(
            "event_id",
            "user_id",
            "item_id",
            "event_type",
            "event_ts",
            "session_id",
            "value",
            "query",
            "position",
            "source",
            "source_file",
            "source_row",
            "arrival_date",
        ),
        rules=(
            has_rows("an arrival day without an event is a broken delivery"),
            *never_null(
                "event_id",
                "user_id",
                "event_type",
                "event_ts",
                "source",
                "source_file",
                "source_row",
                "arrival_date",
            ),
            length("event_id"),
            length("user_id"),
            one_of("event_type", event_types, why="models and features count by type"),
            Rule(
                f"item_id is there, unless event_type is {listed(itemless)}",
                "ExpectColumnValuesToNotBeNull",
                {"column": "item_id"},
                ("item_id",),
                why="an interaction with nothing teaches nothing",
                unless=("event_type", tuple(sorted(itemless))),
            ),
            between("event_ts", EARLIEST, LATEST, why="a wrong unit of time lands in 1970 or far ahead"),
            at_least("arrival_ends", "event_ts", "warning", why="an event cannot arrive before it happened"),
            unique("source_file", "source_row", why="a row that was read twice counts twice"),
            Rule(
                f"at most {max_duplicates:.0%} of event_id are duplicates",
                "ExpectColumnProportionOfUniqueValuesToBeBetween",
                {"column": "event_id", "min_value": 1 - max_duplicates},
                ("event_id",),
                "warning",
                "more duplicates than usual: a delivery was probably sent twice",
                whole=True,
            ),
            between("source_row", 1, None),
            between("position", 0, None, "warning"),
            between(
                "value", 0, None, "warning", why="negative prices and ratings are usually codes for unknown"
            ),
        ),
        derive=_arrival_ends,
        derived={"arrival_ends": ("arrival_date",)},
    )


def items_suite() -> Suite:
    """Return what the lake's items promise; a source without a catalogue leaves none."""
    return Suite(
        name="items",
        required=(
            "item_id",
            "title",
            "categories",
            "price",
            "valid_from",
            "source",
            "source_file",
            "source_row",
        ),
        rules=(
            *never_null("item_id", "source", "source_file", "source_row"),
            length("item_id"),
            unique("source_file", "source_row", why="a row that was read twice counts twice"),
            unique(
                "item_id",
                "valid_from",
                severity="warning",
                why="of two versions of one time the last row counts",
            ),
            Rule(
                "title is there for 90% of items",
                "ExpectColumnValuesToNotBeNull",
                {"column": "title", "mostly": 0.9},
                ("title",),
                "warning",
                "text vectors are made from titles",
            ),
            between("price", 0, None, why="mean prices feed the ranker"),
            between("n_categories", 0, 20, "warning", why="a path that long is a parsing mistake"),
            between("valid_from", EARLIEST, LATEST),
        ),
        derive=lambda table: list_lengths(table, {"categories": "n_categories"}),
        derived={"n_categories": ("categories",)},
    )


def _arrival_ends(table: pa.Table) -> pa.Table:
    """Add the midnight (UTC) at which the arrival day was over."""
    days = table["arrival_date"].cast(pa.date32()).cast(pa.int32())
    midnights = pc.multiply(pc.add(days.cast(pa.int64()), 1), 86_400_000_000)
    return table.append_column("arrival_ends", midnights.cast(pa.timestamp("us", "UTC")))
