"""Feature values into the online store: only what is new, and the same in the end however often it runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ml.artifacts import hash_json, read_json, write_json
from serving.feature_source import FeatureSource
from serving.feature_store import (
    FeatureStoreError,
    materialized_state,
    online_errors,
    online_settings,
    open_store,
    quiet,
    require_source,
    source_files,
    writing,
)
from serving.features import entity_keys
from serving.online_keys import OnlineKeys, PushedKeys

if TYPE_CHECKING:
    from feast import FeatureStore

# Views whose source appears later in the chain; they are passed over until it does.
LATER_VIEWS = frozenset({"item_semantic_id"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
# An entity that nobody is: its time says which run the online store was left by.
_MARK = "__tessera_materialized__"


@dataclass(frozen=True)
class Materialized:
    """What one run did for one view.

    Parameters
    ----------
    rows
        Entities written because their rows are new.
    retired
        Entities that were online and have no row any more.
    start, end
        The window of event times that was read, both inclusive.
    rebuilt
        Whether the whole window was read, not only what is newer than the last run.
    restored
        Entities that were pushed since the last run and hold again what the source says.
    """

    rows: int
    retired: int
    start: datetime
    end: datetime
    rebuilt: bool
    restored: int = 0


def materialize(home: Path, end: datetime) -> dict[str, Materialized]:
    """Bring the online store to what was known at ``end``.

    Each entity's latest row up to ``end`` is put online, if it is not older than its view's TTL at ``end``. A run
    reads what is newer than the last run; it reads the whole TTL again where that would not do: on the first run, if
    ``end`` lies before the last one, if rows that were read before have changed since, or if the online store does
    not hold what the last run left (a Redis that was flushed). Entities that vanished from the source are blanked;
    those that were pushed meanwhile get what the source says. Reads go on meanwhile.

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
        If ``end`` has no time zone, nothing is applied, a mart is missing, or Redis does not answer.
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
        with online_errors():
            return {view.name: _materialize_view(home, store, view, end.astimezone(UTC)) for view in views}


def materialized_end(home: Path, view: str) -> datetime | None:
    """Return the end of the last complete run of a view, or None where there was none."""
    path = materialized_state(home) / f"{view}.json"
    return datetime.fromisoformat(read_json(path)["end"]) if path.is_file() else None


def _materialize_view(home: Path, store: FeatureStore, view: Any, end: datetime) -> Materialized:
    source = FeatureSource.of(home, view)
    state_file = materialized_state(home) / f"{view.name}.json"
    keys, pushed = OnlineKeys(home, view.name), PushedKeys(home, view.name)
    definition = hash_json(
        [str(view.ttl), sorted((f.name, str(f.dtype)) for f in view.features), online_settings(home)]
    )
    state = read_json(state_file) if state_file.is_file() else {}
    last = _last_end(home, store, view, source, state, definition)
    since = end - view.ttl
    if rebuilt := last is None or last > end:
        # Should this run be killed, the next one must not take the old state for the truth.
        state_file.unlink(missing_ok=True)
        start = since
    else:
        assert last is not None
        start = max(since, last + _TICK)
    fresh, strayed = source.keys(start, end), pushed.read()
    keys.add(fresh)
    if fresh:
        with quiet():
            store.materialize(start, end, feature_views=[view.name])
    restored = set() if rebuilt else _restore(store, view, source, strayed - fresh, since, end)
    gone = ((keys.read() | strayed) if rebuilt else strayed) - fresh - restored
    if gone:
        _blank(store, view, sorted(gone))
    if rebuilt:
        keys.replace(fresh)
    _mark(store, view, end)
    parts = source.fingerprints(end, known={} if rebuilt else state["parts"])
    write_json(state_file, {"end": end.isoformat(), "definition": definition, "parts": parts})
    pushed.clear()
    return Materialized(len(fresh), len(gone), start, end, rebuilt, len(restored))


def _last_end(
    home: Path, store: FeatureStore, view: Any, source: FeatureSource, state: dict[str, Any], definition: str
) -> datetime | None:
    """Return where the last run ended, or None if what it left cannot be built upon."""
    online = online_settings(home)
    if online["type"] == "sqlite" and not Path(online["path"]).is_file():
        return None
    if state.get("definition") != definition or "parts" not in state:
        return None
    last = datetime.fromisoformat(state["end"])
    ((marked, _),) = store.provider.online_read(
        store.config, view, entity_keys(view.entity_columns[0].name, [_MARK]), [view.features[0].name]
    )
    # SQLite keeps whole seconds.
    if marked is None or int(marked.timestamp()) != int(last.timestamp()):
        return None
    return last if source.is_unchanged(last, state["parts"]) else None


def _restore(
    store: FeatureStore, view: Any, source: FeatureSource, keys: set[str], start: datetime, end: datetime
) -> set[str]:
    """Write the latest rows of some entities, and return those that have one."""
    if not keys:
        return set()
    columns = [feature.name for feature in view.features]
    rows = source.latest(sorted(keys), columns, start, end).to_pandas(types_mapper=_nullable)
    if len(rows):
        with quiet():
            store.write_to_online_store(view.name, rows)
    return set(rows[source.key])


def _nullable(kind: Any) -> Any:
    """Keep whole numbers whole where some are missing."""
    return pd.Int64Dtype() if str(kind) == "int64" else None


def _blank(store: FeatureStore, view: Any, keys: list[str]) -> None:
    """Overwrite entities' values with nothing, as of 1970; Feast offers no way to delete single entities."""
    _write_nothing(store, view, keys, _EPOCH)


def _mark(store: FeatureStore, view: Any, end: datetime) -> None:
    _write_nothing(store, view, [_MARK], end)


def _write_nothing(store: FeatureStore, view: Any, keys: list[str], time: datetime) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    nothing = {field.name: Value() for field in view.features}
    rows = [(key, nothing, time, None) for key in entity_keys(view.entity_columns[0].name, keys)]
    store.provider.online_write_batch(store.config, view, rows, None)
