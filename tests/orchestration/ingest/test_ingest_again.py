from __future__ import annotations

import shutil

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
)

from orchestration.ingest.events import available_days


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
