"""The way by blocks and the way by the staging table are twins: same rows, same order, same counts."""

from __future__ import annotations

from datetime import date

import pytest
from bad_lines import BAD_JSON_LINES
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import DAILY, Home, event_line, ms, spec_of, write_lines
from test_ingest_properties import fresh_home

import orchestration.ingest.events as events
import orchestration.ingest.lines as lines
from orchestration.ingest.batches import Batch, Ingestion, Judged, staged
from orchestration.ingest.report import IngestReport

DAY = date(2025, 3, 1)
START = ms("2025-03-01")
WEIRD = [
    b'{"id":"1","ts":1,"type":"view","user":"a","user":"b","item":"i"}',
    b'  {"id": 7, "ts": "%d", "type": "view", "user": 12, "item": ["x"]}' % START,
    b'{"id":"e\\u00e9","ts":%d.5,"type":"search","user":"\xc3\xa9","query":"a\\nb"}\r' % START,
    b'{"id":"x","ts":1e3,"type":"view","user":{"a":1},"item":true,"price":"7.5","pos":"3"}',
    b"",
    b"\r",
    b"{}",
    b"null",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b'{"a":\xed\xa0\x80}',
    b'{"id":"late","ts":%d,"type":"view","user":"u","item":"i"}' % (START - 5 * 86_400_000),
]
LINES = [*(line for line, *_ in BAD_JSON_LINES), *WEIRD, *(event_line(n) for n in range(6))]


def published(home: Home) -> tuple[list[object], list[object]]:
    accepted = list(home.events("2025-03-01"))
    standing = (home.root / "quarantine/events/day=2025-03-01/rejected.parquet").is_file()
    return accepted, list(home.rejected("2025-03-01")) if standing else []


@settings(max_examples=25, deadline=None)
@given(
    plan=st.lists(st.integers(0, len(LINES) - 1), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    block=st.sampled_from([200, 1_000, 20_000]),
    threads=st.integers(1, 3),
)
def test_blocks_give_what_the_staging_table_gives(
    plan: list[int], cut: int, block: int, threads: int
) -> None:
    spec = spec_of(DAILY, path="events/{day}-*.jsonl", max_late_days=3)
    found: list[tuple[IngestReport | str, tuple[list[object], list[object]] | None]] = []
    for by_blocks in (True, False):
        with fresh_home() as home, pytest.MonkeyPatch.context() as patch:
            chosen = [LINES[n] for n in plan]
            write_lines(home.landing / "events/2025-03-01-a.jsonl", chosen[:cut])
            write_lines(home.landing / "events/2025-03-01-b.jsonl", [*chosen[cut:], event_line(99)])
            patch.setattr(lines, "_BLOCK", block)
            patch.setattr(lines.LineFile.__init__, "__kwdefaults__", {"block": block, "limits": None})
            if not by_blocks:
                patch.setattr(events, "streamed", _through_the_table)
            report = home.ingest(spec, [DAY], max_bad_share=1, threads=threads)
            found.append((report, published(home)))
    assert found[0] == found[1]


def _through_the_table(connection: object, _: object, work: Ingestion, batch: Batch) -> Judged:
    return staged(connection, work, batch)  # type: ignore[arg-type]


def test_bytes_do_not_depend_on_blocks_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for block, threads in ((500, 1), (500, 3), (1 << 23, 2)):
        with fresh_home() as home, monkeypatch.context() as patch:
            patch.setattr(lines.LineFile.__init__, "__kwdefaults__", {"block": block, "limits": None})
            write_lines(home.landing / "events/2025-03-01.jsonl", [event_line(n) for n in range(500)] + WEIRD)
            home.ingest(spec_of(DAILY), [DAY], max_bad_share=1, threads=threads)
            found.append(home.files())
    assert found[0] == found[1] == found[2]


@given(
    st.lists(
        st.binary(max_size=12)
        | st.sampled_from([b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"abc"]),
        max_size=30,
    ).map(b"\n".join)
)
def test_text_is_there_exactly_where_a_line_is_utf8(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("utf8") / "x"
    path.write_bytes(data)
    file = lines.LineFile(path, "x", header=False, max_line_bytes=100)
    for batch in file.batches():
        for row in batch.to_pylist():
            try:
                expected = row["line"].decode()
            except UnicodeDecodeError:
                expected = None
            assert row["text"] == expected
