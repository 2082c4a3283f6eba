from __future__ import annotations

import pytest
from bad_lines import BAD_CSV_LINES, BAD_JSON_LINES
from landed import (
    DAILY,
    MANY_DAYS,
    Home,
    event_line,
    land,
    land_csv,
    ms,
    noon,
    spec_of,
)


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
