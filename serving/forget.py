"""Users out of the online store, so that not even a free page of its file holds them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml.artifacts import write_text
from serving.feature_store import FeatureStoreError, materialized_state, online_settings, open_store, writing
from serving.features import entity_keys
from serving.online_keys import PushedKeys

if TYPE_CHECKING:
    from feast import FeatureStore

USER_KEY = "user_id"
_WAIT_S = 60


def forget_users(home: Path, user_ids: Collection[str]) -> int:
    """Delete every value of users from the online store, and their names from what is known to be online.

    Reads go on meanwhile. To be called once the marts hold these users no more; else the next materialization brings
    them back.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    user_ids
        Ids as they stand in the marts.

    Returns
    -------
    int
        Users that were online.

    Raises
    ------
    FeatureStoreError
        If the store's file cannot be cleared because somebody reads from it without end.
    """
    online = online_settings(home)
    with writing(home):
        names = _forget_names(home, user_ids)
        if online["type"] == "sqlite" and not Path(online["path"]).is_file():
            return 0
        store = open_store(home)
        if online["type"] == "sqlite":
            return max(names, _delete_rows(Path(online["path"]), _serialized(store, user_ids)))
        return max(names, _delete_keys(store, user_ids))


def _forget_names(home: Path, user_ids: Collection[str]) -> int:
    """Take users off the lists of what is online; else they would be blanked, which writes their names once more."""
    most = 0
    for path in sorted(materialized_state(home).rglob("*")):
        if path.suffix == ".part":
            path.unlink()
        elif path.suffix == ".parquet":
            keys = pq.read_table(path)
            gone = pc.is_in(keys["key"], value_set=pa.array(sorted(user_ids), pa.string()))
            if count := pc.sum(gone, min_count=0).as_py():
                most = max(most, count)
                beside = path.with_suffix(".part")
                pq.write_table(keys.filter(pc.invert(gone)), beside, compression="zstd")
                beside.replace(path)
        elif path.suffix == ".pushed":
            view = PushedKeys(home, path.stem)
            if pushed := view.read() & set(user_ids):
                most = max(most, len(pushed))
                write_text(path, "".join(json.dumps(key) + "\n" for key in sorted(view.read() - pushed)))
    return most


def _serialized(store: FeatureStore, user_ids: Collection[str]) -> list[bytes]:
    from feast.infra.key_encoding_utils import serialize_entity_key

    version = store.config.entity_key_serialization_version
    return [
        serialize_entity_key(key, entity_key_serialization_version=version)
        for key in entity_keys(USER_KEY, sorted(user_ids))
    ]


def _delete_rows(path: Path, keys: list[bytes]) -> int:
    """Delete the rows of keys from every table, then write the file anew and empty its log."""
    most = 0
    with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        columns = {
            name: [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")')] for name in tables
        }
        connection.execute("PRAGMA secure_delete = ON")
        for name in tables:
            if "entity_key" not in columns[name]:
                continue
            found = [
                connection.execute(
                    f'SELECT count(*) > 0 FROM "{name}" WHERE entity_key = ?', [key]
                ).fetchone()[0]
                for key in keys
            ]
            connection.executemany(f'DELETE FROM "{name}" WHERE entity_key = ?', [[key] for key in keys])
            most = max(most, sum(found))
        connection.execute("VACUUM")
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise FeatureStoreError(f"{path}: somebody reads from it without end, so its log cannot be emptied")
    return most


def _delete_keys(store: FeatureStore, user_ids: Collection[str]) -> int:
    """Delete the hashes of users from Redis."""
    from feast.infra.online_stores.helpers import _redis_key

    online = store.provider.online_store
    client = online._get_client(store.config.online_store)
    version = store.config.entity_key_serialization_version
    names = [
        _redis_key(store.project, key, entity_key_serialization_version=version)
        for key in entity_keys(USER_KEY, sorted(user_ids))
    ]
    return sum(int(client.delete(name)) for name in names)
