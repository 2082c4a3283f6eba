"""The ASOF store returns what Feast's own store returns, and a loop over all rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float64, Int64, String
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving import asof_join
from serving.asof_join import Read, join, while_unchanged
from serving.point_in_time import AsofOfflineStoreConfig

START = datetime(2024, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
CONFIG = SimpleNamespace(offline_store=AsofOfflineStoreConfig())


class Known(NamedTuple):
    """A feature row; times in ticks, None for null."""

    key: str | None
    event: int | None
    created: int | None


def at(tick: int | None) -> datetime | None:
    return None if tick is None else START + timedelta(microseconds=tick)


def winner(rows: list[Known], key: str | None, asked: int, ttl: int | None, by_created: bool) -> int | None:
    """Brute-force twin: which row is known of a key at a time."""
    seen = [
        (row.event, -1 if row.created is None else row.created, place)
        for place, row in enumerate(rows)
        if key is not None and row.key == key
        if row.event is not None and row.event <= asked
        if not by_created or (row.created is not None and row.created <= asked)
    ]
    if not seen:
        return None
    event, _, place = max(seen)
    return place if ttl is None or event + ttl >= asked else None


def write(folder: Path, rows: list[Known], cuts: list[int]) -> None:
    """Write rows, each with its place, in parts that end at ``cuts``."""
    for path in folder.glob("*.parquet"):
        path.unlink()
    ends = sorted({min(cut, len(rows)) for cut in cuts} | {len(rows)})
    for part, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        chosen = rows[start:end]
        columns = {
            "key": pa.array([row.key for row in chosen], pa.string()),
            "event_timestamp": pa.array([at(row.event) for row in chosen], TIME),
            "created_timestamp": pa.array([at(row.created) for row in chosen], TIME),
            "place": pa.array(range(start, end), pa.int64()),
            "wide": pa.array([[str(n)] * (n % 3) for n in range(start, end)], pa.list_(pa.string())),
        }
        pq.write_table(
            pa.table(columns), folder / f"{part:03}.parquet", row_group_size=6_000 if len(rows) > 100 else 3
        )


KEYS = st.sampled_from(["a", "b", None])
# Few ticks, so that ties, duplicates and edges of the TTL are common.
TICKS = st.integers(0, 5)
ROWS = st.lists(st.builds(Known, KEYS, st.none() | TICKS, st.none() | TICKS), min_size=4, max_size=30)
ASKED = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), TICKS), min_size=6, max_size=30)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    asked=ASKED,
    cuts=st.lists(st.integers(1, 20), max_size=3),
    ttl=st.none() | st.integers(1, 5),
    by_created=st.booleans(),
    punctual=st.booleans(),
)
# Of two rows of one time, the one that says when it was written wins; a late one does not hide a newer one.
@example([Known("a", 1, 1), Known("a", 1, None)], [("a", 2)], [], None, False, False)
@example([Known("a", 1, 4), Known("a", 3, 3), Known("a", 5, 5)], [("a", 4)], [], None, True, False)
@example([Known("a", 1, 1)], [("a", 3), ("a", 4)], [], 2, True, True)
def test_join_equals_a_loop(
    tmp_path: Path,
    rows: list[Known],
    asked: list[tuple[str | None, int]],
    cuts: list[int],
    ttl: int | None,
    by_created: bool,
    punctual: bool,
) -> None:
    if punctual:
        # What marts are: every row is known as soon as it is true, once a key and time. It takes a shorter way.
        rows = [Known(key, event, event) for key, event in {(row.key, row.event): None for row in rows}]
    write(tmp_path, rows, cuts)
    read = Read(
        pattern=str(tmp_path / "*.parquet"),
        keys={"key": "who"},
        time="event_timestamp",
        created="created_timestamp",
        visible=by_created,
        columns={"place": "view__place", "wide": "view__wide"},
        ttl=None if ttl is None else timedelta(microseconds=ttl),
    )
    entities = pd.DataFrame({"who": [key for key, _ in asked], "when": [at(tick) for _, tick in asked]})

    found = join(CONFIG, entities, "when", [read])

    places = [winner(rows, key, tick, ttl, by_created) for key, tick in asked]
    assert found.column_names == ["who", "when", "view__place", "view__wide"]
    assert found["who"].to_pylist() == [key for key, _ in asked]
    assert found["view__place"].to_pylist() == places
    assert found["view__wide"].to_pylist() == [
        None if place is None else [str(place)] * (place % 3) for place in places
    ]


def store_at(home: Path, offline: str) -> FeatureStore:
    config: dict[str, Any] = {
        "project": "tried",
        "provider": "local",
        "registry": str(home / offline / "registry.db"),
        "online_store": None,
        "offline_store": {"type": offline},
        "entity_key_serialization_version": 3,
    }
    return FeatureStore(config=RepoConfig(repo_path=home, **config))


def definitions(home: Path) -> list[Any]:
    who = Entity(name="who", join_keys=["who"], value_type=ValueType.STRING)
    what = Entity(name="what", join_keys=["what"], value_type=ValueType.STRING)

    def view(name: str, entities: list[Entity], ttl: timedelta | None) -> FeatureView:
        return FeatureView(
            name=name,
            entities=entities,
            ttl=ttl,
            schema=[Field(name="number", dtype=Int64), Field(name="words", dtype=Array(String))],
            source=FileSource(
                name=name,
                path=str(home / name / "*.parquet"),
                timestamp_field="happened",
                created_timestamp_column="written",
            ),
        )

    single, pair = view("single", [who], timedelta(days=3)), view("pair", [who, what], None)

    @on_demand_feature_view(
        sources=[single, RequestSource(name="request", schema=[Field(name="factor", dtype=Float64)])],
        schema=[Field(name="product", dtype=Float64)],
    )
    def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"product": inputs["number"] * inputs["factor"]})

    return [who, what, single, pair, scaled]


def random_home(home: Path, rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Write two views without ties, some rows late, and return rows to ask for."""
    for name in ("single", "pair"):
        (home / name).mkdir()
        happened = rng.permutation(n * 10)[:n]
        late = np.where(rng.random(n) < 0.3, rng.integers(1, n * 4, n), 0)
        frame = pd.DataFrame(
            {
                "who": [f"u{k}" for k in rng.integers(0, 5, n)],
                "what": [f"i{k}" for k in rng.integers(0, 3, n)],
                "happened": pd.to_datetime(START) + pd.to_timedelta(happened, "min"),
                "written": pd.to_datetime(START) + pd.to_timedelta(happened + late, "min"),
                "number": np.arange(n),
                "words": [[str(k)] * (k % 4) for k in range(n)],
            }
        ).astype({"happened": "datetime64[us, UTC]", "written": "datetime64[us, UTC]"})
        for part in range(3):
            frame[part::3].to_parquet(home / name / f"{part}.parquet", index=False)
    return pd.DataFrame(
        {
            "who": [f"u{k}" for k in rng.integers(0, 6, n)],
            "what": [f"i{k}" for k in rng.integers(0, 4, n)],
            "event_timestamp": pd.to_datetime(START) + pd.to_timedelta(rng.integers(0, n * 12, n), "min"),
            "factor": rng.random(n),
            "row": np.arange(n),
        }
    )


@pytest.mark.parametrize("full_names", [True, False])
@pytest.mark.parametrize("by_created", [True, False])
def test_store_equals_feasts_own(tmp_path: Path, full_names: bool, by_created: bool) -> None:
    asked = random_home(tmp_path, np.random.default_rng(3), 300)
    features = ["single:number", "single:words", *(["pair:number", "pair:words"] if full_names else [])]
    answers = []
    for offline in ("serving.point_in_time.AsofOfflineStore", "duckdb"):
        store = store_at(tmp_path, offline)
        store.apply(definitions(tmp_path))
        job = store.get_historical_features(
            asked.copy(),
            [*features, "scaled:product"],
            full_feature_names=full_names,
            filter_by_created_timestamp=by_created,
        )
        answers.append((job, job.to_df()))
    (ours_job, ours), (theirs_job, theirs) = answers

    assert ours["row"].tolist() == list(range(300))
    theirs = theirs.sort_values("row", ignore_index=True)
    for frame in (ours, theirs):
        for column in frame.columns[frame.columns.str.contains("words")]:
            frame[column] = [None if value is None else list(value) for value in frame[column]]
    pd.testing.assert_frame_equal(ours, theirs[ours.columns], check_dtype=False)
    assert set(ours.columns) == set(theirs.columns)
    assert 30 < ours["single__number" if full_names else "number"].isna().sum() < 270
    assert sorted(ours_job.metadata.keys) == sorted(theirs_job.metadata.keys)
    assert ours_job.metadata.min_event_timestamp == theirs_job.metadata.min_event_timestamp


@pytest.mark.parametrize("offline", ["serving.point_in_time.AsofOfflineStore", "duckdb"])
def test_latest_rows_of_a_window(tmp_path: Path, offline: str) -> None:
    random_home(tmp_path, np.random.default_rng(5), 200)
    store = store_at(tmp_path, offline)
    start, end = START + timedelta(minutes=300), START + timedelta(minutes=1500)

    found = store._get_provider().offline_store.pull_latest_from_table_or_query(
        store.config,
        next(o for o in definitions(tmp_path) if o.name == "pair").batch_source,
        ["who", "what"],
        ["number", "words"],
        "happened",
        "written",
        start,
        end,
    )
    frame = pd.read_parquet(tmp_path / "pair")
    frame = frame[(frame["happened"] >= start) & (frame["happened"] <= end)]
    expected = frame.sort_values("happened").groupby(["who", "what"]).last()

    table = found.to_arrow()
    assert set(table.column_names) == {"who", "what", "number", "words", "happened", "written"}
    ours = {(row["who"], row["what"]): (row["number"], row["words"]) for row in table.to_pylist()}
    assert ours == {key: (row.number, list(row.words)) for key, row in expected.iterrows()}
    assert len(ours) > 5


def test_join_equals_a_hand_written_asof(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, n_asked = 60_000, 20_000
    ticks = rng.permutation(n)
    write(
        tmp_path,
        [Known(f"u{k}", int(t), int(t)) for k, t in zip(rng.integers(0, 900, n), ticks, strict=True)],
        [20_000],
    )
    asked = pd.DataFrame(
        {
            "who": [f"u{k}" for k in rng.integers(0, 1000, n_asked)],
            "when": [at(int(t)) for t in rng.integers(0, n, n_asked)],
            "row": np.arange(n_asked),
        }
    )
    read = Read(
        str(tmp_path / "*.parquet"),
        {"key": "who"},
        "event_timestamp",
        "created_timestamp",
        True,
        {"place": "place"},
        timedelta(microseconds=500),
    )

    found = join(CONFIG, asked, "when", [read])

    expected = duckdb.sql(
        f"SELECT CASE WHEN f.event_timestamp + INTERVAL 500 MICROSECOND >= a.when THEN f.place END AS place FROM asked a "
        f"ASOF LEFT JOIN read_parquet('{tmp_path}/*.parquet') f ON a.who = f.key AND a.when >= f.event_timestamp ORDER BY a.row"
    ).to_arrow_table()
    assert found["row"].to_pylist() == list(range(n_asked))
    assert found["place"].to_pylist() == expected["place"].to_pylist()
    assert 0 < found["place"].null_count < n_asked


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_are_fetched_with_their_types(tmp_path: Path, dictionary: bool) -> None:
    n = 60
    words = [None if k % 5 == 0 else [None if k % 7 == 0 else f"w{k % 9}"] * (k % 4) for k in range(n)]
    stored = pa.table(
        {
            "unread": pa.array(["x"] * n),
            "word": pa.array([None if k % 3 == 0 else f"w{k % 4}" for k in range(n)]),
            "large": pa.array([str(k) for k in range(n)], pa.large_string()),
            "bytes": pa.array([bytes([k]) for k in range(n)]),
            "flag": pa.array([k % 2 == 0 for k in range(n)]),
            "time": pa.array([at(k) for k in range(n)], TIME),
            "words": pa.array(words, pa.list_(pa.string())),
            "times": pa.array([[k] * (k % 3) for k in range(n)], pa.list_(pa.int64())),
            "nested": pa.array([[[str(k)]] * (k % 2) for k in range(n)], pa.list_(pa.list_(pa.string()))),
            "record": pa.array([{"a": str(k), "b": k} for k in range(n)]),
        }
    )
    parts = [stored.slice(0, 25), stored.slice(25, 0), stored.slice(25)]
    files = [str(tmp_path / f"{place}.parquet") for place in range(len(parts))]
    for part, file in zip(parts, files, strict=True):
        pq.write_table(part, file, row_group_size=8, use_dictionary=dictionary)
    stands = np.array([k if k < 25 else (2 << 40) + k - 25 for k in range(n)])
    columns = stored.column_names[:0:-1]

    for chosen in ([], [0], [7, 8, 24, 25, 59], list(range(40, 60)), list(range(n))):
        found = asof_join.fetch(CONFIG, files, stands[chosen], columns)
        assert found.schema == stored.select(columns).schema
        assert found.equals(stored.select(columns).take(pa.array(chosen, pa.int64())))
    places = [2, None, 0, 2, 1]
    found = asof_join.fetch(CONFIG, files, stands[[3, 30, 31]], columns, pa.array(places))
    rows = [None if place is None else [3, 30, 31][place] for place in places]
    assert found.equals(stored.select(columns).take(pa.array(rows)))


def test_rows_asked_in_chunks_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [Known("a", tick, tick) for tick in range(0, 50, 5)], [4])
    asked = pd.DataFrame({"who": ["a"] * 40, "when": [at(tick) for tick in range(40)]})
    read = Read(
        str(tmp_path / "*.parquet"), {"key": "who"}, "event_timestamp", None, False, {"place": "p"}, None
    )
    monkeypatch.setattr(asof_join, "_CHUNK", 7)
    assert join(CONFIG, asked, "when", [read])["p"].to_pylist() == [tick // 5 for tick in range(40)]


def test_marts_that_are_replaced_meanwhile_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    contents = iter(["new", "newest"])

    def ask(files: list[str]) -> pa.Table:
        found = pa.table({"x": [Path(files[0]).read_text()]})
        if (content := next(contents, None)) is not None:
            # As marts are replaced: another file under the same name.
            (tmp_path / "beside").write_text(content)
            (tmp_path / "beside").replace(path)
        return found

    path.write_text("old")
    assert while_unchanged(str(tmp_path / "*.parquet"), ask)["x"].to_pylist() == ["newest"]
    contents = iter("abc")
    with pytest.raises(RuntimeError, match="was replaced 3 times while it was read"):
        while_unchanged(str(tmp_path / "*.parquet"), ask)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        while_unchanged(str(tmp_path / "*.nothing"), ask)
