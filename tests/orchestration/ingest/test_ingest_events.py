from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
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

from orchestration.ingest.events import available_days

# What a good row becomes


def test_event_is_stored_as_the_contract_says(home: Home) -> None:
    late = event_line(1, ts=ms("2025-02-27T23:59:59") + 123, session="s1", price=2.5, pos=3, extra={"a": 1})
    search = event_line(2, type="search", item=None, query='röd "bil"')
    land(home, "2025-03-01", [late, search])
    report = home.ingest(spec_of(DAILY))
    table = pq.ParquetFile(home.root / "lake/events/day=2025-03-01/events.parquet").read()
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("event_id", "string"),
        ("user_id", "string"),
        ("item_id", "string"),
        ("event_type", "string"),
        ("event_ts", "timestamp[us, tz=UTC]"),
        ("session_id", "string"),
        ("value", "double"),
        ("query", "string"),
        ("position", "int32"),
        ("source", "string"),
        ("source_file", "string"),
        ("source_row", "int64"),
        ("arrival_date", "date32[day]"),
    ]
    first, second = table.to_pylist()
    assert first == {
        "event_id": "e1",
        "user_id": "u1",
        "item_id": "i1",
        "event_type": "view",
        "event_ts": datetime(2025, 2, 27, 23, 59, 59, 123_000, UTC),
        "session_id": "s1",
        "value": 2.5,
        "query": None,
        "position": 3,
        "source": "shop",
        "source_file": "events/2025-03-01.jsonl",
        "source_row": 1,
        "arrival_date": FIRST,
    }
    assert (second["item_id"], second["query"], second["source_row"]) == (None, 'röd "bil"', 2)
    assert report.lag_days == {0: 1, 2: 1}
    assert (report.min_event_date, report.max_event_date) == (date(2025, 2, 27), FIRST)


def test_manifest_tells_what_was_read(home: Home) -> None:
    path = land(home, "2025-03-01", [event_line(1), b"{", event_line(2)])
    home.ingest(spec_of(DAILY), max_bad_share=0.5)
    manifest = home.manifest("2025-03-01")
    assert len(manifest.pop("spec_hash")) == len(manifest.pop("content_hash")) == 16
    assert manifest == {
        "day": "2025-03-01",
        "source": "shop",
        "files": [{"name": "events/2025-03-01.jsonl", "bytes": path.stat().st_size}],
        "read": 3,
        "accepted": 2,
        "quarantined": 1,
        "reasons": {"malformed_json": 1},
        "shape": {
            "rows": 2,
            "columns": {
                "id": {"text": 2},
                "item": {"text": 2},
                "ts": {"numbers": 2},
                "type": {"text": 2},
                "user": {"text": 2},
            },
        },
        "min_event_date": "2025-03-01",
        "max_event_date": "2025-03-01",
    }


def test_file_of_many_days_is_cut_by_event_date(home: Home) -> None:
    land_csv(home, f"u1,i1,{noon(2)},4", f"u1,i2,{noon(1)},5", "", f"u2,i1,{noon(2)},3.5")
    spec = spec_of(MANY_DAYS)
    assert available_days(spec, home.landing) == [FIRST, SECOND]
    report = home.ingest(spec)
    assert [(r["item_id"], r["value"], r["source_row"]) for r in home.events("2025-03-02")] == [
        ("i1", 4.0, 1),
        ("i1", 3.5, 4),
    ]
    assert home.events("2025-03-01")[0]["arrival_date"] == FIRST
    assert {day: part.accepted for day, part in report.days.items()} == {"2025-03-01": 1, "2025-03-02": 2}


def test_only_the_days_asked_for_are_written(home: Home) -> None:
    land_csv(home, f"u1,i1,{noon(1)},4", f"u1,i2,{noon(2)},5", f"u1,i3,{noon(4)},5")
    report = home.ingest(spec_of(MANY_DAYS), [SECOND, date(2025, 3, 3)])
    assert sorted(p.name for p in (home.root / "lake/events").iterdir()) == ["day=2025-03-02"]
    assert report.read == 1


def test_rows_keep_the_order_of_file_and_row(home: Home) -> None:
    spec = spec_of(DAILY, path="{day}/*.jsonl.gz")
    for name, numbers in (("b", range(5)), ("a", range(5, 8))):
        path = home.landing / "2025-03-01" / f"{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(b"\n".join(event_line(n, ts=ms("2025-03-01") - n) for n in numbers)))
    home.ingest(spec)
    rows = home.events("2025-03-01")
    assert [r["event_id"] for r in rows] == ["e5", "e6", "e7", "e0", "e1", "e2", "e3", "e4"]
    assert [r["source_row"] for r in rows] == [1, 2, 3, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("unit", "given", "micros"),
    [
        ("s", 1740787200, 1740787200_000000),
        ("s", "1740787200.123456", 1740787200_123456),
        ("s", 1.7407872e9, 1740787200_000000),
        ("ms", 1740787200123, 1740787200_123000),
        ("ms", "1740787200123.5", 1740787200_123500),
        ("us", 1740787200123456, 1740787200_123456),
        ("iso", "2025-03-01T00:00:00Z", 1740787200_000000),
        ("iso", "2025-03-01 02:00:00.123456789+02:00", 1740787200_123456),
        ("iso", "2025-03-01", 1740787200_000000),
    ],
)
def test_units_of_time(home: Home, unit: str, given: Any, micros: int) -> None:
    land(home, "2025-03-01", [event_line(1, ts=given)])
    home.ingest(spec_of(DAILY, time_unit=unit))
    moment = home.events("2025-03-01")[0]["event_ts"]
    assert round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000) == micros


# Other shapes of files and columns


def test_quoted_csv(home: Home) -> None:
    land_csv(home, f'"u,1","i ""1""",{noon(1)},', f'u2,i2,{noon(1)},"5"\r')
    home.ingest(spec_of(MANY_DAYS))
    rows = home.events("2025-03-01")
    assert [(r["user_id"], r["item_id"], r["value"]) for r in rows] == [
        ("u,1", 'i "1"', None),
        ("u2", "i2", 5.0),
    ]


def test_separator_of_several_characters_and_no_header(home: Home) -> None:
    write_lines(home.landing / "ratings.dat", [b"1::10::5::1740787200", b'2::"::3::1740787201'])
    columns = MANY_DAYS["events"]["columns"] | {"user_id": "u", "item_id": "i", "event_ts": "t", "value": "v"}
    spec = spec_of(
        MANY_DAYS,
        path="ratings.dat",
        delimiter="::",
        quote=False,
        header=["u", "i", "v", "t"],
        columns=columns,
    )
    home.ingest(spec)
    rows = home.events("2025-03-01")
    assert [(r["user_id"], r["item_id"], r["value"], r["source_row"]) for r in rows] == [
        ("1", "10", 5.0, 1),
        ("2", '"', 3.0, 2),
    ]


def test_parquet(home: Home) -> None:
    moment = datetime(2025, 3, 1, 12, tzinfo=UTC)
    table = pa.table(
        {"user": [7, None], "item": ["a", "b"], "time": [moment, moment], "stars": [1.0, float("nan")]}
    )
    pq.write_table(table, home.landing / "r[1].parquet")
    spec = spec_of(MANY_DAYS, path="r[1].parquet", format="parquet", time_unit="iso")
    home.ingest(spec, max_bad_share=1)
    (row,) = home.events("2025-03-01")
    assert (row["user_id"], row["event_ts"], row["source_row"]) == ("7", moment, 1)
    (bad,) = home.rejected("2025-03-01")
    assert (bad["source_row"], bad["reason"]) == (2, "missing_user")
    assert json.loads(bad["raw"]) == {
        "user": None,
        "item": "b",
        "time": "2025-03-01 12:00:00+00",
        "stars": "nan",
    }


def test_nested_keys_types_filters_and_conditions(home: Home) -> None:
    def line(kind: str, reference: str) -> bytes:
        return f'{{"who":{{"id":"u1"}},"kind":"{kind}","ref":"{reference}","ts":{ms("2025-03-01")}}}'.encode()

    lines = [
        line("CLICK", "h1"),
        line("FIND", "rome"),
        line("SORT", "x"),
        line("CLICK", "unknown"),
        line("?", "y"),
    ]
    land(home, "2025-03-01", lines)
    is_search = {"column": "kind", "in": ["FIND"]}
    spec = spec_of(
        DAILY,
        event_types={"CLICK": "click", "FIND": "search", "view": "view", "buy": "purchase"},
        filters=[{"column": "kind", "not_in": ["SORT"]}],
        columns={
            "user_id": "/who/id",
            "event_type": "kind",
            "event_ts": "ts",
            "item_id": {
                "column": "ref",
                "nulls": ["unknown"],
                "when": {"column": "kind", "not_in": ["FIND"]},
            },
            "query": {"column": "ref", "when": is_search},
            "session_id": {"constant": "none"},
            "value": {"column": "worth", "default": 1},
        },
    )
    report = home.ingest(spec, max_bad_share=1)
    rows = home.events("2025-03-01")
    assert [(r["event_type"], r["item_id"], r["query"], r["session_id"], r["value"]) for r in rows] == [
        ("click", "h1", None, "none", 1.0),
        ("search", None, "rome", "none", 1.0),
    ]
    assert [(r["source_row"], r["reason"]) for r in home.rejected("2025-03-01")] == [
        (4, "missing_item"),
        (5, "unknown_type"),
    ]
    assert (report.read, report.filtered) == (4, 1)


def test_names_and_values_with_quotes_are_no_sql(home: Home) -> None:
    evil = "x'\"; DROP TABLE staged_events; --{0}"
    write_lines(
        home.landing / "it's.csv",
        [b'"' + evil.replace('"', '""').encode() + b'",item,time,stars', b"u1,i1,%d,5" % noon(1)],
    )
    columns = MANY_DAYS["events"]["columns"] | {"user_id": {"column": evil, "nulls": [evil], "default": evil}}
    home.ingest(
        spec_of(MANY_DAYS, path="it's.csv", columns=columns, filters=[{"column": evil, "not_in": [evil]}])
    )
    assert home.events("2025-03-01")[0]["user_id"] == "u1"

    pq.write_table(
        pa.table({evil: ["u2"], "item": ["i"], "time": [noon(1)], "stars": [1]}), home.landing / "q.parquet"
    )
    home.ingest(spec_of(MANY_DAYS, path="q.parquet", format="parquet", columns=columns))
    assert home.events("2025-03-01")[0]["user_id"] == "u2"

    land(
        home,
        "2025-03-01",
        [b'{"a\'\\"/~{b":"u3","item":"i","type":"view","id":"1","ts":%d}' % ms("2025-03-01")],
    )
    home.ingest(spec_of(DAILY, columns=DAILY["events"]["columns"] | {"user_id": "a'\"/~{b"}))
    assert home.events("2025-03-01")[0]["user_id"] == "u3"


# Identity of events without an id


def test_rows_alike_in_the_natural_key_are_one_event(home: Home) -> None:
    again = f"u1,i1,{noon(1)},5"
    land_csv(home, again, f"u1,i1,{noon(1)},4", again)
    home.ingest(spec_of(MANY_DAYS))
    first, other, second = (r["event_id"] for r in home.events("2025-03-01"))
    assert first == second != other
    home.ingest(spec_of(MANY_DAYS, natural_key=["user", "item", "time"]))
    assert len({r["event_id"] for r in home.events("2025-03-01")}) == 1


def test_repeated_rows_can_be_events_of_their_own(home: Home) -> None:
    again = f"u1,i1,{noon(1)},5"
    land_csv(home, again, f"u1,i1,{noon(1)},4", again)
    home.ingest(spec_of(MANY_DAYS))
    plain = [r["event_id"] for r in home.events("2025-03-01")]
    home.ingest(spec_of(MANY_DAYS, repeats="keep"))
    kept = [r["event_id"] for r in home.events("2025-03-01")]
    assert kept[:2] == plain[:2]
    assert len(set(kept)) == 3


def test_key_does_not_mix_neighbouring_values(home: Home) -> None:
    land_csv(home, f"ab,c,{noon(1)},", f"a,bc,{noon(1)},", f"ab,c,{noon(1)},0")
    home.ingest(spec_of(MANY_DAYS))
    assert len({r["event_id"] for r in home.events("2025-03-01")}) == 3
