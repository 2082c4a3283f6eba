"""Forgotten users are in no byte of the online store; everybody else is served as before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from feature_marts import day, row, write_marts

from serving.feature_store import apply_definitions
from serving.features import UNKNOWN, FeatureLookup
from serving.forget import forget_users
from serving.materialize import materialize
from serving.online_keys import PushedKeys

USERS = [f"somebody-{n:02}" for n in range(40)]
GONE = {"somebody-03", "somebody-31"}


def bytes_of(home: Path) -> bytes:
    """Everything that the store keeps, on disk or in Redis."""
    found = [path.read_bytes() for path in sorted((home / "feast").rglob("*")) if path.is_file()]
    if address := os.environ.get("TESSERA_REDIS"):
        import redis

        host, port = address.split(":")
        client = redis.Redis(host, int(port))
        found += [key + b"".join(client.hgetall(key).values()) for key in client.scan_iter()]
    return b"".join(found)


@pytest.mark.usefixtures("either_store")
def test_forgotten_users_leave_nothing(tmp_path: Path) -> None:
    rows = [row(user, 1 + n % 20, 100 + n) for n, user in enumerate(USERS)]
    items = [row("i1", 2, 7)]
    write_marts(tmp_path, rows, items)
    apply_definitions(tmp_path)
    materialize(tmp_path, day(25))
    PushedKeys(tmp_path, "user_history").add({"somebody-03", "somebody-04"})
    lookup = FeatureLookup(tmp_path, clock=lambda: day(25))
    before = {user: lookup.user(user) for user in USERS}
    assert all(user.encode() in bytes_of(tmp_path) for user in GONE)

    assert forget_users(tmp_path, GONE) == len(GONE)
    assert not any(user.encode() in bytes_of(tmp_path) for user in GONE)
    assert PushedKeys(tmp_path, "user_history").read() == {"somebody-04"}

    write_marts(tmp_path, [r for r in rows if r.key not in GONE], items)
    materialize(tmp_path, day(25))
    lookup = FeatureLookup(tmp_path, clock=lambda: day(25))
    for user in USERS:
        if user in GONE:
            assert lookup.user(user).absent == {"user_activity": UNKNOWN, "user_history": UNKNOWN}
        else:
            assert lookup.user(user) == before[user]
    assert not any(user.encode() in bytes_of(tmp_path) for user in GONE)
    assert forget_users(tmp_path, GONE) == 0


def test_nothing_online_is_nothing_to_forget(tmp_path: Path) -> None:
    (tmp_path / "feast").mkdir()
    assert forget_users(tmp_path, GONE) == 0
