"""What the feature marts promise before they are served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from orchestration.quality.rules import (
    EARLIEST,
    LATEST,
    Rule,
    Severity,
    Suite,
    at_least,
    between,
    equal,
    has_rows,
    list_lengths,
    never_null,
    unique,
)

HISTORY_LENGTH = 50
# Clocks of clients run ahead; a feature that looks further into the future than this is a leak.
_SKEW_DAYS = 1


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
        has_rows("no features at all: nothing was built"),
        *never_null(key, "event_timestamp", "created_timestamp", *counts),
        unique(key, "event_timestamp", why="the point-in-time join would choose one at random"),
        at_least("created_timestamp", "event_timestamp", why="a value cannot be known before its own time"),
        between("event_timestamp", EARLIEST, LATEST),
        *(between(count, 0, None) for count in counts),
    )
    read = {column for rule in (*common, *rules) for column in rule.columns}
    stored = (read - set(derived)) | {column for made_from in derived.values() for column in made_from}
    return Suite(name, tuple(sorted(stored)), (*common, *rules), derive, derived)


def in_dimension(
    suite: Suite, key: str, dimension: str, ids: Callable[[], pa.Array], severity: Severity
) -> Suite:
    """Return the suite with the promise that a dimension has every key.

    Parameters
    ----------
    suite
        Of a feature mart.
    key
        Column that names the user or the item.
    dimension
        Name of the mart that must have it.
    ids
        Reads what it has.
    severity
        Of the promise.
    """
    column = f"in_{dimension}"
    rule = Rule(
        says=f"{key} is in {dimension}",
        expectation="ExpectColumnValuesToBeInSet",
        arguments={"column": column, "value_set": [True]},
        columns=(column,),
        severity=severity,
        why="features of what is not there are served to nobody: marts of two builds are mixed",
    )

    def derive(table: pa.Table) -> pa.Table:
        return suite.derive(table).append_column(column, pc.is_in(table[key], value_set=ids()))

    return replace(suite, rules=(*suite.rules, rule), derive=derive, derived=suite.derived | {column: (key,)})


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
            at_least("events_7d", "events_1d", why="a week holds its last day"),
            at_least("interactions_30d", "interactions_7d", why="a month holds its last week"),
            at_least("events_7d", "interactions_7d", why="interactions are events"),
            between("days_since_last", -_SKEW_DAYS, None, why="the last interaction lies in the past"),
            between("tenure_days", -_SKEW_DAYS, None),
            between("mean_price_30d", 0, None),
        ),
    )


def _user_history() -> Suite:
    return _feature_mart(
        "ftr_user__history",
        "user_id",
        ("history_length",),
        (
            between("n_items", 0, HISTORY_LENGTH, why="longer rows slow every request"),
            equal("n_items", "n_types", why="these lists are read side by side"),
            equal("n_items", "n_times", why="these lists are read side by side"),
            at_least("history_length", "n_items", why="the latest items are part of the history"),
        ),
        lambda table: list_lengths(
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
            at_least("interactions_30d", "interactions_7d", why="a month holds its last week"),
            at_least("interactions_30d", "users_30d", "warning", why="a user who counts has interacted"),
            between("conversion_30d", 0, None),
            Rule(
                "conversion_30d is at most 1 for 95% of rows",
                "ExpectColumnValuesToBeBetween",
                {"column": "conversion_30d", "max_value": 1, "mostly": 0.95},
                ("conversion_30d",),
                "warning",
                "more purchases than views: views are missing",
            ),
            between("age_days", -_SKEW_DAYS, None),
            between("price", 0, None),
        ),
    )


MART_KEYS = {"ftr_user__activity": "user_id", "ftr_user__history": "user_id", "ftr_item__stats": "item_id"}
MART_SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (_user_activity(), _user_history(), _item_stats())
}
