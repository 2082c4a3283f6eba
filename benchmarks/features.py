"""Features at speed: ``python -m benchmarks.features`` writes ``results/features.json``.

Training rows are joined to 3 million feature rows: ours, a hand-written ASOF join of the same views, and Feast's own
DuckDB store on a smaller sample. Online reads are timed in process beside plain SQLite on the same file, and over HTTP from
a real ``feast serve``. The marts are made up, in the shape and layout of the real ones.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks.record import Row, write
from serving.feature_store import apply_definitions, open_store, quiet, training_table
from serving.features import FeatureLookup, entity_keys
from serving.materialize import materialize

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 120
USERS, ITEMS = 60_000, 20_000
SEED = 0
_KEYS = {"ftr_user__activity": "user_id", "ftr_user__history": "user_id", "ftr_item__stats": "item_id"}
# At night on day d: a user is active on 19 % of days and an item on 13 %, and each such day adds three items.
_DAY = "(timestamptz '2025-01-01 00:00:00+00' + to_days((d + 1)::int)) AS event_timestamp, event_timestamp AS created_timestamp"
_MARTS = {
    "ftr_user__activity": f"""
        SELECT user_id, {_DAY}, (h % 9)::BIGINT AS events_1d, (h % 30)::BIGINT AS events_7d,
        (h % 7)::BIGINT AS interactions_7d, (h % 40)::BIGINT AS interactions_30d, (h % 50)::BIGINT AS views_30d,
        (h % 8)::BIGINT AS carts_30d, (h % 4)::BIGINT AS purchases_30d, (h % 1000) / 1000 AS days_since_last,
        d::DOUBLE AS tenure_days, 'category ' || (u % 40) AS favourite_category, (h % 10000) / 100 AS mean_price_30d
        FROM user_days WHERE d // 7 = $week ORDER BY user_id, d""",
    "ftr_user__history": f"""
        SELECT user_id, {_DAY},
        list_transform(shown, lambda i: 'i' || lpad((hash(u, i) % {ITEMS})::VARCHAR, 6, '0')) AS recent_items,
        list_transform(shown, lambda i: ['view', 'view', 'cart', 'purchase'][1 + (hash(u, i) % 4)::INT]) AS recent_types,
        list_transform(shown, lambda i: (1735689600000 + i * 3000000 + hash(u, i) % 1000000)::BIGINT) AS recent_ts,
        (4 + 3 * k)::BIGINT AS history_length
        FROM (SELECT *, range(greatest(0, 4 + 3 * k - 50), 4 + 3 * k) AS shown FROM user_days) WHERE d // 7 = $week
        ORDER BY user_id, d""",
    "ftr_item__stats": f"""
        SELECT item_id, {_DAY}, (h % 90)::BIGINT AS impressions_7d, (h % 50)::BIGINT AS views_7d,
        (h % 20)::BIGINT AS interactions_7d, (h % 80)::BIGINT AS interactions_30d, (h % 9)::BIGINT AS purchases_30d,
        (h % 70)::BIGINT AS users_30d, (h % 100) / 100 AS conversion_30d, d::DOUBLE AS age_days, (i % 900) / 9 AS price
        FROM item_days WHERE d // 7 = $week ORDER BY item_id, d""",
}


def main(argv: list[str] | None = None) -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="training rows to join")
    parser.add_argument(
        "--stock-rows", type=int, default=20_000, help="of these, how many Feast's own store joins"
    )
    parser.add_argument("--reads", type=int, default=5_000, help="online reads of each kind")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the users and items")
    parser.add_argument("--out", type=Path, help="write the figures here instead of benchmarks/results")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="tessera-features-") as folder:
        home = Path(folder)
        made = make_marts(home, options.scale)
        apply_definitions(home)
        rows = [*offline(home, options.rows, options.stock_rows, options.scale, made)]
        rows += online(home, options.reads, options.scale)
    for row in rows:
        sys.stdout.write(f"{row.case}: {row.ours:,.4g} {row.unit}; {row.peer_name}: {row.peer or 0:,.4g}\n")
    if options.out is None:
        write("features", rows, SEED)
    else:
        write("features", rows, SEED, options.out)


def make_marts(home: Path, scale: float) -> dict[str, int]:
    """Write the three marts as weekly parts, and return their rows."""
    users, items = int(USERS * scale), int(ITEMS * scale)
    with duckdb.connect(config={"threads": 2, "memory_limit": "4GB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, letter, name, n, share in (
            ("user_days", "u", "user_id", users, 187),
            ("item_days", "i", "item_id", items, 125),
        ):
            connection.execute(
                f"CREATE TABLE {table} AS SELECT '{letter}' || lpad({letter}::VARCHAR, 6, '0') AS {name}, {letter}, d, "
                f"hash({letter}, d) AS h, row_number() OVER (PARTITION BY {letter} ORDER BY d)::INT AS k "
                f"FROM range({n}) a({letter}), range({DAYS}) b(d) WHERE hash({letter} * 1000 + d) % 1000 < {share}"
            )
        made = {}
        for mart, query in _MARTS.items():
            target = home / "marts" / mart
            target.mkdir(parents=True)
            # As the macro export_marts writes columns of arrays.
            limit = ", DICTIONARY_SIZE_LIMIT 100000" if "list_transform" in query else ""
            for week in range(-(-DAYS // 7)):
                part = (START + timedelta(weeks=week)).date()
                chosen = query.replace("$week", str(week))
                connection.execute(
                    f"COPY ({chosen}) TO '{target}/{part}.parquet' (FORMAT parquet, COMPRESSION zstd{limit})"
                )
            made[mart] = ds.dataset(target).count_rows()
    return made


def asked(n: int, scale: float) -> pd.DataFrame:
    """Return training rows: users and items at random times of the last 110 days."""
    rng = np.random.default_rng(SEED)
    return pd.DataFrame(
        {
            "user_id": [f"u{k:06}" for k in rng.integers(0, int(USERS * scale), n)],
            "item_id": [f"i{k:06}" for k in rng.integers(0, int(ITEMS * scale), n)],
            "event_timestamp": pd.Timestamp(START + timedelta(days=10))
            + pd.to_timedelta(rng.integers(0, 110 * 86_400, n), "s"),
        }
    )


def offline(home: Path, n: int, n_stock: int, scale: float, made: dict[str, int]) -> list[Row]:
    """Time the training join of ours, of a hand-written ASOF, and of Feast's own store."""
    rows = asked(n, scale)
    training_table(home, rows.head(100))
    ours, ours_cpu, table = _timed(lambda: training_table(home, rows))
    raw, raw_cpu, by_hand = _timed(lambda: hand_written(home, rows))
    numbers = ("item_stats", "user_activity")
    narrow, narrow_cpu, narrow_table = _timed(lambda: only(home, rows, numbers))
    raw_narrow, raw_narrow_cpu, narrow_by_hand = _timed(lambda: hand_written(home, rows, numbers))
    few = rows.head(n_stock)
    stock, stock_cpu, _ = _timed(lambda: stock_feast(home, few))
    if not table.select(by_hand.column_names).equals(by_hand.cast(table.select(by_hand.column_names).schema)):
        raise SystemExit("the hand-written join found other values")
    narrow_schema = narrow_table.select(narrow_by_hand.column_names).schema
    if not narrow_table.select(narrow_by_hand.column_names).equals(narrow_by_hand.cast(narrow_schema)):
        raise SystemExit("the hand-written join without histories found other values")
    told = {
        "feature_rows": made,
        "rows": n,
        "seconds": round(ours, 2),
        "cpu_seconds": round(ours_cpu, 2),
        "rows_per_cpu_second": round(n / ours_cpu),
        "values_equal": True,
    }
    raw_name = "hand-written ASOF joins over the same files, DuckDB, 2 threads"
    stock_name = f"Feast's own DuckDB store, {n_stock:,} of the rows"
    case = "training features, point in time"
    extra = told | {"peer_seconds": round(raw, 2), "peer_cpu_seconds": round(raw_cpu, 2)}
    extra_stock = told | {"peer_seconds": round(stock, 2), "peer_cpu_seconds": round(stock_cpu, 2)}
    return [
        Row(case, n / ours, n / raw, raw_name, "rows/s", "higher", extra),
        Row(case, n / ours, n_stock / stock, stock_name, "rows/s", "higher", extra_stock),
        Row(
            f"{case}, without the histories of 50 items",
            n / narrow,
            n / raw_narrow,
            raw_name,
            "rows/s",
            "higher",
            {"seconds": round(narrow, 2), "cpu_seconds": round(narrow_cpu, 2)}
            | {"peer_seconds": round(raw_narrow, 2), "peer_cpu_seconds": round(raw_narrow_cpu, 2)},
        ),
    ]


def only(home: Path, rows: pd.DataFrame, views: tuple[str, ...]) -> pa.Table:
    """Return the features of some views for each row, by our store."""
    store = open_store(home)
    found = {view.name: view for view in store.list_feature_views()}
    refs = [f"{name}:{feature.name}" for name in views for feature in found[name].features]
    with quiet():
        return store.get_historical_features(
            rows, refs, full_feature_names=True, filter_by_created_timestamp=True
        ).to_arrow()


def hand_written(home: Path, rows: pd.DataFrame, views: tuple[str, ...] | None = None) -> pa.Table:
    """Return the features of each row as one would write it in SQL: a wide ASOF join a view, under the TTL."""
    store = open_store(home)
    with duckdb.connect(config={"threads": 2, "memory_limit": "6GB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", pa.Table.from_pandas(rows))
        connection.execute("CREATE TABLE asked AS SELECT *, row_number() OVER () AS n FROM given")
        columns: dict[str, Any] = {}
        for view in store.list_feature_views():
            mart = Path(view.batch_source.path).parent.name
            if mart not in _KEYS or (views is not None and view.name not in views):
                continue
            names = [feature.name for feature in view.features]
            fresh = f"f.event_timestamp + to_seconds({view.ttl.total_seconds()}) >= a.event_timestamp"
            chosen = ", ".join(
                f"CASE WHEN {fresh} THEN f.{name} END AS {view.name}__{name}" for name in names
            )
            key = _KEYS[mart]
            found = connection.execute(
                f"SELECT {chosen} FROM asked a ASOF LEFT JOIN read_parquet('{home}/marts/{mart}/*.parquet') f "
                f"ON a.{key} = f.{key} AND a.event_timestamp >= f.event_timestamp ORDER BY a.n"
            ).to_arrow_table()
            columns |= dict(zip(found.column_names, found.columns, strict=True))
    return pa.table(columns)


def stock_feast(home: Path, rows: pd.DataFrame) -> pa.Table:
    """Return the features of each row as Feast's own DuckDB store joins them."""
    from feast import FeatureStore

    store = open_store(home)
    store = FeatureStore(config=store.config.model_copy(update={"offline_config": {"type": "duckdb"}}))
    store.config._offline_store = None
    with quiet():
        return store.get_historical_features(
            rows,
            store.get_feature_service("ranker_v1"),
            full_feature_names=True,
            filter_by_created_timestamp=True,
        ).to_arrow()


def online(home: Path, n: int, scale: float) -> list[Row]:
    """Time reads of one user's features: in process, from plain SQLite, and over HTTP."""
    end = START + timedelta(days=DAYS)
    began = time.perf_counter()
    written = {name: view.rows for name, view in materialize(home, end).items()}
    loading = time.perf_counter() - began
    rng = np.random.default_rng(SEED)
    users = [f"u{k:06}" for k in rng.integers(0, int(USERS * scale), n)]
    lookup = FeatureLookup(home, clock=lambda: end)
    for user in users[:200]:
        lookup.user(user)
    ours = _latencies(lookup.user, users)
    plain = _latencies(_plain_sqlite(home, lookup), users)
    over_http = _over_http(home, users)
    told = {"reads": n, "entities_online": written, "first_load_seconds": round(loading, 1), "features": 15}
    rows = []
    for name, share in (("p50", 50.0), ("p99", 99.0)):
        rows.append(
            Row(
                f"look-up of a user in process, {name}, SQLite, warm",
                _percentile(ours, share),
                _percentile(plain, share),
                "the same rows of the same file by sqlite3, not decoded",
                "ms",
                "lower",
                told,
            )
        )
        rows.append(
            Row(
                f"look-up of a user over feast serve, {name}, SQLite, warm",
                _percentile(over_http, share),
                _percentile(plain, share),
                "the same rows of the same file by sqlite3, not decoded",
                "ms",
                "lower",
                told,
            )
        )
    return rows


def _plain_sqlite(home: Path, lookup: FeatureLookup) -> Callable[[str], None]:
    """Return the same reads as one would write them over Feast's tables."""
    from feast.infra.key_encoding_utils import serialize_entity_key

    store = open_store(home)
    connection = sqlite3.connect(home / "feast" / "online.db")
    tables = [f"{store.project}_{view}" for view in ("user_activity", "user_history")]

    def read(user: str) -> None:
        key = serialize_entity_key(entity_keys("user_id", [user])[0], entity_key_serialization_version=3)
        for table in tables:
            connection.execute(
                f'SELECT feature_name, value, event_ts FROM "{table}" WHERE entity_key = ?', (key,)
            ).fetchall()

    return read


def _over_http(home: Path, users: list[str]) -> list[float]:
    """Start ``feast serve``, time reads over one connection, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    feast = Path(sys.executable).with_name("feast")
    command = [feast, "--chdir", home / "feast", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*map(str, command), "--no-access-log", "--max-requests", "0"],
            stdout=log,
            stderr=log,
            env=os.environ | {"IS_TEST": "False"},
        )
    view_features = [
        f"{view.name}:{feature.name}"
        for view in open_store(home).list_feature_views()
        if view.name in ("user_activity", "user_history")
        for feature in view.features
    ]
    try:
        _wait_for(port, server, home / "serve.log")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

        def read(user: str) -> None:
            body = json.dumps(
                {"features": view_features, "entities": {"user_id": [user]}, "full_feature_names": True}
            )
            connection.request("POST", "/get-online-features", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise SystemExit(f"feast serve: {answer.status} {content[:300]!r}")

        for user in users[:200]:
            read(user)
        return _latencies(read, users)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"feast serve ended: {log.read_text()[-500:]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("feast serve did not start within a minute")


def _latencies(read: Callable[[str], Any], users: list[str]) -> list[float]:
    """Return how long each read took, in milliseconds."""
    taken = []
    for user in users:
        began = time.perf_counter()
        read(user)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def _percentile(taken: list[float], share: float) -> float:
    return round(float(np.percentile(taken, share)), 4)


def _timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, seconds of processor, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


if __name__ == "__main__":
    main()
