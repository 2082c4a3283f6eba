"""The online store holds each entity's latest known row, however often and in whatever order runs happen."""

from __future__ import annotations

import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_marts import Row, day, history_of, row, write_marts

from ml.artifacts import hash_file, write_json
from serving import feature_store
from serving.feature_source import FeatureSource
from serving.feature_store import FeatureStoreError, apply_definitions, open_store
from serving.features import UNKNOWN, FeatureLookup
from serving.materialize import Materialized, materialize

KEYS = range(12)


def random_marts(rng: np.random.Generator) -> tuple[list[Row], list[Row]]:
    """Return user and item rows, one per entity and day at most."""
    pairs = [(key, event) for key in KEYS for event in range(90) if rng.random() < 0.04]
    users = [row(f"u{key}", event, 100 + n) for n, (key, event) in enumerate(pairs)]
    items = [row(f"i{key}", event, 500 + n) for n, (key, event) in enumerate(pairs)]
    return users, items


def latest(rows: list[Row], key: str, end: datetime, ttl_days: int) -> int | None:
    """Brute-force twin of materialization followed by a look-up at ``end``."""
    seen = [r for r in rows if r.key == key and r.event <= end and end - r.event <= timedelta(days=ttl_days)]
    return max(seen, key=lambda r: r.event).number if seen else None


def assert_online(home: Path, users: list[Row], items: list[Row], end: datetime) -> None:
    lookup = FeatureLookup(home, clock=lambda: end)
    for key in KEYS:
        user = lookup.user(f"u{key}")
        activity = latest(users, f"u{key}", end, 30)
        assert (user.activity and user.activity["events_1d"]) == activity
        history = latest(users, f"u{key}", end, 730)
        assert (user.history and user.history.length) == history
        if history is not None and user.history is not None:
            assert user.history.items == history_of(history)
            assert user.history.times == [1000 * n for n in range(len(history_of(history)))]
    found = lookup.items([f"i{key}" for key in KEYS])
    assert [i.stats and i.stats["impressions_7d"] for i in found] == [
        latest(items, f"i{key}", end, 30) for key in KEYS
    ]


@pytest.mark.usefixtures("either_store")
def test_any_walk_of_runs_ends_in_the_latest_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    users, items = random_marts(rng)
    write_marts(tmp_path, users, items)
    apply_definitions(tmp_path)

    def run(end_day: float) -> dict[str, Materialized]:
        done = materialize(tmp_path, day(end_day))
        assert_online(tmp_path, users, items, day(end_day))
        return done

    first = run(30)["user_activity"]
    assert first.rebuilt
    assert first.rows == sum(latest(users, f"u{key}", day(30), 30) is not None for key in KEYS)
    again = run(30)["user_activity"]
    assert (again.rows, again.rebuilt) == (0, False)
    forward = run(45)["user_activity"]
    assert forward.rows == len({r.key for r in users if day(30) < r.event <= day(45)})
    assert not forward.rebuilt
    # An earlier end must not leave the later values online.
    assert run(20)["item_stats"].rebuilt
    run(80)

    # The past was corrected: one user is gone, and one late day was put in.
    users = [r for r in users if r.key != "u3"] + [row("u4", 79.5, 9999)]
    write_marts(tmp_path, users, items)
    corrected = run(80)
    assert corrected["user_history"].rebuilt
    assert corrected["user_history"].retired == 1
    assert not corrected["item_stats"].rebuilt
    assert FeatureLookup(tmp_path, clock=lambda: day(80)).user("u3").absent == {
        "user_activity": UNKNOWN,
        "user_history": UNKNOWN,
    }


def test_lost_online_store_is_filled_again(tmp_path: Path) -> None:
    users, items = [row("u0", 1, 5)], [row("i0", 1, 6)]
    write_marts(tmp_path, users, items)
    apply_definitions(tmp_path)
    materialize(tmp_path, day(2))
    for path in (tmp_path / "feast").glob("online.db*"):
        path.unlink()

    apply_definitions(tmp_path)
    assert materialize(tmp_path, day(2))["user_activity"].rows == 1
    assert_online(tmp_path, users, items, day(2))


def test_night_reads_only_parts_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def certify() -> None:
        files = sorted((tmp_path / "marts").rglob("*.parquet"))
        named = {f.relative_to(tmp_path / "marts").with_suffix("").as_posix(): hash_file(f) for f in files}
        write_json(tmp_path / "marts" / "manifest.json", {"inputs": named})

    def hashed(end: float) -> tuple[Materialized, list[str]]:
        """Run, and return what was done for a view and the parts of it whose rows were read for their hash."""
        read: list[str] = []
        rows = FeatureSource._rows

        def noted(self: FeatureSource, file: Path, end: datetime) -> Any:
            read.append(f"{file.parent.name}/{file.stem}")
            return rows(self, file, end)

        with monkeypatch.context() as patch:
            patch.setattr(FeatureSource, "_rows", noted)
            done = materialize(tmp_path, day(end))["user_activity"]
        return done, [name.partition("/")[2] for name in read if name.startswith("ftr_user__activity/")]

    first, second, third = "2014-01-01", "2014-01-31", "2014-03-02"
    users = [row("u0", 5, 1), row("u1", 20, 2), row("u2", 35, 3), row("u0", 40, 4)]
    items = [row("i0", 1, 6)]
    write_marts(tmp_path, users, items)
    certify()
    apply_definitions(tmp_path)
    done, read = hashed(41)
    assert (done.rebuilt, set(read)) == (True, {first, second})

    # A day joins the second part: its old rows are compared, and the first part is not opened.
    users.append(row("u3", 45, 5))
    write_marts(tmp_path, users, items)
    certify()
    done, read = hashed(46)
    assert (done.rebuilt, done.rows, set(read)) == (False, 1, {second})
    users.append(row("u4", 61, 6))
    write_marts(tmp_path, users, items)
    certify()
    done, read = hashed(62)
    assert (done.rebuilt, done.rows, set(read)) == (False, 1, {third})
    assert_online(tmp_path, users, items, day(62))

    # The oldest part changed: everything is read again.
    users[1] = row("u1", 20, 99)
    write_marts(tmp_path, users, items)
    certify()
    done, _ = hashed(62)
    assert done.rebuilt
    # And a part that vanished is a change as well.
    write_marts(tmp_path, users[2:], items)
    certify()
    done, _ = hashed(62)
    assert done.rebuilt


def test_store_that_lost_its_data_is_filled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: str
) -> None:
    import redis

    host, port = redis_server.split(":")
    client = redis.Redis(host, int(port))
    client.flushall()
    monkeypatch.setenv("TESSERA_REDIS", redis_server)
    users, items = [row("u0", 1, 5)], [row("i0", 1, 6)]
    write_marts(tmp_path, users, items)
    apply_definitions(tmp_path)
    materialize(tmp_path, day(2))
    assert not materialize(tmp_path, day(3))["user_activity"].rebuilt
    assert b"u0" in b"".join(client.keys())
    client.flushall()

    assert materialize(tmp_path, day(3))["user_activity"].rebuilt
    assert_online(tmp_path, users, items, day(3))
    # The values are in Redis, and not beside it.
    assert not (tmp_path / "feast" / "online.db").exists()
    monkeypatch.setenv("TESSERA_REDIS", "127.0.0.1:1")
    with pytest.raises(FeatureStoreError, match=r"the Redis of TESSERA_REDIS cannot be used: .*refused"):
        materialize(tmp_path, day(3))
    with pytest.raises(FeatureStoreError, match="cannot be used"):
        FeatureLookup(tmp_path, clock=lambda: day(3)).user("u0")


@pytest.mark.usefixtures("either_store")
def test_readers_never_fail_and_see_whole_rows(tmp_path: Path) -> None:
    users = [row(f"u{key}", 1, 1000) for key in range(300)]
    items = [row("i0", 1, 6)]
    write_marts(tmp_path, users, items)
    apply_definitions(tmp_path)
    materialize(tmp_path, day(1))
    stop = threading.Event()
    seen: set[tuple[int, ...]] = set()
    errors: list[str] = []
    reads = [0] * 4

    def read(reader: int) -> None:
        lookup = FeatureLookup(tmp_path, clock=lambda: day(12))
        while not stop.is_set():
            try:
                activity = lookup.user(f"u{reads[reader] % 300}").activity
                assert activity is not None
                seen.add((activity["events_1d"], activity["events_7d"], activity["purchases_30d"]))
            except Exception as error:
                errors.append(repr(error))
            reads[reader] += 1

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(4)]
    for thread in threads:
        thread.start()
    try:
        for night in range(2, 6):
            users = users + [row(f"u{key}", night, 1000 * night) for key in range(300)]
            write_marts(tmp_path, users, items)
            before = sum(reads)
            materialize(tmp_path, day(night))
            assert sum(reads) > before
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert errors == []
    # A row is of one night: never half of it old and half of it new.
    assert seen <= {(n, n + 1, n + 6) for n in range(1000, 6000, 1000)}
    assert len(seen) > 1


@pytest.mark.usefixtures("either_store")
def test_corrected_value_of_the_same_time_is_served(tmp_path: Path) -> None:
    write_marts(tmp_path, [row("u0", 1, 5)], [row("i0", 1, 6)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(2))
    users = [row("u0", 1, 7)]
    write_marts(tmp_path, users, [row("i0", 1, 6)])
    materialize(tmp_path, day(2))
    assert_online(tmp_path, users, [row("i0", 1, 6)], day(2))


@pytest.mark.usefixtures("either_store")
def test_old_values_are_not_served(tmp_path: Path) -> None:
    write_marts(tmp_path, [row("u0", 1, 5)], [row("i0", 1, 6)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(2))

    def lookup(at: float, max_age: timedelta | None = None) -> FeatureLookup:
        return FeatureLookup(tmp_path, clock=lambda: day(at), max_age=max_age)

    fresh = lookup(31).user("u0")
    assert fresh.absent == {}
    assert fresh.activity is not None
    assert fresh.activity["days_since_last"] is None
    stale = lookup(31.5).user("u0")
    assert stale.activity is None
    assert stale.absent == {"user_activity": "30.5 days old, older than 30"}
    assert stale.history is not None
    limited = lookup(4, max_age=timedelta(days=2)).user("u0")
    assert limited.history is None
    assert limited.absent["user_history"] == "3.0 days old, older than 2"
    assert [i.absent for i in lookup(40).items(["i0", "nobody"])] == [
        {"item_stats": "39.0 days old, older than 30"},
        {"item_stats": UNKNOWN},
    ]
    assert lookup(40).items([]) == []


@pytest.mark.parametrize("serve_meanwhile", [True, False])
def test_reads_go_on_while_a_view_is_materialized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve_meanwhile: bool
) -> None:
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    settings = feature_store._settings

    def with_switch(home: Path) -> dict[str, Any]:
        found = settings(home)
        found["registry"]["serve_features_while_materializing"] = serve_meanwhile
        return found

    write_marts(tmp_path, [row("u0", 1, 5), row("u0", 3, 7)], [row("i0", 1, 6), row("i0", 3, 8)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(2))
    monkeypatch.setattr(feature_store, "_settings", with_switch)
    write = SqliteOnlineStore.online_write_batch
    seen: list[int] = []
    errors: list[str] = []

    def read() -> None:
        try:
            # As `feast serve` reads.
            answer = open_store(tmp_path).get_online_features(
                ["user_activity:events_1d"], [{"user_id": "u0"}], full_feature_names=True
            )
            seen.extend(answer.to_dict()["user_activity__events_1d"])
        except Exception as error:
            errors.append(str(error))

    def write_with_reader(*args: Any, **kwargs: Any) -> Any:
        reader = threading.Thread(target=read)
        reader.start()
        reader.join()
        return write(*args, **kwargs)

    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", write_with_reader)
    materialize(tmp_path, day(4))

    if serve_meanwhile:
        # The item view, then the two user views, each with its mark; each is read while it is about to be written.
        assert (seen, errors) == ([5, 5, 5, 7, 7, 7], [])
    else:
        assert errors
        assert all("MATERIALIZING" in error for error in errors)


@pytest.mark.usefixtures("either_store")
def test_lookup_is_shared_by_threads(tmp_path: Path) -> None:
    write_marts(tmp_path, [row(f"u{key}", 1, key) for key in KEYS], [row("i0", 1, 6)])
    apply_definitions(tmp_path)
    materialize(tmp_path, day(2))
    lookup = FeatureLookup(tmp_path, clock=lambda: day(2))
    found: list[tuple[int, int]] = []

    def read(key: int) -> None:
        for _ in range(20):
            user = lookup.user(f"u{key}")
            assert user.history is not None
            found.append((key, user.history.length))

    threads = [threading.Thread(target=read, args=(key,)) for key in KEYS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((key, key) for key in KEYS for _ in range(20))


@pytest.mark.usefixtures("either_store")
def test_semantic_ids_join_in_once_they_are_there(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_marts(tmp_path, [row("u0", 1, 5)], [row("i0", 1, 6)])
    apply_definitions(tmp_path)
    assert set(materialize(tmp_path, day(2))) == {"user_activity", "user_history", "item_stats"}

    time = pa.array([day(2)], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table(
            {
                "item_id": ["i0"],
                "semantic_id": ["1-2-3-0"],
                "version": ["abc"],
                "event_timestamp": time,
                "created_timestamp": time,
            }
        ),
        tmp_path / "feast" / "item_semantic_id.parquet",
    )
    assert materialize(tmp_path, day(3))["item_semantic_id"].rows == 1
    store = feature_store.open_store(tmp_path)
    read = store.get_online_features(["item_semantic_id:semantic_id"], [{"item_id": "i0"}]).to_dict()
    assert read["semantic_id"] == ["1-2-3-0"]


def test_mistakes_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FeatureStoreError, match="apply the definitions first"):
        materialize(tmp_path, day(1))
    with pytest.raises(FeatureStoreError, match="apply the definitions first"):
        FeatureLookup(tmp_path)
    with pytest.raises(FeatureStoreError, match="time zone"):
        materialize(tmp_path, datetime(2014, 1, 1))
    apply_definitions(tmp_path)
    with pytest.raises(
        FeatureStoreError, match=r"ftr_item__stats/\*\.parquet does not exist: feature view item_stats"
    ):
        materialize(tmp_path, day(1))
    monkeypatch.setenv("TESSERA_REDIS", "localhost:1")
    monkeypatch.setitem(sys.modules, "feast.infra.online_stores.redis", None)
    with pytest.raises(FeatureStoreError, match="TESSERA_REDIS is set"):
        materialize(tmp_path, day(1))
