"""Lines that break the contract: each with the reason and the detail that it should get."""

from __future__ import annotations

from landed import event_line, ms

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
