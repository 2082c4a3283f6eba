from __future__ import annotations

import hashlib
import hmac
import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import DAILY, FIRST, MANY_DAYS, SECOND, Home, event_line, land, land_csv, noon, spec_of

from orchestration.ingest import erased
from orchestration.ingest.errors import IngestError
from orchestration.ingest.users import Users, UserSecret

SECRET = UserSecret("a secret of many letters")


def by_hand(user: str) -> str:
    return hmac.new(b"a secret of many letters", user.encode(), hashlib.sha256).hexdigest()[:32]


def everything(home: Home) -> str:
    """All that was published, Parquet told as JSON."""
    return "".join(
        duckdb.sql(f"SELECT string_agg(CAST(t AS JSON), '\n') FROM '{path}' AS t").fetchall()[0][0] or ""
        if path.suffix == ".parquet"
        else path.read_text()
        for part in ("lake", "quarantine")
        for path in sorted((home.root / part).rglob("*"))
        if path.is_file()
    )


PRINTABLE = st.characters(codec="utf-8", exclude_categories=("C", "Z"))


@settings(max_examples=50, deadline=None)
@given(
    secret=st.text(PRINTABLE, min_size=16, max_size=90),
    users=st.lists(st.text(PRINTABLE, min_size=1)),
)
def test_sql_hashes_as_python_does(secret: str, users: list[str]) -> None:
    treated = Users(UserSecret(secret))
    query = f"SELECT {treated.known('$user')}"
    found = [duckdb.execute(query, {**treated.parameters, "user": user}).fetchall()[0][0] for user in users]
    assert found == [UserSecret(secret).hashed(user) for user in users]
    key = secret.encode()
    assert found == [hmac.new(key, u.encode(), hashlib.sha256).hexdigest()[:32] for u in users]


def test_ids_are_hashed_everywhere(home: Home) -> None:
    land(
        home,
        "2025-03-01",
        [
            event_line(1, user="anna-1"),
            event_line(2, user="anna-1", type="teleport"),
            event_line(3, user="anna-1", session="s-anna-1", type="teleport"),
            b'{"id":"e4","user":"anna-1"',
            b'{"id":"e5","user":"an\\u006ea-1","query":"anna-1","type":"teleport","ts":5}',
            b'{"id":"e6","user":"anna-1","user":"anna-2","type":"teleport","ts":5}',
            b'{"id":"e7","usr":"anna-1","type":"view","ts":5,"item":"i"}',
            b'{"id":"e8","user":"anna-1\xff"}',
            event_line(9, user="anna-1" + "x" * 3000),
        ],
    )
    home.ingest(spec_of(DAILY), [FIRST], secret=SECRET, max_bad_share=1)
    assert [row["user_id"] for row in home.events("2025-03-01")] == [by_hand("anna-1")]
    rejected = {row["source_row"]: row for row in home.rejected("2025-03-01")}
    assert {row: found["reason"] for row, found in rejected.items()} == {
        2: "unknown_type",
        3: "unknown_type",
        4: "malformed_json",
        5: "unknown_type",
        6: "unknown_type",
        7: "missing_user",
        8: "bad_utf8",
        9: "oversized_field",
    }
    expected = event_line(2, user="anna-1", type="teleport").decode().replace("anna-1", by_hand("anna-1"))
    assert {row: found["raw"] for row, found in rejected.items() if row != 9} == {
        2: expected
    } | dict.fromkeys([3, 4, 5, 6, 7, 8])
    assert "anna" not in everything(home)
    assert SECRET.text not in everything(home)
    assert home.manifest("2025-03-01")["user_secret"] == SECRET.fingerprint


def test_ids_that_are_numbers_are_replaced_where_they_stand_alone(home: Home) -> None:
    lines = [
        b'{"id":"e1","user":987654,"ts":5,"type":"teleport","item":"i"}',
        b'{"id":"e2","user":5,"ts":1575,"type":"teleport","item":"i"}',
        b'{"id":"e3","user":1e2,"ts":5,"type":"teleport","item":"i","price":100.0}',
    ]
    land(home, "2025-03-01", [event_line(0), *lines])
    home.ingest(spec_of(DAILY), [FIRST], secret=SECRET, max_bad_share=1)
    raw = [row["raw"] for row in home.rejected("2025-03-01")]
    assert raw == [lines[0].decode().replace("987654", by_hand("987654")), None, None]


def test_natural_keys_and_csv_hold_hashes_only(home: Home) -> None:
    land_csv(home, f"anna,i1,{noon(1)},5", f"anna,i1,{noon(2)},much", f'"anna",i2,{noon(2)},5')
    home.ingest(spec_of(MANY_DAYS), secret=SECRET, max_bad_share=1)
    (row,) = home.events("2025-03-01")
    assert row["user_id"] == by_hand("anna")
    keys = ["ratings", *(f"={value}" for value in (by_hand("anna"), "i1", str(noon(1)), "5"))]
    order = [0, 1, 3, 2, 4]
    assert row["event_id"] in {
        hashlib.md5("\x1f".join(keys[n] for n in ns).encode()).hexdigest() for ns in (order, [0, 1, 2, 3, 4])
    }
    assert home.rejected("2025-03-02")[0]["raw"] == f"{by_hand('anna')},i1,{noon(2)},much"
    assert "anna" not in everything(home)


def test_two_secrets_do_not_share_a_lake(home: Home) -> None:
    for day in ("2025-03-01", "2025-03-02"):
        land(home, day, [event_line(1, ts=noon(1) * 1000)])
    home.ingest(spec_of(DAILY), [FIRST], secret=SECRET)
    before = home.files()
    other = UserSecret("another secret, as long")
    for secret in (None, other):
        with pytest.raises(
            IngestError, match=f"day 2025-03-01 .* user secret {SECRET.fingerprint}.*cannot hold both"
        ):
            home.ingest(spec_of(DAILY), [SECOND], secret=secret)
    assert home.files() == before
    home.ingest(spec_of(DAILY), [FIRST, SECOND], secret=other)  # all days at once may change it
    assert home.events("2025-03-01")[0]["user_id"] == other.hashed("u1")


def test_a_short_secret_is_refused_and_none_is_shown() -> None:
    with pytest.raises(IngestError, match="TESSERA_USER_SECRET is too short: 16 characters are the least"):
        UserSecret("fifteen letters")
    assert "secret of many" not in repr(Users(SECRET))


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("base", [DAILY, MANY_DAYS])
def test_erased_users_leave_no_trace(tmp_path: Path, base: dict[str, Any], secret: UserSecret | None) -> None:
    known = (lambda user: secret.hashed(user)) if secret else (lambda user: user)
    without, with_list = Home(tmp_path / "a"), Home(tmp_path / "b")
    listed = erased.add(tmp_path / "erased.json", [known("gone-1"), known("never here")])
    for home in (without, with_list):
        home.landing.mkdir(parents=True)
        if base is DAILY:
            lines = [event_line(n, user=user, type=kind) for n, (user, kind) in enumerate(PLAN)]
            land(home, "2025-03-01", [*lines, b'{"user":"gone-1"'])
        else:
            values = {"view": "5", "teleport": "many"}
            land_csv(
                home, *(f"{user},i{n},{noon(1)},{values[k]}" for n, (user, k) in enumerate(PLAN)), "gone-1,"
            )
    reports = [
        home.ingest(spec_of(base), [date(2025, 3, 1)], secret=secret, erased=who, max_bad_share=1)
        for home, who in ((without, None), (with_list, listed))
    ]
    kept = [row for row in without.events("2025-03-01") if row["user_id"] != known("gone-1")]
    assert with_list.events("2025-03-01") == kept
    assert len(kept) == 2
    assert reports[1].erased == 3
    assert "erased" not in reports[1].reasons
    assert reports[1].read == reports[1].accepted + reports[1].quarantined + 3 == reports[0].read
    assert reports[1].filtered == 0
    assert with_list.manifest("2025-03-01")["erased"] == 3
    assert "gone-1" not in everything(with_list)
    assert known("gone-1") not in everything(with_list)
    assert "erased" not in without.manifest("2025-03-01")


PLAN = [
    ("gone-1", "view"),
    ("stays", "view"),
    ("gone-1", "teleport"),
    ("gone-1", "view"),
    ("other", "view"),
    ("stays", "teleport"),
]


def test_an_empty_list_changes_nothing(home: Home) -> None:
    land(home, "2025-03-01", [event_line(1), b"{"])
    home.ingest(spec_of(DAILY), [FIRST], max_bad_share=1)
    before = home.files()
    report = home.ingest(spec_of(DAILY), [FIRST], erased=erased.Erased(b"salt", frozenset()), max_bad_share=1)
    assert home.files() == before
    assert not report.changed


def test_a_day_of_erased_users_alone_is_an_empty_day(home: Home) -> None:
    land(home, "2025-03-01", [event_line(1, user="u")])
    salt = b"salt"
    who = erased.Erased(salt, frozenset({hashlib.sha256(salt + b"u").hexdigest()}))
    report = home.ingest(spec_of(DAILY), [FIRST], erased=who)
    assert (report.read, report.accepted, report.erased) == (1, 0, 1)
    assert home.events("2025-03-01") == []
    assert json.loads((home.root / "lake/events/day=2025-03-01/manifest.json").read_text())["accepted"] == 0
