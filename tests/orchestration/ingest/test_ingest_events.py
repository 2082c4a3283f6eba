from __future__ import annotations

import gzip
import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from landed import DAILY, MANY_DAYS, Home, event_line, ms, spec_of, write_lines

from orchestration.ingest.errors import IngestError
from orchestration.ingest.events import available_days

FIRST, SECOND = date(2025, 3, 1), date(2025, 3, 2)


def land(home: Home, day: str, lines: list[bytes]) -> Path:
    path = home.landing / "events" / f"{day}.jsonl"
    write_lines(path, lines)
    return path


def land_csv(home: Home, *lines: str) -> Path:
    path = home.landing / "ratings.csv"
    write_lines(path, [line.encode() for line in ("user,item,time,stars", *lines)])
    return path


def noon(day: int) -> int:
    return ms(f"2025-03-{day:02}T12:00:00") // 1000


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


# What goes to quarantine

LONG = "x" * 3000
BAD_JSON_LINES = [
    (b'{"id":"e1"', "malformed_json", "not a JSON object"),
    (b"[1, 2]", "malformed_json", "not a JSON object"),
    (b'"text"', "malformed_json", "not a JSON object"),
    (b'{"id":"e1"} trailing', "malformed_json", "not a JSON object"),
    (b"   ", "malformed_json", "not a JSON object"),
    (b'{"user":"\xff"}', "bad_utf8", "not UTF-8; raw shows other bytes as \\xNN"),
    (event_line(1, extra="y" * 11_000), "oversized_line", "11083 bytes, the limit is 10000"),
    (event_line(1, user=LONG), "oversized_field", "a field is longer than 2000 bytes"),
    (event_line(1, user=None), "missing_user", None),
    (event_line(1, user="  "), "missing_user", None),
    (event_line(1, type="teleport"), "unknown_type", '"teleport"'),
    (event_line(1, type=None), "unknown_type", "no event type"),
    (event_line(1, item=None), "missing_item", "an event of type view names no item"),
    (event_line(1, id=None), "missing_id", None),
    (event_line(1, ts="soon"), "unparsable_time", '"soon"'),
    (event_line(1, ts=None), "unparsable_time", "no time"),
    (event_line(1, ts=-5), "unparsable_time", '"-5"'),
    (event_line(1, ts=10**25), "unparsable_time", '"1e25"'),
    (
        event_line(1, ts=ms("2025-03-02T00:05:01")),
        "future_time",
        "2025-03-02 00:05:01 is after 2025-03-02 00:05:00",
    ),
    (event_line(1, price="cheap"), "unparsable_number", 'value "cheap"'),
    (event_line(1, price="1e999"), "unparsable_number", 'value "1e999"'),
    (event_line(1, pos="top"), "unparsable_number", 'position "top"'),
]


@pytest.mark.parametrize(
    ("line", "reason", "detail"), BAD_JSON_LINES, ids=[f"{n}-{b[1]}" for n, b in enumerate(BAD_JSON_LINES)]
)
def test_bad_json_line_is_quarantined(home: Home, line: bytes, reason: str, detail: str | None) -> None:
    land(home, "2025-03-01", [event_line(0), line, event_line(2)])
    report = home.ingest(spec_of(DAILY), max_bad_share=0.4)
    (row,) = home.rejected("2025-03-01")
    assert (row["source"], row["source_file"], row["source_row"]) == ("shop", "events/2025-03-01.jsonl", 2)
    assert row["reason"] == reason
    if reason not in ("oversized_line", "unparsable_time"):
        assert row["detail"] == detail
    if reason == "bad_utf8":
        assert row["raw"] == "{\\x22user\\x22:\\x22\\xFF\\x22}\\x0A"
    elif reason == "oversized_line":
        assert row["raw"].startswith("{\\x22id\\x22")
    else:
        assert row["raw"] == line.decode()
    assert [r["source_row"] for r in home.events("2025-03-01")] == [1, 3]
    assert report.reasons == {reason: 1}
    assert report.read == report.accepted + report.quarantined == 3


BAD_CSV_LINES = [
    (b"u1,i1,1", "wrong_column_count", "3 columns, the header has 4"),
    (b"u1,i1,1,5,extra", "wrong_column_count", "5 columns, the header has 4"),
    (b'u1,"i1,1,5', "malformed_csv", "a double quote is left open or stands inside a bare field"),
    (b'u1,i"1,1,5', "malformed_csv", "a double quote is left open or stands inside a bare field"),
    (b"u1,\xe9,1,5", "bad_utf8", "not UTF-8; raw shows other bytes as \\xNN"),
    (b"u1,i1,yesterday,5", "unparsable_time", '"yesterday"'),
    (b"u1,i1,1577836800,5", "outside_dates", "2020-01-01 00:00:00 is outside the dates of the source"),
    (b"u1,i1,1893456000,5", "future_time", "2030-01-01 00:00:00 is after 2025-06-01 00:05:00"),
]


@pytest.mark.parametrize(("line", "reason", "detail"), BAD_CSV_LINES)
def test_bad_csv_line_without_a_usable_time_is_undated(
    home: Home, line: bytes, reason: str, detail: str
) -> None:
    path = land_csv(home, f"u1,i1,{noon(1)},5")
    path.write_bytes(path.read_bytes() + line + b"\r\n")
    report = home.ingest(spec_of(MANY_DAYS), max_bad_share=0.5)
    (row,) = home.rejected("undated")
    assert (row["source_row"], row["reason"], row["detail"]) == (2, reason, detail)
    if reason != "bad_utf8":
        assert row["raw"] == line.decode()
    assert report.days["undated"].reasons == {reason: 1}
    assert (report.read, report.accepted) == (2, 1)
    assert not (home.root / "lake/events/day=undated").exists()


def test_bad_csv_line_with_a_time_keeps_its_day(home: Home) -> None:
    land_csv(home, f"u1,i1,{noon(1)},5", f",i1,{noon(2)},5")
    home.ingest(spec_of(MANY_DAYS), max_bad_share=0.5)
    assert home.rejected("2025-03-02")[0]["reason"] == "missing_user"
    assert not (home.root / "lake/events/day=2025-03-02").exists()


def test_event_of_the_first_minutes_of_the_next_day_passes(home: Home) -> None:
    land(home, "2025-03-01", [event_line(1, ts=ms("2025-03-02T00:04:59"))])
    assert home.ingest(spec_of(DAILY)).accepted == 1


# What stops a run: one line, and nothing changed


@pytest.fixture
def standing(home: Home) -> dict[str, bytes]:
    """What was published before things went wrong."""
    land(home, "2025-03-01", [event_line(0)])
    home.ingest(spec_of(DAILY))
    return home.files()


def failure(home: Home, standing: dict[str, bytes], days: list[date], **events: Any) -> str:
    with pytest.raises(IngestError) as caught:
        home.ingest(spec_of(DAILY, **events), days)
    assert home.files() == standing
    assert [p.name for p in (home.root / "lake").iterdir()] == ["events"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_too_many_bad_rows_stop_all_days_of_the_call(home: Home, standing: dict[str, bytes]) -> None:
    land(home, "2025-03-01", [event_line(9)])
    land(home, "2025-03-02", [event_line(1), event_line(2, type="?"), event_line(3, type="?"), b"{"])
    assert failure(home, standing, [FIRST, SECOND]) == (
        "events/2025-03-02.jsonl: 3 of 4 rows (75.0%) are bad, 5.0% are allowed; "
        'most often unknown_type (first in row 2: "?")'
    )


def test_missing_file(home: Home, standing: dict[str, bytes]) -> None:
    message = failure(home, standing, [SECOND])
    assert message == f"{home.landing}/events/2025-03-02.jsonl: there is no such file"


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n"])
def test_file_without_rows(home: Home, standing: dict[str, bytes], content: bytes) -> None:
    (home.landing / "events/2025-03-02.jsonl").write_bytes(content)
    assert failure(home, standing, [SECOND]) == "events/2025-03-02.jsonl: the file holds no rows"


@pytest.mark.parametrize("landed", [None, b"", b"\n"])
def test_empty_days_can_be_allowed(home: Home, landed: bytes | None) -> None:
    (home.landing / "events").mkdir()
    if landed is not None:
        (home.landing / "events/2025-03-01.jsonl").write_bytes(landed)
    report = home.ingest(spec_of(DAILY, allow_empty_days=True), [FIRST])
    assert (report.read, home.events("2025-03-01")) == (0, [])


def test_truncated_gz(home: Home, standing: dict[str, bytes]) -> None:
    data = gzip.compress(b"\n".join(event_line(n) for n in range(2000)))
    path = home.landing / "events/2025-03-02.jsonl.gz"
    path.write_bytes(data[:-6])
    message = failure(home, standing, [SECOND], path="events/{day}.jsonl.gz")
    assert message == "cannot read events/2025-03-02.jsonl.gz: Truncated compressed stream"


def test_vanished_json_key(home: Home, standing: dict[str, bytes]) -> None:
    land(home, "2025-03-02", [b'{"id":"1","when":5,"user":"u","item":"i","type":"view"}'])
    message = failure(home, standing, [SECOND])
    assert message == "events/2025-03-02.jsonl: no column 'ts'; the columns are id, item, type, user, when"


def test_only_days_outside_the_dates_of_the_source(home: Home, standing: dict[str, bytes]) -> None:
    message = failure(home, standing, [date(2024, 1, 1)])
    assert message == "shop: no day that was asked for lies between 2025-03-01 and today"


def test_days_outside_the_dates_are_passed_over(home: Home) -> None:
    land(home, "2025-03-01", [event_line(0)])
    assert list(home.ingest(spec_of(DAILY), [date(2025, 2, 28), FIRST]).days) == ["2025-03-01"]


def test_vanished_csv_column(home: Home) -> None:
    write_lines(home.landing / "ratings.csv", [b"user,item,when,stars", b"u,i,1,2"])
    with pytest.raises(
        IngestError, match=r"^ratings\.csv: no column 'time'; the columns are user, item, when, stars$"
    ):
        home.ingest(spec_of(MANY_DAYS), [FIRST])


def test_vanished_parquet_column(home: Home) -> None:
    pq.write_table(pa.table({"user": ["u"], "item": ["i"]}), home.landing / "r.parquet")
    with pytest.raises(IngestError, match=r"^r\.parquet: no column 'time'; the columns are user, item$"):
        home.ingest(spec_of(MANY_DAYS, path="r.parquet", format="parquet"), [FIRST])


def test_column_that_stands_twice(home: Home) -> None:
    write_lines(home.landing / "ratings.csv", [b"user,user,item,time,stars", b"u,u,i,1,2"])
    with pytest.raises(IngestError, match=r"^ratings\.csv: more than one column 'user'"):
        home.ingest(spec_of(MANY_DAYS), [FIRST])


def test_broken_parquet(home: Home) -> None:
    (home.landing / "r.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(IngestError, match=r"^cannot read r\.parquet: [^\n]*$"):
        home.ingest(spec_of(MANY_DAYS, path="r.parquet", format="parquet"), [FIRST])


def test_no_row_on_the_days_asked_for(home: Home) -> None:
    land_csv(home, f"u1,i1,{noon(1)},4")
    with pytest.raises(IngestError, match=r"^ratings\.csv: no row falls on a day that was asked for$"):
        home.ingest(spec_of(MANY_DAYS), [SECOND])


def test_no_files_at_all(home: Home) -> None:
    with pytest.raises(IngestError, match=r"events/\{day\}\.jsonl: there is no such file$"):
        available_days(spec_of(DAILY), home.landing)


def test_lake_that_cannot_be_written(home: Home) -> None:
    land(home, "2025-03-01", [event_line(0)])
    (home.root / "lake").write_text("in the way")
    with pytest.raises(IngestError, match=r"^cannot write .*/lake: \[Errno 17\] File exists"):
        home.ingest(spec_of(DAILY))


def test_disk_that_fills(home: Home, standing: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    land(home, "2025-03-01", [event_line(7)])
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    assert (
        failure(home, standing, [FIRST]) == "cannot write Parquet files: [Errno 28] No space left on device"
    )


# Again


def test_unchanged_partition_is_left_alone(home: Home) -> None:
    land(home, "2025-03-01", [event_line(0), event_line(1, user=None)])
    assert home.ingest(spec_of(DAILY), max_bad_share=1).changed
    folder = home.root / "lake/events/day=2025-03-01"
    before = folder.stat().st_ino, folder.stat().st_mtime_ns
    again = home.ingest(spec_of(DAILY), max_bad_share=1)
    assert not again.changed
    assert (folder.stat().st_ino, folder.stat().st_mtime_ns) == before
    (folder / "events.parquet").write_bytes(b"damaged")
    assert home.ingest(spec_of(DAILY), max_bad_share=1).changed
    assert len(home.events("2025-03-01")) == 1


def test_corrected_file_replaces_its_day(home: Home) -> None:
    land(home, "2025-03-01", [event_line(0), event_line(1, user=None)])
    home.ingest(spec_of(DAILY), max_bad_share=1)
    land(home, "2025-03-01", [event_line(0), event_line(1)])
    assert home.ingest(spec_of(DAILY)).changed
    assert len(home.events("2025-03-01")) == 2
    assert not (home.root / "quarantine/events/day=2025-03-01").exists()


def test_day_that_vanished_from_the_file_goes(home: Home) -> None:
    land_csv(home, f"u1,i1,{noon(1)},4", f"u1,i1,{noon(2)},4")
    home.ingest(spec_of(MANY_DAYS))
    land_csv(home, f"u1,i1,{noon(1)},4")
    home.ingest(spec_of(MANY_DAYS), [FIRST, SECOND])
    assert [p.name for p in (home.root / "lake/events").iterdir()] == ["day=2025-03-01"]


def test_bytes_do_not_depend_on_threads_blocks_or_neighbours(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"u{n % 7},i{n % 11},{noon(1) + n % 3 * 86400},{n % 5}" for n in range(3000)]
    land_csv(home, *lines)
    spec = spec_of(MANY_DAYS)
    monkeypatch.setattr("orchestration.ingest.parquet.ROW_GROUP", 256)
    home.ingest(spec, threads=1)
    expected = home.files()
    for threads in (2, 4):
        shutil.rmtree(home.root / "lake")
        for day in reversed(available_days(spec, home.landing)):
            home.ingest(spec, [day], threads=threads)
        assert home.files() == expected


def test_publication_that_fails_is_told_in_one_line(home: Home) -> None:
    land(home, "2025-03-01", [event_line(0), b"{"])
    (home.root / "quarantine").write_text("in the way")
    with pytest.raises(IngestError, match=r"^cannot write [^\n]*quarantine/events/day=2025-03-01: [^\n]*$"):
        home.ingest(spec_of(DAILY), [FIRST], max_bad_share=1)
