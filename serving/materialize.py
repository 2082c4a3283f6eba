"""Feature values into the online store: only what is new, and the same in the end however often it runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import hash_json, read_json, write_json
from serving.feature_store import (
    FeatureStoreError,
    materialized_state,
    online_settings,
    open_store,
    quiet,
    require_source,
    source_files,
    writing,
)

if TYPE_CHECKING:
    from feast import FeatureStore

# Views whose source appears later in the chain; they are passed over until it does.
LATER_VIEWS = frozenset({"item_semantic_id"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Materialized:
    """What one run did for one view.

    Parameters
    ----------
    rows
        Entities written.
    retired
        Entities that were online and are no longer in the source.
    start, end
        The window of event times that was read, both inclusive.
    rebuilt
        Whether the whole window was read, not only what is newer than the last run.
    """

    rows: int
    retired: int
    start: datetime
    end: datetime
    rebuilt: bool


@dataclass(frozen=True)
class _Source:
    """A view's Parquet files, read without Feast: what is in them, not what it means."""

    files: list[Path]
    key: str

    def fingerprint(self, end: datetime) -> str:
        """Return a hash of the set of rows up to ``end``, whatever their order."""
        rows = self._query(
            "SELECT count(*), bit_xor(hash(t)), sum(hash(t) % 1000000007) "
            "FROM (SELECT * FROM read_parquet($files) WHERE event_timestamp <= $end) t",
            end=end,
        )
        return hash_json([str(value) for value in rows[0]])

    def keys(self, start: datetime, end: datetime) -> set[str]:
        """Return the entities that have a row in the window."""
        rows = self._query(
            f'SELECT DISTINCT "{self.key}" FROM read_parquet($files) WHERE event_timestamp BETWEEN $start AND $end',
            start=start,
            end=end,
        )
        return {row[0] for row in rows}

    def _query(self, sql: str, **parameters: datetime) -> list[tuple[Any, ...]]:
        with duckdb.connect(config={"threads": 2}) as connection:
            return connection.execute(
                sql, {"files": [str(file) for file in self.files], **parameters}
            ).fetchall()


def materialize(home: Path, end: datetime) -> dict[str, Materialized]:
    """Bring the online store to what was known at ``end``.

    Each entity's latest row up to ``end`` is put online, if it is not older than its view's TTL at ``end``. A run
    reads what is newer than the last run; it reads the whole TTL again where that would not do: on the first run, if
    ``end`` lies before the last one, or if rows that were read before have changed since. Entities that vanished from
    the source are blanked. Reads go on meanwhile.

    Parameters
    ----------
    home
        ``TESSERA_HOME``, with definitions applied.
    end
        UTC time; in the past for historic logs.

    Returns
    -------
    dict
        View name to what was done. A view whose source comes later in the chain and is not there yet is left out.

    Raises
    ------
    FeatureStoreError
        If ``end`` has no time zone, nothing is applied, or a mart is missing.
    """
    if end.tzinfo is None:
        raise FeatureStoreError(f"materialization needs a time with a time zone, not {end}")
    with writing(home):
        store = open_store(home)
        views = sorted(store.list_feature_views(), key=lambda view: view.name)
        if not views:
            raise FeatureStoreError(f"{home / 'feast'} has no feature views yet: apply the definitions first")
        views = [view for view in views if view.name not in LATER_VIEWS or source_files(view)]
        for view in views:
            require_source(view)
        return {view.name: _materialize_view(home, store, view, end.astimezone(UTC)) for view in views}


def _materialize_view(home: Path, store: FeatureStore, view: Any, end: datetime) -> Materialized:
    source = _Source(require_source(view), view.entity_columns[0].name)
    state_file = materialized_state(home) / f"{view.name}.json"
    keys_file = state_file.with_suffix(".parquet")
    definition = hash_json(
        [str(view.ttl), sorted((f.name, str(f.dtype)) for f in view.features), online_settings(home)]
    )
    last = _last_end(home, state_file, source, definition)
    start = end - view.ttl
    if rebuilt := last is None or last > end:
        # Should this run be killed, the next one must not take the old state for the truth.
        state_file.unlink(missing_ok=True)
    elif last is not None:
        start = max(start, last + _TICK)
    online = set(pq.read_table(keys_file)["key"].to_pylist()) if keys_file.is_file() else set()
    fresh = source.keys(start, end)
    _write_keys(keys_file, online | fresh)
    if fresh:
        with quiet():
            store.materialize(start, end, feature_views=[view.name])
    gone = online - fresh if rebuilt else set()
    if gone:
        _blank(store, view, sorted(gone))
        _write_keys(keys_file, fresh)
    write_json(
        state_file, {"end": end.isoformat(), "definition": definition, "fingerprint": source.fingerprint(end)}
    )
    return Materialized(len(fresh), len(gone), start, end, rebuilt)


def _last_end(home: Path, state_file: Path, source: _Source, definition: str) -> datetime | None:
    """Return where the last run ended, or None if what it left cannot be built upon."""
    online = online_settings(home)
    if not state_file.is_file() or (online["type"] == "sqlite" and not Path(online["path"]).is_file()):
        return None
    state = read_json(state_file)
    last = datetime.fromisoformat(state["end"])
    if state["definition"] != definition or state["fingerprint"] != source.fingerprint(last):
        return None
    return last


def _blank(store: FeatureStore, view: Any, keys: list[str]) -> None:
    """Overwrite entities' values with nothing, as of 1970; Feast offers no way to delete single entities."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    column = view.entity_columns[0].name
    rows = [
        (
            EntityKey(join_keys=[column], entity_values=[Value(string_val=key)]),
            {field.name: Value() for field in view.features},
            _EPOCH,
            None,
        )
        for key in keys
    ]
    store.provider.online_write_batch(store.config, view, rows, None)


def _write_keys(path: Path, keys: set[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    pq.write_table(pa.table({"key": pa.array(sorted(keys), pa.string())}), beside, compression="zstd")
    beside.replace(path)
