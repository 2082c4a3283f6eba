"""Rules and suites as data, and the words that most rules are made of.

A rule names an expectation of Great Expectations and its arguments. An ``error`` stops what comes after; a ``warning``
is shown and lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml.artifacts import hash_json

Severity = Literal["error", "warning"]
Level = Literal["error", "warning", "off"]

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_ID_LENGTH = 256


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
    only
        ``(column, values)``: rows with other values are passed over.
    """

    says: str
    expectation: str
    arguments: dict[str, Any]
    columns: tuple[str, ...]
    severity: Severity = "error"
    why: str = ""
    whole: bool = False
    unless: tuple[str, tuple[str, ...]] | None = None
    only: tuple[str, tuple[str, ...]] | None = None

    @property
    def read(self) -> tuple[str, ...]:
        """Columns that it reads, those that choose rows included."""
        return (*self.columns, *(self.unless or ())[:1], *(self.only or ())[:1])


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
    tell
        Puts a row that breaks a rule in words; without it, values are shown as they are.
    """

    name: str
    required: tuple[str, ...]
    rules: tuple[Rule, ...]
    derive: Callable[[pa.Table], pa.Table] = field(default=lambda table: table)
    derived: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tell: Callable[[Mapping[str, Any]], str] | None = None

    def at_levels(self, levels: Mapping[str, Level]) -> Suite:
        """Return the suite with other levels for the rules that ``levels`` names by their words.

        Raises
        ------
        KeyError
            If there is no such rule.
        """
        if strangers := levels.keys() - {rule.says for rule in self.rules}:
            raise KeyError(f"{self.name} has no rule {min(strangers)!r}")
        rules = []
        for rule in self.rules:
            level = levels.get(rule.says, rule.severity)
            if level != "off":
                rules.append(replace(rule, severity=level))
        return replace(self, rules=tuple(rules))

    @property
    def version(self) -> str:
        """A hash of what is promised."""
        return hash_json(
            [(rule.says, rule.expectation, rule.arguments, rule.severity) for rule in self.rules]
        )


def has_rows(why: str) -> Rule:
    """Say that there is a row."""
    return Rule("there is a row", "ExpectTableRowCountToBeBetween", {"min_value": 1}, (), why=why, whole=True)


def never_null(*columns: str) -> tuple[Rule, ...]:
    """Say of each column that it is never null."""
    return tuple(
        Rule(f"{column} is never null", "ExpectColumnValuesToNotBeNull", {"column": column}, (column,))
        for column in columns
    )


def length(column: str) -> Rule:
    """Say that an id has a length that an id may have."""
    arguments = {"column": column, "min_value": 1, "max_value": _ID_LENGTH}
    says = f"{column} has 1 to {_ID_LENGTH} characters"
    return Rule(says, "ExpectColumnValueLengthsToBeBetween", arguments, (column,))


def one_of(column: str, values: Collection[str], why: str = "") -> Rule:
    """Say that a column holds these values only."""
    arguments = {"column": column, "value_set": sorted(values)}
    return Rule(f"{column} is {listed(values)}", "ExpectColumnValuesToBeInSet", arguments, (column,), why=why)


def between(column: str, low: Any, high: Any, severity: Severity = "error", why: str = "") -> Rule:
    """Say that a column lies between two values, both included; None leaves a side open."""
    limits = {"min_value": low, "max_value": high}
    arguments = {"column": column} | {name: value for name, value in limits.items() if value is not None}
    said = [
        f"{word} {_plain(limit)}"
        for word, limit in (("at least", low), ("at most", high))
        if limit is not None
    ]
    says = f"{column} is {' and '.join(said)}"
    return Rule(says, "ExpectColumnValuesToBeBetween", arguments, (column,), severity, why)


def unique(*columns: str, severity: Severity = "error", why: str = "") -> Rule:
    """Say that columns together name a row."""
    says = f"no two rows have the same {' and '.join(columns)}"
    arguments = {"column_list": list(columns)}
    return Rule(says, "ExpectCompoundColumnsToBeUnique", arguments, columns, severity, why, whole=True)


def at_least(larger: str, smaller: str, severity: Severity = "error", why: str = "") -> Rule:
    """Say that one column is never below another in a row that has both."""
    arguments = {
        "column_A": larger,
        "column_B": smaller,
        "or_equal": True,
        "ignore_row_if": "either_value_is_missing",
    }
    says = f"{larger} is at least {smaller}"
    return Rule(says, "ExpectColumnPairValuesAToBeGreaterThanB", arguments, (larger, smaller), severity, why)


def equal(left: str, right: str, why: str = "") -> Rule:
    """Say that two columns are equal in every row that has both."""
    arguments = {"column_A": left, "column_B": right, "ignore_row_if": "either_value_is_missing"}
    return Rule(
        f"{left} equals {right}", "ExpectColumnPairValuesToBeEqual", arguments, (left, right), why=why
    )


def list_lengths(table: pa.Table, names: dict[str, str]) -> pa.Table:
    """Replace list columns by their lengths: that is all that rules read of them."""
    for column, length in names.items():
        lengths = pc.list_value_length(table[column]).cast(pa.int64())
        table = table.drop_columns(column).append_column(length, lengths)
    return table


def listed(values: Collection[str]) -> str:
    """Return values as words."""
    return " or ".join(sorted(values))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    return str(value)
