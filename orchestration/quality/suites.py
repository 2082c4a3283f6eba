"""What each table promises: suites of rules, as data.

A rule names an expectation of Great Expectations and its arguments. An ``error`` stops what comes after; a ``warning``
is shown and lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from orchestration.ingest.spec import EventType

Severity = Literal["error", "warning"]

EVENT_TYPES = frozenset(get_args(EventType))
ITEMLESS_TYPES = frozenset({"search"})
HISTORY_LENGTH = 50
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_ID_LENGTH = 256
# Clocks of clients run ahead; a feature that looks further into the future than this is a leak.
_SKEW_DAYS = 1


@dataclass(frozen=True)
class Rule:
    """One promise.

    Parameters
    ----------
    says
        The promise in words.
    expectation
        Class name in ``great_expectations.expectations``.
    arguments
        What that class takes.
    columns
        Columns that it reads.
    severity
        ``"error"`` or ``"warning"``.
    why
        What goes wrong downstream when it is broken; shown in the docs.
    whole
        Whether it speaks of the table and not of single rows, so that a sample cannot answer it.
    unless
        ``(column, values)``: rows with these values are passed over.
    """

    says: str
    expectation: str
    arguments: dict[str, Any]
    columns: tuple[str, ...]
    severity: Severity = "error"
    why: str = ""
    whole: bool = False
    unless: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Suite:
    """The promises of one table.

    Parameters
    ----------
    name
        Names the suite in docs and results.
    required
        Columns that must be there.
    rules
        In the order in which failures are told.
    derive
        Adds the columns that rules read and the table does not have; gets only the columns that rules name.
    derived
        Column that ``derive`` adds, to the columns that it is made from.
    """

    name: str
    required: tuple[str, ...]
    rules: tuple[Rule, ...]
    derive: Callable[[pa.Table], pa.Table] = field(default=lambda table: table)
    derived: dict[str, tuple[str, ...]] = field(default_factory=dict)


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
            _has_rows("an arrival day without an event is a broken delivery"),
            *_never_null(
                "event_id",
                "user_id",
                "event_type",
                "event_ts",
                "source",
                "source_file",
                "source_row",
                "arrival_date",
            ),
            _length("event_id"),
            _length("user_id"),
            _one_of("event_type", event_types, why="models and features count by type"),
            Rule(
                f"item_id is there, unless event_type is {_listed(itemless)}",
                "ExpectColumnValuesToNotBeNull",
                {"column": "item_id"},
                ("item_id",),
                why="an interaction with nothing teaches nothing",
                unless=("event_type", tuple(sorted(itemless))),
            ),
            _between("event_ts", _EARLIEST, _LATEST, why="a wrong unit of time lands in 1970 or far ahead"),
            _at_least("arrival_ends", "event_ts", "warning", why="an event cannot arrive before it happened"),
            _unique("source_file", "source_row", why="a row that was read twice counts twice"),
            Rule(
                f"at most {max_duplicates:.0%} of event_id are duplicates",
                "ExpectColumnProportionOfUniqueValuesToBeBetween",
                {"column": "event_id", "min_value": 1 - max_duplicates},
                ("event_id",),
                "warning",
                "more duplicates than usual: a delivery was probably sent twice",
                whole=True,
            ),
            _between("source_row", 1, None),
            _between("position", 0, None, "warning"),
            _between(
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
            *_never_null("item_id", "source", "source_file", "source_row"),
            _length("item_id"),
            _unique("source_file", "source_row", why="a row that was read twice counts twice"),
            Rule(
                "title is there for 90% of items",
                "ExpectColumnValuesToNotBeNull",
                {"column": "title", "mostly": 0.9},
                ("title",),
                "warning",
                "text vectors are made from titles",
            ),
            _between("price", 0, None, why="mean prices feed the ranker"),
            _between("n_categories", 0, 20, "warning", why="a path that long is a parsing mistake"),
            _between("valid_from", _EARLIEST, _LATEST),
        ),
        derive=lambda table: _list_lengths(table, {"categories": "n_categories"}),
        derived={"n_categories": ("categories",)},
    )


def _feature_mart(
    name: str,
    key: str,
    counts: tuple[str, ...],
    rules: tuple[Rule, ...],
    derive: Callable[[pa.Table], pa.Table] = lambda table: table,
    derived: dict[str, tuple[str, ...]] | None = None,
) -> Suite:
    """Return the promises that all feature marts make, and then those of one."""
    derived = derived or {}
    common = (
        _has_rows("no features at all: nothing was built"),
        *_never_null(key, "event_timestamp", "created_timestamp", *counts),
        _unique(key, "event_timestamp", why="the point-in-time join would choose one at random"),
        _at_least("created_timestamp", "event_timestamp", why="a value cannot be known before its own time"),
        _between("event_timestamp", _EARLIEST, _LATEST),
        *(_between(count, 0, None) for count in counts),
    )
    read = {column for rule in (*common, *rules) for column in rule.columns}
    stored = (read - set(derived)) | {column for made_from in derived.values() for column in made_from}
    return Suite(name, tuple(sorted(stored)), (*common, *rules), derive, derived)


def _user_activity() -> Suite:
    return _feature_mart(
        "ftr_user__activity",
        "user_id",
        (
            "events_1d",
            "events_7d",
            "interactions_7d",
            "interactions_30d",
            "views_30d",
            "carts_30d",
            "purchases_30d",
        ),
        (
            _at_least("events_7d", "events_1d", why="a week holds its last day"),
            _at_least("interactions_30d", "interactions_7d", why="a month holds its last week"),
            _at_least("events_7d", "interactions_7d", why="interactions are events"),
            _between("days_since_last", -_SKEW_DAYS, None, why="the last interaction lies in the past"),
            _between("tenure_days", -_SKEW_DAYS, None),
            _between("mean_price_30d", 0, None),
        ),
    )


def _user_history() -> Suite:
    return _feature_mart(
        "ftr_user__history",
        "user_id",
        ("history_length",),
        (
            _between("n_items", 0, HISTORY_LENGTH, why="longer rows slow every request"),
            _equal("n_items", "n_types", why="these lists are read side by side"),
            _equal("n_items", "n_times", why="these lists are read side by side"),
            _at_least("history_length", "n_items", why="the latest items are part of the history"),
        ),
        lambda table: _list_lengths(
            table, {"recent_items": "n_items", "recent_types": "n_types", "recent_ts": "n_times"}
        ),
        {"n_items": ("recent_items",), "n_types": ("recent_types",), "n_times": ("recent_ts",)},
    )


def _item_stats() -> Suite:
    return _feature_mart(
        "ftr_item__stats",
        "item_id",
        ("impressions_7d", "views_7d", "interactions_7d", "interactions_30d", "purchases_30d", "users_30d"),
        (
            _at_least("interactions_30d", "interactions_7d", why="a month holds its last week"),
            _at_least("interactions_30d", "users_30d", "warning", why="a user who counts has interacted"),
            _between("conversion_30d", 0, None),
            Rule(
                "conversion_30d is at most 1 for 95% of rows",
                "ExpectColumnValuesToBeBetween",
                {"column": "conversion_30d", "max_value": 1, "mostly": 0.95},
                ("conversion_30d",),
                "warning",
                "more purchases than views: views are missing",
            ),
            _between("age_days", -_SKEW_DAYS, None),
            _between("price", 0, None),
        ),
    )


def _has_rows(why: str) -> Rule:
    return Rule("there is a row", "ExpectTableRowCountToBeBetween", {"min_value": 1}, (), why=why, whole=True)


def _never_null(*columns: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{column} is never null", "ExpectColumnValuesToNotBeNull", {"column": column}, (column,))
        for column in columns
    )


def _length(column: str) -> Rule:
    arguments = {"column": column, "min_value": 1, "max_value": _ID_LENGTH}
    says = f"{column} has 1 to {_ID_LENGTH} characters"
    return Rule(says, "ExpectColumnValueLengthsToBeBetween", arguments, (column,))


def _one_of(column: str, values: Collection[str], why: str = "") -> Rule:
    arguments = {"column": column, "value_set": sorted(values)}
    return Rule(
        f"{column} is {_listed(values)}", "ExpectColumnValuesToBeInSet", arguments, (column,), why=why
    )


def _between(column: str, low: Any, high: Any, severity: Severity = "error", why: str = "") -> Rule:
    limits = {"min_value": low, "max_value": high}
    arguments = {"column": column} | {name: value for name, value in limits.items() if value is not None}
    said = [
        f"{word} {_plain(limit)}"
        for word, limit in (("at least", low), ("at most", high))
        if limit is not None
    ]
    says = f"{column} is {' and '.join(said)}"
    return Rule(says, "ExpectColumnValuesToBeBetween", arguments, (column,), severity, why)


def _unique(*columns: str, why: str = "") -> Rule:
    says = f"no two rows have the same {' and '.join(columns)}"
    arguments = {"column_list": list(columns)}
    return Rule(says, "ExpectCompoundColumnsToBeUnique", arguments, columns, why=why, whole=True)


def _at_least(larger: str, smaller: str, severity: Severity = "error", why: str = "") -> Rule:
    arguments = {
        "column_A": larger,
        "column_B": smaller,
        "or_equal": True,
        "ignore_row_if": "either_value_is_missing",
    }
    says = f"{larger} is at least {smaller}"
    return Rule(says, "ExpectColumnPairValuesAToBeGreaterThanB", arguments, (larger, smaller), severity, why)


def _equal(left: str, right: str, why: str = "") -> Rule:
    arguments = {"column_A": left, "column_B": right, "ignore_row_if": "either_value_is_missing"}
    return Rule(
        f"{left} equals {right}", "ExpectColumnPairValuesToBeEqual", arguments, (left, right), why=why
    )


def _arrival_ends(table: pa.Table) -> pa.Table:
    """Add the midnight (UTC) at which the arrival day was over."""
    days = table["arrival_date"].cast(pa.date32()).cast(pa.int32())
    midnights = pc.multiply(pc.add(days.cast(pa.int64()), 1), 86_400_000_000)
    return table.append_column("arrival_ends", midnights.cast(pa.timestamp("us", "UTC")))


def _list_lengths(table: pa.Table, names: dict[str, str]) -> pa.Table:
    """Replace list columns by their lengths: that is all that rules read of them."""
    for column, length in names.items():
        lengths = pc.list_value_length(table[column]).cast(pa.int64())
        table = table.drop_columns(column).append_column(length, lengths)
    return table


def _listed(values: Collection[str]) -> str:
    return " or ".join(sorted(values))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    return str(value)


MART_SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (_user_activity(), _user_history(), _item_stats())
}
