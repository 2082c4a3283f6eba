from __future__ import annotations

import gzip
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
    noon,
    spec_of,
    write_lines,
)

from orchestration.ingest.errors import IngestError
from orchestration.ingest.events import available_days

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


def test_publication_that_fails_is_told_in_one_line(home: Home) -> None:
    land(home, "2025-03-01", [event_line(0), b"{"])
    (home.root / "quarantine").write_text("in the way")
    with pytest.raises(IngestError, match=r"^cannot write [^\n]*quarantine/events/day=2025-03-01: [^\n]*$"):
        home.ingest(spec_of(DAILY), [FIRST], max_bad_share=1)
