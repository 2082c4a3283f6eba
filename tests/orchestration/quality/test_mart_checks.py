"""Marts are checked where they have changed; their newest day is held against the weeks before; rows that fail are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lakes
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchestration.quality import QualityError, failed_count, failed_rows, load_thresholds
from orchestration.quality.checks import Checker

MART = "ftr_item__stats"
SEED = 2


@pytest.fixture
def marts(tmp_path: Path) -> Path:
    lakes.write_marts(tmp_path / "marts", SEED)
    return tmp_path / "marts"


@pytest.fixture
def checker(tmp_path: Path) -> Checker:
    return Checker(tmp_path / "quality", load_thresholds())


def week(number: int) -> pa.Table:
    return lakes.features(7 * number, 7 * number + 7, SEED)


def part(number: int) -> str:
    return lakes.day_name(7 * number)


def cell(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    return lakes.replaced(table, column, values)


def test_only_changed_parts_are_checked(marts: Path, checker: Checker) -> None:
    first = checker.mart(marts, MART)
    assert first is not None
    assert (first.failures, first.rows) == ([], 11 * 7 * 150)
    assert first.batch == f"{part(0)}_{part(10)}"
    assert checker.mart(marts, MART) is None

    lakes.write_part(marts, MART, part(4), lakes.features(28, 35, 77))
    lakes.write_part(marts, MART, part(11), week(11))
    second = checker.mart(marts, MART)
    assert second is not None
    assert (second.failures, second.rows, second.batch) == ([], 2 * 7 * 150, f"{part(4)}_{part(11)}")
    assert checker.mart(marts, MART) is None


def test_parts_that_failed_are_checked_until_they_pass(marts: Path, checker: Checker) -> None:
    checker.mart(marts, MART)
    spoilt = cell(cell(week(10), "price", 9, -1.0), "users_30d", 11, 99_999)
    lakes.write_part(marts, MART, part(10), spoilt)
    for _ in range(2):
        report = checker.mart(marts, MART)
        assert report is not None
        assert [(f.rule, f.severity, f.unexpected) for f in report.failures] == [
            ("interactions_30d is at least users_30d", "warning", 1),
            ("price is at least 0", "error", 1),
        ]
        assert report.rows == 7 * 150
    rows = failed_rows(checker.docs, MART, part(10))
    assert list(rows) == ["interactions_30d is at least users_30d", "price is at least 0"]
    assert rows["price is at least 0"].cast(spoilt.schema).equals(spoilt.slice(9, 1))
    assert report.failures[1].rows == f"failed/{MART}/{part(10)}/price_is_at_least_0.parquet"
    assert (checker.docs / str(report.failures[1].rows)).is_file()
    page = report.docs.read_text(encoding="utf-8")
    assert f'href="../{report.failures[1].rows}"' in page

    # Mended: the rows that failed are gone with the failure.
    lakes.write_part(marts, MART, part(10), week(10))
    report = checker.mart(marts, MART)
    assert report is not None
    assert report.failures == []
    assert failed_rows(checker.docs, MART, part(10)) == {}
    assert not (checker.docs / "failed" / MART / part(10)).exists()


def test_failing_rows_go_when_a_wider_verdict_passes(marts: Path, checker: Checker) -> None:
    lakes.write_part(marts, MART, part(10), cell(week(10), "price", 9, -1.0))
    first = checker.mart(marts, MART)
    assert first is not None
    assert not first.passed
    assert failed_rows(checker.docs, MART, first.batch)
    lakes.write_part(marts, MART, part(10), week(10))
    lakes.write_part(marts, MART, part(11), week(11))
    second = checker.mart(marts, MART)
    assert second is not None
    assert second.passed
    assert second.batch == f"{part(0)}_{part(11)}" != first.batch
    assert failed_rows(checker.docs, MART, first.batch) == {}


def test_failing_rows_are_capped_and_counted(marts: Path, checker: Checker) -> None:
    table = week(10)
    lakes.write_part(marts, MART, part(10), lakes.replaced(table, "price", [-1.0] * table.num_rows))
    capped = replace(checker, max_failed_rows=7)
    capped.mart(marts, MART)
    rows = failed_rows(checker.docs, MART, f"{part(0)}_{part(10)}")["price is at least 0"]
    assert (rows.num_rows, failed_count(rows)) == (7, 1050)
    assert rows["item_id"].to_pylist() == table["item_id"].to_pylist()[:7]


def test_a_key_that_is_there_twice_is_found_within_its_part(marts: Path, checker: Checker) -> None:
    checker.mart(marts, MART)
    lakes.write_part(marts, MART, part(10), pa.concat_tables([week(10), week(10).slice(5, 1)]))
    report = checker.mart(marts, MART)
    assert report is not None
    assert [(f.rule, f.unexpected) for f in report.failures] == [
        ("no two rows have the same item_id and event_timestamp", 2)
    ]


def test_other_rules_are_checked_on_every_part(marts: Path, checker: Checker, tmp_path: Path) -> None:
    assert checker.mart(marts, MART) is not None
    own = tmp_path / "own.yaml"
    own.write_text(f"contract: {{{MART}: {{'price is at least 0': warning}}}}")
    other = replace(checker, thresholds=load_thresholds(own))
    report = other.mart(marts, MART)
    assert report is not None
    assert report.rows == 11 * 7 * 150
    assert other.mart(marts, MART) is None


def test_features_of_unknown_items_are_errors(marts: Path, checker: Checker) -> None:
    lakes.write_part(marts, MART, part(10), cell(week(10), "item_id", 3, "nobody"))
    report = checker.mart(marts, MART)
    assert report is not None
    assert [(f.rule, f.severity, f.unexpected) for f in report.failures] == [
        ("item_id is in dim_items", "error", 1)
    ]
    rows = failed_rows(checker.docs, MART, report.batch)["item_id is in dim_items"]
    assert rows["item_id"].to_pylist() == ["nobody"]


def last_day(change: Callable[[pa.Table], pa.Table]) -> pa.Table:
    table = week(10)
    return pa.concat_tables([table.slice(0, 900), change(table.slice(900))])


def scaled(column: str, factor: float) -> Callable[[pa.Table], pa.Table]:
    return lambda t: lakes.replaced(
        t, column, pc.multiply(t[column].cast(pa.float64()), factor).cast(pa.int64())
    )


FAULTS: dict[str, tuple[Callable[[pa.Table], pa.Table], set[str]]] = {
    "none": (lambda t: t, set()),
    "prices in cents": (
        lambda t: lakes.replaced(t, "price", pc.multiply(t["price"], 100.0)),
        {"drift of price is at most its limit"},
    ),
    "a window twice as long": (scaled("views_7d", 2.0), {"drift of views_7d is at most its limit"}),
    "conversion lost": (
        lambda t: lakes.replaced(t, "conversion_30d", [None if k % 3 else 0.1 for k in range(t.num_rows)]),
        {"nulls are at most as many as usual", "drift of conversion_30d is at most its limit"},
    ),
    "few entities": (lambda t: t.slice(0, 50), {"rows are at least as many as usual"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_newest_day_of_features_against_the_weeks_before(marts: Path, checker: Checker, fault: str) -> None:
    change, expected = FAULTS[fault]
    lakes.write_part(marts, MART, part(10), last_day(change))
    report = checker.feature_history(marts, MART)
    assert report is not None
    assert {failure.rule for failure in report.failures} == expected
    assert report.skipped == []
    assert report.batch == lakes.day_name(76)
    assert {failure.severity for failure in report.failures} <= {"warning"}


def test_a_young_mart_has_no_history_to_drift_from(tmp_path: Path, checker: Checker) -> None:
    lakes.write_marts(tmp_path / "marts", SEED, weeks=5)
    report = checker.feature_history(tmp_path / "marts", MART)
    assert report is not None
    assert report.failures == []
    assert "rows: not enough history: 4 of 7 days" in report.skipped


def test_orphan_events_warn_and_then_fail(marts: Path, checker: Checker) -> None:
    assert [report.failures for report in checker.references(marts)] == [[], []]
    # Events have passed as they are; the use of the catalogue is looked at each time.
    assert [report.suite for report in checker.references(marts)] == ["catalogue_use"]
    few = pa.table({"item_id": [f"x{k}" if k < 10 else "i1" for k in range(100)], "user_id": ["u"] * 100})
    lakes.write_part(marts, "fct_events", part(11), few)
    events = checker.references(marts)[0]
    assert [(f.rule, f.severity, f.unexpected) for f in events.failures] == [
        ("the catalogue has the item of 98% of events", "warning", 10)
    ]
    orphans = failed_rows(checker.docs, "event_references", events.batch)
    assert orphans["the catalogue has the item of 98% of events"]["item_id"].to_pylist() == [
        f"x{k}" for k in range(10)
    ]
    most = pa.table({"item_id": [f"x{k}" if k < 80 else None for k in range(100)], "user_id": ["u"] * 100})
    lakes.write_part(marts, "fct_events", part(11), most)
    assert [(f.severity, f.unexpected) for f in checker.references(marts)[0].failures] == [
        ("warning", 80),
        ("error", 80),
    ]


def test_a_catalogue_that_nobody_meets_is_a_warning(marts: Path, checker: Checker) -> None:
    dim = pa.table(
        {
            "item_id": [f"i{k}" for k in range(20)],
            "has_metadata": [k < 19 for k in range(20)],
            "first_event_ts": pa.array([None] * 19 + [0], lakes.TIME),
        }
    )
    lakes.write_part(marts, "dim_items", "all", dim)
    use = checker.references(marts)[-1]
    assert [(f.rule, f.severity, f.unexpected) for f in use.failures] == [
        ("10% of the catalogue has an event", "warning", 19)
    ]
    nothing = lakes.replaced(dim, "has_metadata", [False] * 20)
    lakes.write_part(marts, "dim_items", "all", nothing)
    assert checker.references(marts) == []


def test_a_mart_that_is_not_there_is_one_line(tmp_path: Path, checker: Checker) -> None:
    with pytest.raises(QualityError, match="ftr_item__stats holds no part"):
        checker.mart(tmp_path / "marts", MART)
