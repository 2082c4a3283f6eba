from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest
from bad_lines import BAD_CSV_LINES, BAD_JSON_LINES
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import DAILY, MANY_DAYS, Home, event_line, ms, spec_of, write_lines

START = date(2025, 3, 1)
DAYS = [START + timedelta(days=n) for n in range(3)]
FEW = settings(max_examples=15, deadline=None)


@contextmanager
def fresh_home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.landing.mkdir()
        yield home


def land_shuffled(home: Home, order: list[date], events: list[tuple[int, int]]) -> None:
    """Write daily files in some order; an event is its number and its day of arrival."""
    for day in order:
        lines = [event_line(n, ts=ms("2025-03-01") + n) for n, at in events if DAYS[at] == day]
        write_lines(home.landing / "events" / f"{day}.jsonl", lines)


@FEW
@given(
    events=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=20),
    orders=st.tuples(st.permutations(DAYS), st.permutations(DAYS)),
    repeated=st.lists(st.sampled_from(DAYS), max_size=3),
    threads=st.integers(1, 3),
)
def test_partitions_do_not_depend_on_when_and_how_they_are_ingested(
    events: list[tuple[int, int]], orders: tuple[list[date], list[date]], repeated: list[date], threads: int
) -> None:
    spec = spec_of(DAILY, allow_empty_days=True)
    with fresh_home() as at_once, fresh_home() as by_day:
        land_shuffled(at_once, DAYS, events)
        at_once.ingest(spec, DAYS, threads=1)
        land_shuffled(by_day, orders[0], events)
        for day in [*orders[1], *repeated]:
            by_day.ingest(spec, [day], threads=threads)
        assert by_day.files() == at_once.files()


@FEW
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12
    ),
    cut=st.integers(0, 12),
    copies=st.integers(1, 2),
)
def test_split_and_duplicated_files_hold_the_same_events(
    rows: list[tuple[int, int, int]], cut: int, copies: int
) -> None:
    start = ms("2025-03-01") // 1000
    lines = [f"u{u},i{i},{start + d * 86_400},1".encode() for u, i, d in rows]
    spec = spec_of(MANY_DAYS, path="*.csv")

    def ids(home: Home) -> list[str]:
        home.ingest(spec)
        days = sorted({str(DAYS[d]) for _, _, d in rows})
        return [row["event_id"] for day in days for row in home.events(day)]

    with fresh_home() as whole, fresh_home() as split:
        header = b"user,item,time,stars"
        write_lines(whole.landing / "a.csv", [header, *lines])
        for copy in range(copies):
            write_lines(split.landing / f"a{copy}.csv", [header, *lines[:cut]])
            write_lines(split.landing / f"b{copy}.csv", [header, *lines[cut:]])
        expected = ids(whole)
        if copies == 1 and 0 < cut < len(lines):
            assert ids(split) == expected
        elif 0 < cut < len(lines):
            assert Counter(ids(split)) == Counter(expected * copies)


@FEW
@given(
    plan=st.lists(st.integers(-1, len(BAD_JSON_LINES) - 1), min_size=1, max_size=25),
)
def test_each_bad_json_line_lands_in_quarantine_with_its_reason_and_row(plan: list[int]) -> None:
    with fresh_home() as home:
        lines = [event_line(n) if bad < 0 else BAD_JSON_LINES[bad][0] for n, bad in enumerate(plan)]
        write_lines(home.landing / "events/2025-03-01.jsonl", lines)
        report = home.ingest(spec_of(DAILY), [START], max_bad_share=1)
        expected = [(n, BAD_JSON_LINES[bad][1]) for n, bad in enumerate(plan, 1) if bad >= 0]
        found = home.rejected("2025-03-01") if expected else []
        assert [(row["source_row"], row["reason"]) for row in found] == expected
        assert [row["source_row"] for row in home.events("2025-03-01")] == [
            n for n, bad in enumerate(plan, 1) if bad < 0
        ]
        assert report.reasons == dict(Counter(reason for _, reason in expected))
        assert report.read == report.accepted + report.quarantined == len(plan)


@FEW
@given(plan=st.lists(st.integers(-1, len(BAD_CSV_LINES) - 1), min_size=1, max_size=25))
def test_each_bad_csv_line_lands_in_quarantine_with_its_reason_and_row(plan: list[int]) -> None:
    with fresh_home() as home:
        good = b"u,i,%d,1" % (ms("2025-03-01") // 1000)
        lines = [good if bad < 0 else BAD_CSV_LINES[bad][0] for bad in plan]
        write_lines(home.landing / "ratings.csv", [b"user,item,time,stars", good, *lines])
        report = home.ingest(spec_of(MANY_DAYS), [START], max_bad_share=1)
        expected = [(n, BAD_CSV_LINES[bad][1]) for n, bad in enumerate(plan, 2) if bad >= 0]
        found = home.rejected("undated") if expected else []
        assert [(row["source_row"], row["reason"]) for row in found] == expected
        assert report.read == report.accepted + report.quarantined == len(plan) + 1


@pytest.mark.parametrize("seed", range(3))
def test_any_damage_to_any_bytes_is_survived(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(b"\n".join(event_line(n) for n in range(60)))
    for _ in range(40):
        data[rng.randrange(len(data))] = rng.randrange(256)
    lines = [line for line in bytes(data).split(b"\n") if line not in (b"", b"\r")]
    with fresh_home() as home:
        write_lines(home.landing / "events/2025-03-01.jsonl", [bytes(data)])
        report = home.ingest(spec_of(DAILY), [START], max_bad_share=1)
        assert report.read == report.accepted + report.quarantined == len(lines)
        assert report.accepted == len(home.events("2025-03-01"))
        assert report.quarantined == len(home.rejected("2025-03-01"))


@FEW
@given(
    lines=st.lists(
        st.binary(max_size=60).filter(lambda b: b"\n" not in b and b not in (b"", b"\r")), min_size=1
    )
)
def test_any_bytes_are_read_and_accounted_for(lines: list[bytes]) -> None:
    with fresh_home() as home:
        good = b"u,i,%d,1" % (ms("2025-03-01") // 1000)
        write_lines(home.landing / "ratings.csv", [b"user,item,time,stars", good, *lines])
        report = home.ingest(spec_of(MANY_DAYS), [START], max_bad_share=1)
        assert report.read == report.accepted + report.quarantined == len(lines) + 1
