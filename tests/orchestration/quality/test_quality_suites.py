"""Every suite lets a clean table pass and catches each planted fault."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.quality import (
    MART_SUITES,
    QualityError,
    QualityReport,
    Suite,
    events_suite,
    items_suite,
    validate,
)

TIME = pa.timestamp("us", "UTC")
DAY = datetime(2025, 3, 1, tzinfo=UTC)
N = 40


def events() -> pa.Table:
    types = ["view", "search", "cart", "impression"] * (N // 4)
    return pa.table(
        {
            "event_id": [f"e{n}" for n in range(N)],
            "user_id": [f"u{n % 7}" for n in range(N)],
            "item_id": [None if kind == "search" else f"i{n % 5}" for n, kind in enumerate(types)],
            "event_type": types,
            "event_ts": pa.array([DAY + timedelta(minutes=n) for n in range(N)], TIME),
            "session_id": pa.array([None] * N, pa.string()),
            "value": [1.5] * N,
            "query": ["tea" if kind == "search" else None for kind in types],
            "position": pa.array([None if n % 2 else n for n in range(N)], pa.int32()),
            "source": ["simulator"] * N,
            "source_file": ["events/2025-03-01.jsonl"] * N,
            "source_row": pa.array(range(1, N + 1), pa.int64()),
            "arrival_date": pa.array([date(2025, 3, 1)] * N),
        }
    )


def items() -> pa.Table:
    return pa.table(
        {
            "item_id": [f"i{n}" for n in range(N)],
            "title": [f"Tea {n}" for n in range(N)],
            "categories": [["drinks", "tea"]] * N,
            "price": [float(n) for n in range(N)],
            "valid_from": pa.array([None] * N, TIME),
            "source": ["simulator"] * N,
            "source_file": ["items/2025-03-01.jsonl"] * N,
            "source_row": pa.array(range(1, N + 1), pa.int64()),
        }
    )


def mart(key: str, counts: dict[str, int], rest: dict[str, Any]) -> pa.Table:
    times = pa.array([DAY + timedelta(days=n % 10) for n in range(N)], TIME)
    columns = {key: [f"k{n // 10}" for n in range(N)], "event_timestamp": times, "created_timestamp": times}
    numbers = {name: pa.array([value] * N, pa.int64()) for name, value in counts.items()}
    return pa.table(columns | numbers | {name: [value] * N for name, value in rest.items()})


def activity() -> pa.Table:
    counts = {"events_1d": 2, "events_7d": 9, "interactions_7d": 4, "interactions_30d": 6}
    counts |= {"views_30d": 5, "carts_30d": 1, "purchases_30d": 0}
    rest = {"days_since_last": 0.5, "tenure_days": 3.0, "mean_price_30d": 8.0, "favourite_category": "tea"}
    return mart("user_id", counts, rest)


def history() -> pa.Table:
    lists = {"recent_items": ["i1", "i2"], "recent_types": ["view", "cart"], "recent_ts": [1, 2]}
    return mart("user_id", {"history_length": 2}, lists)


def stats() -> pa.Table:
    counts = {"impressions_7d": 9, "views_7d": 5, "interactions_7d": 3, "interactions_30d": 4}
    return mart(
        "item_id",
        counts | {"purchases_30d": 1, "users_30d": 4},
        {"conversion_30d": 0.2, "age_days": 1.0, "price": 2.0},
    )


TABLES: dict[str, Callable[[], pa.Table]] = {
    "events": events,
    "items": items,
    "ftr_user__activity": activity,
    "ftr_user__history": history,
    "ftr_item__stats": stats,
}
SUITES: dict[str, Suite] = {"events": events_suite(), "items": items_suite(), **MART_SUITES}


def planted(table: pa.Table, column: str, value: Any, row: int = 3) -> pa.Table:
    """Return the table with one cell changed."""
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(
        table.column_names.index(column), column, pa.array(values, table.schema.field(column).type)
    )


def check(tmp_path: Path, name: str, table: pa.Table, **options: Any) -> QualityReport:
    return validate(table, SUITES[name], tmp_path / "quality", **options)


@pytest.mark.parametrize("name", TABLES)
def test_clean_table_passes(tmp_path: Path, name: str) -> None:
    report = check(tmp_path, name, TABLES[name]())
    assert report.failures == []
    assert report.passed
    assert report.rules == len(SUITES[name].rules) + 1


# Suite -> cells that are spoilt, as (row, column, value), each in a row of its own.
FAULTS: dict[str, list[tuple[int, str, Any]]] = {
    "events": [
        (3, "event_id", None),
        (4, "user_id", ""),
        (5, "user_id", "u" * 300),
        (6, "event_type", "purchse"),
        (0, "item_id", None),
        (7, "event_ts", datetime(1970, 1, 20, tzinfo=UTC)),
        (8, "event_ts", datetime(2025, 3, 9, tzinfo=UTC)),
        (9, "source_row", 2),
        (10, "source_row", 0),
        (11, "position", -1),
        (12, "value", -2.5),
    ],
    "items": [
        (3, "item_id", None),
        (4, "price", -1.0),
        (5, "source_row", 1),
        (6, "categories", ["c"] * 21),
        (7, "valid_from", datetime(1970, 1, 20, tzinfo=UTC)),
        *((row, "title", None) for row in range(8, 13)),
    ],
    "ftr_user__activity": [
        (3, "user_id", None),
        (4, "event_timestamp", DAY),
        (5, "created_timestamp", DAY),
        (6, "carts_30d", -1),
        (7, "events_1d", 10),
        (8, "interactions_7d", 8),
        (9, "days_since_last", -1.5),
    ],
    "ftr_user__history": [
        (4, "recent_types", ["view"]),
        (5, "history_length", 1),
        (6, "event_timestamp", DAY),
    ],
    "ftr_item__stats": [
        (3, "purchases_30d", -3),
        *((row, "conversion_30d", 1.5) for row in (2, 4, 8)),
        (5, "users_30d", 5),
        (6, "item_id", "k1"),
    ],
}
# Suite -> what is told of them: the rule, its severity, how many rows break it, and what they hold, but for users.
TOLD: dict[str, list[tuple[str, str, int, list[str]]]] = {
    "events": [
        ("event_id is never null", "error", 1, []),
        ("user_id has 1 to 256 characters", "error", 2, []),
        (
            "event_type is bookmark or cart or click or comment or follow or impression or like or purchase or rating or search "
            "or share or view",
            "error",
            1,
            ["purchse"],
        ),
        ("item_id is there, unless event_type is search", "error", 1, []),
        ("event_ts is at least 1990-01-01 and at most 2100-01-01", "error", 1, ["1970-01-20 00:00:00+00:00"]),
        (
            "arrival_ends is at least event_ts",
            "warning",
            1,
            ["2025-03-02T00:00:00.000000, 2025-03-09T00:00:00.000000"],
        ),
        (
            "no two rows have the same source_file and source_row",
            "error",
            2,
            ["source_file=events/2025-03-01.jsonl, source_row=2"],
        ),
        ("source_row is at least 1", "error", 1, ["0"]),
        ("position is at least 0", "warning", 1, ["-1"]),
        ("value is at least 0", "warning", 1, ["-2.5"]),
    ],
    "items": [
        ("item_id is never null", "error", 1, []),
        (
            "no two rows have the same source_file and source_row",
            "error",
            2,
            ["source_file=items/2025-03-01.jsonl, source_row=1"],
        ),
        ("title is there for 90% of items", "warning", 5, []),
        ("price is at least 0", "error", 1, ["-1"]),
        ("n_categories is at least 0 and at most 20", "warning", 1, ["21"]),
        (
            "valid_from is at least 1990-01-01 and at most 2100-01-01",
            "error",
            1,
            ["1970-01-20 00:00:00+00:00"],
        ),
    ],
    "ftr_user__activity": [
        ("user_id is never null", "error", 1, []),
        (
            "no two rows have the same user_id and event_timestamp",
            "error",
            2,
            [],
        ),
        (
            "created_timestamp is at least event_timestamp",
            "error",
            1,
            ["2025-03-01T00:00:00.000000, 2025-03-06T00:00:00.000000"],
        ),
        ("carts_30d is at least 0", "error", 1, ["-1"]),
        ("events_7d is at least events_1d", "error", 1, ["9, 10"]),
        ("interactions_30d is at least interactions_7d", "error", 1, ["6, 8"]),
        ("days_since_last is at least -1", "error", 1, ["-1.5"]),
    ],
    "ftr_user__history": [
        (
            "no two rows have the same user_id and event_timestamp",
            "error",
            2,
            [],
        ),
        ("n_items equals n_types", "error", 1, ["2, 1"]),
        ("history_length is at least n_items", "error", 1, ["1, 2"]),
    ],
    "ftr_item__stats": [
        (
            "no two rows have the same item_id and event_timestamp",
            "error",
            2,
            ["item_id=k1, event_timestamp=2025-03-07 00:00:00+00:00"],
        ),
        ("purchases_30d is at least 0", "error", 1, ["-3"]),
        ("interactions_30d is at least users_30d", "warning", 1, ["4, 5"]),
        ("conversion_30d is at most 1 for 95% of rows", "warning", 3, ["1.5"]),
    ],
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught_and_nothing_else(tmp_path: Path, name: str) -> None:
    table = TABLES[name]()
    for row, column, value in FAULTS[name]:
        table = planted(table, column, value, row)

    report = check(tmp_path, name, table)

    assert [(f.rule, f.severity, f.unexpected, f.samples) for f in report.failures] == TOLD[name]
    assert not report.passed


@pytest.mark.parametrize("name", TABLES)
def test_missing_column_is_an_error(tmp_path: Path, name: str) -> None:
    column = SUITES[name].required[-1]
    report = check(tmp_path, name, TABLES[name]().drop_columns(column))
    assert not report.passed
    assert report.failures[0].observed == f"no column {column}"
    assert len(report.failures) == 1


def test_empty_tables(tmp_path: Path) -> None:
    assert check(tmp_path, "items", items().slice(0, 0)).passed
    for name in ("events", *MART_SUITES):
        report = check(tmp_path, name, TABLES[name]().slice(0, 0))
        assert [failure.rule for failure in report.errors] == ["there is a row"]
        assert report.errors[0].observed == "0"


def test_searches_need_no_item_and_duplicates_only_warn(tmp_path: Path) -> None:
    table = events()
    twice = pa.concat_tables(
        [table, table.slice(0, 4).set_column(11, "source_row", pa.array([91, 92, 93, 94]))]
    )
    report = check(tmp_path, "events", twice)
    assert report.passed
    assert [(f.rule, f.observed) for f in report.warnings] == [
        ("at most 5% of event_id are duplicates", "0.909091")
    ]


def test_large_tables_are_sampled_but_uniqueness_is_not(tmp_path: Path) -> None:
    # Rows 0, 13, 26 and 39 make the sample: neither fault is among them.
    table = planted(planted(stats(), "item_id", "k1", 3), "price", -1.0, 5)
    sampled = check(tmp_path, "ftr_item__stats", table, max_rows=4)
    assert (sampled.rows, sampled.rows_checked) == (N, 4)
    assert [failure.rule for failure in sampled.failures] == [
        "no two rows have the same item_id and event_timestamp"
    ]
    assert "values checked on 4 of them" in sampled.docs.read_text(encoding="utf-8")
    # Of a large table numbers are compared; what is told are the values.
    assert sampled.failures[0].unexpected == 2
    assert all("item_id=k1" in sample for sample in sampled.failures[0].samples)
    assert sampled.failures[0].samples
    seen = check(tmp_path, "ftr_item__stats", planted(stats(), "price", -1.0, 13), max_rows=4)
    assert [failure.unexpected for failure in seen.failures] == [1]


def test_frames_tables_and_files_give_the_same_verdict(tmp_path: Path) -> None:
    table = planted(activity(), "carts_30d", -1)
    pq.write_table(table, tmp_path / "mart.parquet")
    pq.write_table(table.slice(0, 9), tmp_path / "first.parquet")
    pq.write_table(table.slice(9), tmp_path / "second.parquet")
    verdicts = [
        validate(given, SUITES["ftr_user__activity"], tmp_path / "quality").failures
        for given in (
            table,
            table.to_pandas(),
            tmp_path / "mart.parquet",
            [tmp_path / "first.parquet", tmp_path / "second.parquet"],
        )
    ]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert len(verdicts[0]) == 1


def test_docs_and_results_are_written_and_repeatable(tmp_path: Path) -> None:
    bad = planted(events(), "event_type", "<b>purchse</b>")
    first = check(tmp_path, "events", bad, batch="2025-03-01")
    written = first.results.read_bytes()
    again = check(tmp_path, "events", bad, batch="2025-03-01")
    check(tmp_path, "events", events(), batch="2025-03-02")
    check(tmp_path, "ftr_item__stats", stats())

    assert first == again
    assert first.results.read_bytes() == written
    index = (tmp_path / "quality" / "index.html").read_text(encoding="utf-8")
    for link in ("events/2025-03-01.html", "events/2025-03-02.html", "ftr_item__stats/latest.html"):
        assert f'href="{link}"' in index
        assert (tmp_path / "quality" / link).is_file()
    assert index.index("2025-03-02") < index.index("2025-03-01")
    page = first.docs.read_text(encoding="utf-8")
    assert "&lt;b&gt;purchse" in page
    assert "<b>purchse" not in page
    # What Great Expectations itself rendered is on the page, and nothing is fetched from elsewhere.
    assert "values must belong to this set" in page
    assert "Evaluated Expectations" in page
    for text in (page, index):
        assert "<script" not in text
        assert "src=" not in text
        assert "url(" not in text
        assert 'rel="stylesheet"' not in text


def test_mistakes_are_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="cannot name a batch"):
        check(tmp_path, "events", events(), batch="../x")
    with pytest.raises(QualityError, match=r"nothing\.parquet cannot be read"):
        check(tmp_path, "events", tmp_path / "nothing.parquet")
