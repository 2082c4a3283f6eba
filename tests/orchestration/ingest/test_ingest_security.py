from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import DAILY, FIRST, MANY_DAYS, Home, event_line, land, ms, noon, spec_of, write_lines
from test_ingest_properties import fresh_home

from orchestration.ingest.errors import IngestError
from orchestration.ingest.lines import Limits, LineFile

HOSTILE = [
    "'",
    '"',
    "''",
    '"; DROP TABLE staged_events; --',
    "'); ATTACH '/tmp/x' AS y; --",
    "/* x */",
    "$user",
    "?",
    "\\",
    "a\0b",
    "{x}",
    "%s",
    "\u2028",
    "x' OR '1'='1",
    "~0~1",
    "a/b",
]
hostile = st.sampled_from(HOSTILE) | st.text("'\";-/*$?\\{}%:[]()é字", min_size=1, max_size=8)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/{day}.jsonl",
        "../{day}.jsonl",
        "a/../../{day}.jsonl",
        "~/{day}.jsonl",
        "$HOME/{day}.jsonl",
        "file:///etc/{day}.jsonl",
        "s3://bucket/{day}.jsonl",
        "..\\{day}.jsonl",
        "a\0{day}.jsonl",
    ],
)
def test_paths_that_could_leave_the_data_folder_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"must be a path below the data folder"):
        spec_of(DAILY, path=path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_that_lead_out_are_refused(home: Home, what: str) -> None:
    outside = home.root / "outside"
    write_lines(outside / "2025-03-01.jsonl", [event_line(1)])
    if what == "folder":
        (home.landing / "events").symlink_to(outside)
    else:
        (home.landing / "events").mkdir()
        (home.landing / "events/2025-03-01.jsonl").symlink_to(outside / "2025-03-01.jsonl")
    with pytest.raises(IngestError, match=r"^events/2025-03-01\.jsonl: is a link that leads out of "):
        home.ingest(spec_of(DAILY), [FIRST])
    assert home.files() == {}


def test_links_within_the_data_folder_are_followed(home: Home) -> None:
    write_lines(home.landing / "store/x", [event_line(1)])
    (home.landing / "events").mkdir()
    (home.landing / "events/2025-03-01.jsonl").symlink_to(home.landing / "store/x")
    assert home.ingest(spec_of(DAILY), [FIRST]).accepted == 1


def test_a_name_that_is_not_text_is_refused(home: Home) -> None:
    path = home.landing / "events"
    path.mkdir()
    with open(bytes(path) + b"/2025-03-01\xff.jsonl", "wb") as file:  # noqa: PTH123 - pathlib knows no bytes
        file.write(event_line(1))
    with pytest.raises(IngestError, match="no file can have such a name"):
        home.ingest(spec_of(DAILY, path="events/{day}*.jsonl"), [FIRST])


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(hostile, min_size=4, max_size=4, unique=True),
    values=st.lists(hostile, min_size=5, max_size=5, unique=True),
)
def test_names_and_values_of_specs_and_data_never_become_sql(names: list[str], values: list[str]) -> None:
    user, item, kind, query = (f"k{name}" for name in names)
    known, unknown, null, constant, left_out = values
    columns = {
        "user_id": {"column": user, "nulls": [null]},
        "item_id": {"column": item, "default": constant},
        "event_type": kind,
        "event_ts": "ts",
        "session_id": {"constant": constant},
        "query": {"column": query, "when": {"column": kind, "in": [known]}},
    }
    spec = spec_of(
        DAILY,
        columns=columns,
        event_types={known: "view", "buy": "purchase"},
        filters=[{"column": query, "not_in": [left_out]}],
    )
    start = ms("2025-03-01")
    rows = [
        {user: known, item: known, kind: known, "ts": start, query: unknown},
        {user: null, kind: known, "ts": start},
        {user: constant, kind: unknown, "ts": start},
        {user: known, kind: known, "ts": start, query: left_out},
    ]
    with fresh_home() as home:
        lines = [json.dumps(row).encode() for row in rows]
        write_lines(home.landing / "events/2025-03-01.jsonl", lines)
        report = home.ingest(spec, [FIRST], max_bad_share=1)
        (event,) = home.events("2025-03-01")
        assert (event["user_id"], event["item_id"], event["query"]) == (known, known, unknown)
        assert (event["session_id"], event["event_type"]) == (constant, "view")
        rejected = home.rejected("2025-03-01")
        expected = [(2, "missing_user", None), (3, "unknown_type", f'"{unknown}"')]
        if unknown == "buy":
            expected = expected[:1]
        assert [(row["source_row"], row["reason"], row["detail"]) for row in rejected] == expected
        assert [row["raw"] for row in rejected] == [lines[n - 1].decode() for n, *_ in expected]
        assert report.filtered == 1


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(hostile.filter(lambda s: "\0" not in s), min_size=2, max_size=2, unique=True),
    value=hostile,
)
def test_names_of_separated_and_parquet_columns_never_become_sql(names: list[str], value: str) -> None:
    user, item = (f"k{name}" for name in names)
    columns = {"user_id": user, "item_id": item, "event_type": {"constant": "rating"}, "event_ts": "time"}
    header = (user, item, "time")
    with fresh_home() as home:
        spec = spec_of(MANY_DAYS, columns=columns, quote=False, delimiter="\x1f", header=header)
        line = "\x1f".join((value, value, str(noon(1))))
        write_lines(home.landing / "ratings.csv", [line.encode()])
        home.ingest(spec)
        assert [(row["user_id"], row["item_id"]) for row in home.events("2025-03-01")] == [(value, value)]
    with fresh_home() as home:
        table = pa.table({user: [value], item: [value], "time": [noon(1)]})
        pq.write_table(table, home.landing / "r.parquet")
        home.ingest(spec_of(MANY_DAYS, path="r.parquet", format="parquet", columns=columns))
        assert [(row["user_id"], row["item_id"]) for row in home.events("2025-03-01")] == [(value, value)]


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_a_bomb_is_refused_in_one_line(home: Home, codec: str) -> None:
    zeros = b"\0" * (1 << 20)
    path = home.landing / f"events/2025-03-01.jsonl.{codec}"
    path.parent.mkdir()
    with pa.output_stream(path, compression={"gz": "gzip", "zst": "zstd"}[codec]) as file:
        for _ in range(20):
            file.write(zeros)
    with pytest.raises(IngestError) as caught:
        home.ingest(
            spec_of(DAILY, path=f"events/{{day}}.jsonl.{codec}"),
            [FIRST],
            limits=Limits(decompressed_bytes=10_000_000),
        )
    assert str(caught.value) == (
        f"events/2025-03-01.jsonl.{codec}: decompresses to more than 10,000,000 bytes and is taken for a bomb; if it "
        "is none, raise TESSERA_MAX_DECOMPRESSED_BYTES or TESSERA_MAX_COMPRESSION_RATIO"
    )
    assert home.files() == {}


def test_what_is_a_bomb() -> None:
    limits = Limits(decompressed_bytes=10**12, ratio=200)
    assert limits.allowed(1_000) == 1 << 28  # too little to harm, however well it was compressed
    assert limits.allowed(10**7) == 2 * 10**9
    assert limits.allowed(10**11) == 10**12


def test_the_ratio_is_of_the_bytes_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestration.ingest.lines._UNSUSPICIOUS", 1000)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a" * 99 + b"\n" + b"b\n" * 100_000))
    size = (tmp_path / "x.gz").stat().st_size

    def read(ratio: float) -> int:
        file = LineFile(
            tmp_path / "x.gz", "x.gz", header=False, max_line_bytes=100, block=512, limits=Limits(ratio=ratio)
        )
        return sum(batch.num_rows for batch in file.batches())

    assert read(200_100 / size + 0.01) == 100_001
    with pytest.raises(IngestError, match=r"^x\.gz: decompresses to more than"):
        read(200_100 / size - 1)


def test_parquet_that_says_it_is_huge_is_refused(home: Home) -> None:
    table = pa.table({"user": ["u"] * 5000, "item": ["i"] * 5000, "time": list(range(5000))})
    pq.write_table(table, home.landing / "r.parquet", use_dictionary=False)
    with pytest.raises(
        IngestError, match=r"^r\.parquet: says that it decompresses to [\d,]+ bytes, 9,000 are"
    ):
        home.ingest(
            spec_of(MANY_DAYS, path="r.parquet", format="parquet"),
            [FIRST],
            limits=Limits(decompressed_bytes=9_000),
        )


_ONE_LINE = """
import resource, sys
from datetime import date
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from landed import DAILY, Home, event_line, spec_of
home = Home(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = home.ingest(spec_of(DAILY), [date(2025, 3, 1)], max_bad_share=1)
print(report.accepted, report.reasons, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_line_of_a_gigabyte_is_refused_and_never_held_in_memory(home: Home) -> None:
    path = land(home, "2025-03-01", [event_line(1)])
    with path.open("r+b") as file:
        file.seek(1 << 30)  # a hole: a gigabyte of zeros that occupies no disk
        file.write(b"\n" + event_line(2) + b"\n")
    done = subprocess.run(
        [sys.executable, "-c", _ONE_LINE, str(home.root), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    *told, grown = done.stdout.rsplit(maxsplit=1)
    assert told == ["2 {'oversized_line': 1}"]
    assert int(grown) < 400  # MB
    (row,) = home.rejected("2025-03-01")
    first = len(event_line(1)) + 1
    assert row["detail"] == f"{(1 << 30) - first} bytes, the limit is 10000"
    assert [event["source_row"] for event in home.events("2025-03-01")] == [1, 3]
