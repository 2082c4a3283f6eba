"""SQL text of the parsing steps. Names, values and paths from outside enter only as quoted literals or identifiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestration.ingest.spec import Column, Condition, ListColumn

_US_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LAST_US = 253_402_300_799_999_999  # the end of 9999


def literal(text: str) -> str:
    """Return ``text`` as a SQL string literal."""
    # The parser stops at a NUL, so that one has to be built.
    return "'" + text.replace("'", "''").replace("\0", "' || chr(0) || '") + "'"


def literals(texts: Iterable[str]) -> str:
    """Return string literals, separated by commas."""
    return ", ".join(literal(text) for text in texts)


def identifier(name: str) -> str:
    """Return ``name`` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def glob_literal(path: str) -> str:
    """Return ``path`` as a literal for a DuckDB reader, which would take ``*``, ``?`` and ``[`` as wildcards."""
    return literal("".join(f"[{c}]" if c in "*?[" else c for c in path))


def json_pointer(column: str) -> str:
    """Return the JSON pointer of a key; a column that starts with a slash is one already."""
    return column if column.startswith("/") else "/" + column.replace("~", "~0").replace("/", "~1")


def condition(test: Condition, f: Mapping[str, str]) -> str:
    """Return a test as SQL; ``f`` holds the SQL of each source column's value."""
    value = f[test.column]
    if test.in_ is not None:
        return f"coalesce({value} IN ({literals(test.in_)}), false)"
    return f"coalesce({value} NOT IN ({literals(test.not_in or ())}), true)"


def scalar(origin: Column | None, f: Mapping[str, str]) -> str:
    """Return a canonical field as SQL of type VARCHAR; NULL where the row has no value.

    Blank text is no value. ``f`` holds the SQL of each source column's value.
    """
    if origin is None:
        return "CAST(NULL AS VARCHAR)"
    if origin.constant is not None:
        return literal(origin.constant)
    value = f[origin.column or ""]
    if origin.first:
        value = f"CASE WHEN json_valid({value}) THEN json_extract_string({value}, '/0') END"
    tests = []
    if origin.nulls:
        tests.append(f"{value} NOT IN ({literals(origin.nulls)})")
    if origin.when is not None:
        tests.append(condition(origin.when, f))
    more = "".join(f" AND {test}" for test in tests)
    # What starts with more than a space is not blank, and comparing is ten times cheaper than trimming. Two branches
    # are cheaper than one with OR.
    value = f"CASE WHEN {value} >= '!'{more} THEN {value} WHEN trim({value}) <> ''{more} THEN {value} END"
    return value if origin.default is None else f"coalesce({value}, {literal(origin.default)})"


def elements(origin: ListColumn | None, f: Mapping[str, str]) -> str:
    """Return the elements of a list-valued field as SQL of type VARCHAR[]; NULL where the row has no value.

    ``f`` holds the SQL of each source column's value.
    """
    if origin is None:
        return "CAST(NULL AS VARCHAR[])"
    value = f[origin.column]
    if origin.split is not None:
        return f"string_split({value}, {literal(origin.split)})"
    return f"""CASE
            WHEN NOT json_valid({value}) OR json_type({value}) <> 'ARRAY' THEN [{value}]
            WHEN json_type({value}, '/0') = 'ARRAY' THEN TRY_CAST(json_extract({value}, '/0') AS VARCHAR[])
            ELSE TRY_CAST(CAST({value} AS JSON) AS VARCHAR[]) END"""


def kept_elements(origin: ListColumn | None, found: str) -> str:
    """Return those of the elements ``found`` that a list-valued field keeps, trimmed; an empty list where none is."""
    tests = ["trim(x) <> ''"]
    if origin is not None and origin.drop:
        tests.append(f"x NOT IN ({literals(origin.drop)})")
    if origin is not None and origin.without is not None:
        tests.append(f"x IS DISTINCT FROM {origin.without}")
    return f"coalesce([trim(x) FOR x IN {found} IF {' AND '.join(tests)}], CAST([] AS VARCHAR[]))"


def microseconds(value: str, unit: str) -> str:
    """Return a time as SQL of type BIGINT: microseconds since 1970 UTC; NULL where it is no time of 1970 to 9999."""
    if unit == "iso":
        us = f"epoch_us(TRY_CAST({value} AS TIMESTAMPTZ))"
        return f"CASE WHEN {us} BETWEEN 0 AND {_LAST_US} THEN {us} END"
    factor = _US_PER_UNIT[unit]
    whole, fraction = f"TRY_CAST({value} AS BIGINT)", f"TRY_CAST({value} AS DECIMAL(38, 6))"
    in_range = f"BETWEEN 0 AND {_LAST_US // factor}"
    return f"""CASE
        WHEN contains({value}, '.') THEN CASE WHEN {fraction} {in_range} THEN CAST({fraction} * {factor} AS BIGINT) END
        WHEN {whole} {in_range} THEN {whole} * {factor} END"""


def finite(value: str) -> str:
    """Return a number as SQL of type DOUBLE; NULL where it is none, or not finite."""
    number = f"TRY_CAST({value} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"
