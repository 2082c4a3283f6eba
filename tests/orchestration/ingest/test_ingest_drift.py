from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from landed import (
    DAILY,
    FIRST,
    MANY_DAYS,
    SECOND,
    Home,
    event_line,
    land,
    land_csv,
    ms,
    noon,
    spec_of,
    write_lines,
)

from orchestration.ingest.errors import IngestError
from orchestration.ingest.shapes import Observer, Shape

THIRD = date(2025, 3, 3)
REMEDY = "; mend the file, or change the source spec, or take it as it is with TESSERA_SCHEMA_DRIFT=warn"


def lines(day: date, n: int = 40, **changes: Any) -> list[bytes]:
    start = ms(str(day))
    usual = {"price": 1.5, "session": "s", "shop": "north"}
    return [event_line(k, **({"ts": start + k} | usual | changes)) for k in range(n)]


def days(home: Home, second: list[bytes], **options: Any) -> list[str]:
    """Ingest a usual day, then another one; return what was odd about the second."""
    land(home, "2025-03-01", lines(FIRST))
    assert home.ingest(spec_of(DAILY), [FIRST]).drift == []
    land(home, "2025-03-02", second)
    return home.ingest(spec_of(DAILY), [SECOND], **options).drift


MAPPED = [
    ({"price": "1.50"}, "column 'price' held numbers until 2025-03-01 and holds text now"),
    ({"price": {"amount": 1}}, "column 'price' held numbers until 2025-03-01 and holds objects now"),
    ({"session": ["s"]}, "column 'session' held text until 2025-03-01 and holds arrays now"),
    ({"session": None}, "column 'session' was there until 2025-03-01 (in 100% of the rows) and is gone"),
    ({"ts": "2025-03-02T00:00:00Z"}, "column 'ts' held numbers until 2025-03-01 and holds text now"),
    ({"user": None}, "column 'user' was there until 2025-03-01 (in 100% of the rows) and is gone"),
]
OTHERS = [
    ({"shop": None}, "column 'shop' was there until 2025-03-01 (in 100% of the rows) and is gone"),
    ({"shop": 7}, "column 'shop' held text until 2025-03-01 and holds numbers now"),
    ({"coupon": True}, "column 'coupon' is new since 2025-03-01, and holds booleans"),
]


@pytest.mark.parametrize(("change", "what"), MAPPED)
def test_a_change_in_a_mapped_column_stops_the_day(home: Home, change: dict[str, Any], what: str) -> None:
    with pytest.raises(IngestError) as caught:
        days(home, lines(SECOND, **change))
    assert str(caught.value) == f"events/2025-03-02.jsonl: {what}{REMEDY}"
    assert not (home.root / "lake/events/day=2025-03-02").exists()
    standing = home.events("2025-03-01")
    assert len(standing) == 40


@pytest.mark.parametrize(("change", "what"), OTHERS)
def test_a_change_in_another_column_is_told(home: Home, change: dict[str, Any], what: str) -> None:
    assert days(home, lines(SECOND, **change)) == [
        f"events/2025-03-02.jsonl: {what}; the spec does not read it"
    ]
    assert len(home.events("2025-03-02")) == 40


@pytest.mark.parametrize(("change", "what"), OTHERS)
def test_all_changes_can_stop_a_day(home: Home, change: dict[str, Any], what: str) -> None:
    with pytest.raises(IngestError, match=r"^events/2025-03-02\.jsonl: column '(shop|coupon)' "):
        days(home, lines(SECOND, **change), schema_drift="fail")


def test_a_change_that_was_let_pass_is_what_the_next_days_are_held_against(home: Home) -> None:
    assert len(days(home, lines(SECOND, price="1.50", session=None), schema_drift="warn")) == 2
    land(home, "2025-03-03", lines(THIRD, price="1.50", session=None))
    assert home.ingest(spec_of(DAILY), [THIRD]).drift == []


def test_a_mapped_column_that_merely_escaped_the_sample_is_not_lost(home: Home) -> None:
    land(home, "2025-03-01", lines(FIRST))
    home.ingest(spec_of(DAILY), [FIRST])
    land(home, "2025-03-02", [*lines(SECOND, 1500, session=None), *lines(SECOND, 400)])
    assert home.ingest(spec_of(DAILY), [SECOND]).drift == []


def test_a_mapped_column_of_nulls_is_lost(home: Home) -> None:
    nulls = [json.dumps({**json.loads(line), "price": None}).encode() for line in lines(SECOND)]
    with pytest.raises(IngestError, match="column 'price' was there until"):
        days(home, nulls)


def test_an_edited_spec_starts_anew(home: Home) -> None:
    land(home, "2025-03-01", lines(FIRST))
    home.ingest(spec_of(DAILY), [FIRST])
    land(home, "2025-03-02", lines(SECOND, price="1.50"))
    assert home.ingest(spec_of(DAILY, max_late_days=5), [SECOND]).drift == []


def test_days_of_one_call_are_held_against_each_other(home: Home) -> None:
    land(home, "2025-03-01", lines(FIRST))
    land(home, "2025-03-02", lines(SECOND, price="1.50"))
    with pytest.raises(IngestError, match=r"^events/2025-03-02\.jsonl: column 'price' held numbers"):
        home.ingest(spec_of(DAILY), [FIRST, SECOND])
    assert home.files() == {}


def test_chance_is_no_drift(home: Home) -> None:
    """A few strange values, a rare column that does not come up, and small files stop nothing."""
    rare = [*lines(FIRST, 99), *lines(FIRST, 1, query="tea")]
    land(home, "2025-03-01", rare)
    home.ingest(spec_of(DAILY), [FIRST])
    land(home, "2025-03-02", [*lines(SECOND, 36), *lines(SECOND, 4, price="1.5")])
    assert home.ingest(spec_of(DAILY), [SECOND]).drift == []
    land(home, "2025-03-03", lines(THIRD, 5, price="1.5", session=None))
    assert home.ingest(spec_of(DAILY), [THIRD]).drift == []


def test_the_content_does_not_depend_on_what_was_seen_before(home: Home) -> None:
    land(home, "2025-03-02", lines(SECOND, coupon=True))
    home.ingest(spec_of(DAILY), [SECOND])
    before = home.files()
    land(home, "2025-03-01", lines(FIRST))
    home.ingest(spec_of(DAILY), [FIRST])
    again = home.ingest(spec_of(DAILY), [SECOND])
    assert len(again.drift) == 1
    assert not again.changed
    assert {name: data for name, data in home.files().items() if name in before} == before


def test_a_new_shape_of_the_same_content_is_remembered_and_changes_nothing(home: Home) -> None:
    land(home, "2025-03-01", lines(FIRST))
    home.ingest(spec_of(DAILY), [FIRST])
    before = home.manifest("2025-03-01")
    land(home, "2025-03-01", lines(FIRST, coupon=True))
    assert not home.ingest(spec_of(DAILY), [FIRST]).changed
    after = home.manifest("2025-03-01")
    assert after["content_hash"] == before["content_hash"]
    assert after["shape"]["columns"].keys() - before["shape"]["columns"].keys() == {"coupon"}


def test_pointers_are_looked_at(home: Home) -> None:
    spec = spec_of(DAILY, columns=DAILY["events"]["columns"] | {"value": "/paid/amount"})
    land(home, "2025-03-01", lines(FIRST, paid={"amount": 2}))
    home.ingest(spec, [FIRST])
    land(home, "2025-03-02", lines(SECOND, paid={"total": 2}))
    with pytest.raises(IngestError, match="column '/paid/amount' was there until 2025-03-01"):
        home.ingest(spec, [SECOND])


def test_csv_minds_numbers_where_numbers_are_needed(home: Home) -> None:
    spec = spec_of(MANY_DAYS, path="{day}.csv")
    rows = [f"7,i,{noon(1)},5,a" for _ in range(40)]

    def day(n: int, header: str, rows: list[str]) -> list[str]:
        write_lines(home.landing / f"2025-03-0{n}.csv", [line.encode() for line in (header, *rows)])
        return home.ingest(spec, [date(2025, 3, n)], max_bad_share=1).drift

    assert day(1, "user,item,time,stars,shop", rows) == []
    assert day(2, "user,item,time,stars,shop", [row.replace("7,", "u7,", 1) for row in rows]) == [
        f"2025-03-02.csv: column 'user' held numbers until 2025-03-01 and holds text now{REMEDY}"
    ]
    assert day(3, "user,item,time,stars,desk", rows) == [
        "2025-03-03.csv: column 'desk' is new since 2025-03-02, and holds text; the spec does not read it",
        "2025-03-03.csv: column 'shop' was there until 2025-03-02 (in 100% of the rows) and is gone; "
        "the spec does not read it",
    ]
    with pytest.raises(IngestError, match="column 'stars' held numbers until 2025-03-03 and holds text now"):
        day(4, "user,item,time,stars,desk", [row.replace(",5,", ",five,") for row in rows])


def test_parquet_is_held_by_its_types(home: Home) -> None:
    spec = spec_of(MANY_DAYS, path="{day}.parquet", format="parquet")
    table = pa.table({"user": ["u"] * 30, "item": ["i"] * 30, "time": [noon(1)] * 30, "stars": [5] * 30})
    pq.write_table(table, home.landing / "2025-03-01.parquet")
    home.ingest(spec, [FIRST])
    pq.write_table(table.set_column(3, "stars", pa.array([["5"]] * 30)), home.landing / "2025-03-02.parquet")
    with pytest.raises(
        IngestError, match="column 'stars' held numbers until 2025-03-01 and holds arrays now"
    ):
        home.ingest(spec, [SECOND])


def test_a_file_of_many_days_is_held_against_the_newest_day(home: Home) -> None:
    land_csv(home, *(f"u,i,{noon(1)},5" for _ in range(30)))
    home.ingest(spec_of(MANY_DAYS))
    land_csv(home, *(f"u,i,{noon(d)},five" for d in (1, 2) for _ in range(30)))
    with pytest.raises(IngestError, match=r"^ratings\.csv: column 'stars' held numbers until 2025-03-01"):
        home.ingest(spec_of(MANY_DAYS), max_bad_share=1)


def test_the_sample_is_bounded_and_follows_the_row_numbers(home: Home) -> None:
    spec = spec_of(DAILY)
    observer = Observer(spec.events, [])
    watch = observer.of_lines("x", None)
    numbers = [*range(1, 1002), 2000, 2001, 5_000_000]
    text = [json.dumps({f"k{n}": n}) if n in (1001, 2000, 2001) else '{"a": null, "b": [1]}' for n in numbers]
    columns = [pa.array(numbers), pa.array(numbers), pa.array([t.encode() for t in text]), pa.array(text)]
    watch(pa.record_batch(columns, names=["row", "size", "line", "text"]))
    shape = observer.shapes["x"]
    assert (shape.rows, set(shape.columns)) == (1002, {"a", "b", "k2000"})
    assert (dict(shape.columns["a"]), dict(shape.columns["b"])) == ({}, {"arrays": 1001})


def test_a_shape_survives_its_manifest_and_has_a_bound() -> None:
    shape = Shape(3)
    for n in range(1000):
        shape.see(f"c{n}", "text")
    shape.see("x" * 1000, "text")
    assert len(shape.columns) == 300
    assert Shape.of(json.loads(json.dumps(shape.told()))) == shape
    assert Shape.of(None) is None
    assert Shape.of({"rows": 1, "columns": {"a": 3}}) is None
