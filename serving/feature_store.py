"""The feature store: define, materialize, and join training rows point in time.

All of Feast that Tessera uses goes through here. Feast takes four seconds to import, so it is imported in the functions.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from ml.artifacts import consistently
from ml.files import alone

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

REDIS_SWITCH = "TESSERA_REDIS"
_REDIS_TIMEOUT_S = 30


class FeatureStoreError(Exception):
    """The feature store cannot do what was asked; the message is one line that names the cause."""


@dataclass(frozen=True)
class ApplyReport:
    """What :func:`apply_definitions` registered and removed, by name."""

    entities: list[str]
    views: list[str]
    services: list[str]
    removed: list[str]


def open_store(home: Path) -> FeatureStore:
    """Open the feature store below ``home``.

    Parameters
    ----------
    home
        ``TESSERA_HOME``. The environment variable ``TESSERA_REDIS=host:port`` puts the online store into Redis.

    Raises
    ------
    FeatureStoreError
        If the configuration cannot be used.
    """
    from feast import FeatureStore, RepoConfig

    logging.getLogger("feast.repo_config").addFilter(_concerns_us)
    try:
        config = RepoConfig(repo_path=home.absolute(), **_settings(home))
        # Feast imports the online store's client when the configuration is first used.
        _ = config.online_store
    except Exception as error:
        if REDIS_SWITCH in os.environ:
            raise FeatureStoreError(
                f"{REDIS_SWITCH} is set, but Redis cannot be used (is feast[redis] installed?): {_one_line(error)}"
            ) from error
        raise FeatureStoreError(f"feature_repo/feature_store.yaml: {_one_line(error)}") from error
    return FeatureStore(config=config)


def apply_definitions(home: Path) -> ApplyReport:
    """Register the definitions of ``feature_repo`` and remove what is no longer among them.

    Parameters
    ----------
    home
        ``TESSERA_HOME``; sources point below it.

    Returns
    -------
    ApplyReport
        Names that are registered now, and names that were removed.
    """
    from feast import Entity, FeatureService, FeatureView

    from feature_repo.services import definitions

    objects = definitions(home.absolute())
    names = {
        kind: sorted(o.name for o in objects if isinstance(o, kind))
        for kind in (Entity, FeatureView, FeatureService)
    }
    with writing(home):
        store = open_store(home)
        _prepare_sqlite(home, store)
        known = [*store.list_feature_services(), *store.list_feature_views(), *store.list_entities()]
        gone = [o for o in known if o.name not in names[_kind(o)]]
        with quiet(), online_errors():
            store.apply(objects, objects_to_delete=gone, partial=False)
        # For Feast's own commands: `feast --chdir TESSERA_HOME/feast serve`.
        resolved = home / "feast" / "feature_store.yaml"
        resolved.touch(mode=0o600)
        resolved.write_text(yaml.safe_dump(_settings(home)), encoding="utf-8")
    return ApplyReport(
        entities=names[Entity],
        views=names[FeatureView],
        services=names[FeatureService],
        removed=sorted(o.name for o in gone),
    )


def training_features(home: Path, entity_df: pd.DataFrame, service: str = "ranker_v1") -> pd.DataFrame:
    """Join to each row the features that were known at its time, as :func:`training_table`, in pandas.

    Returns
    -------
    pandas.DataFrame
        The rows in the order given and with their index, with columns named ``VIEW__FEATURE``.
    """
    import pandas as pd

    joined = training_table(home, entity_df, service).drop_columns(entity_df.columns.tolist()).to_pandas()
    joined.index = entity_df.index
    return pd.concat([entity_df, joined], axis=1)


def training_table(home: Path, entity_df: pd.DataFrame, service: str = "ranker_v1") -> pa.Table:
    """Join to each row the features that were known at its time.

    A value is used if it had happened *and had been written* by then, and is not older than its view's TTL.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    entity_df
        Rows with ``user_id``, ``item_id`` and ``event_timestamp`` (with a time zone); more columns are kept.
    service
        Name of a feature service.

    Returns
    -------
    pyarrow.Table
        The rows in the order given, with columns named ``VIEW__FEATURE``; null where nothing was known.

    Raises
    ------
    FeatureStoreError
        If the service is unknown, a mart is missing, there is no row, or times have no time zone.
    """
    from feast.errors import FeatureServiceNotFoundException

    if entity_df.empty:
        raise FeatureStoreError("entity_df has no rows")
    if getattr(entity_df["event_timestamp"].dt, "tz", None) is None:
        raise FeatureStoreError("entity_df.event_timestamp has no time zone")
    store = open_store(home)
    try:
        features = store.get_feature_service(service)
    except FeatureServiceNotFoundException:
        known = ", ".join(sorted(s.name for s in store.list_feature_services())) or "none applied"
        raise FeatureStoreError(f"feature service {service!r} does not exist; there are: {known}") from None
    for projection in features.feature_view_projections:
        require_source(store.get_feature_view(projection.name))

    def join() -> pa.Table:
        return store.get_historical_features(
            entity_df.reset_index(drop=True),
            features,
            full_feature_names=True,
            filter_by_created_timestamp=True,
        ).to_arrow()

    with quiet():
        # Many parts are opened one after the other, and a night may publish others meanwhile.
        return consistently(home / "marts", join)


def source_files(view: Any) -> list[Path]:
    """Return the Parquet files that a feature view reads, in order of their names; none where it has no source yet."""
    path = Path(view.batch_source.path)
    return sorted(path.parent.glob(path.name))


def require_source(view: Any) -> list[Path]:
    """Return the Parquet files that a feature view reads.

    Raises
    ------
    FeatureStoreError
        If there are none.
    """
    files = source_files(view)
    if not files:
        raise FeatureStoreError(f"{view.batch_source.path} does not exist: feature view {view.name} reads it")
    return files


def writing(home: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the feature store's one place for a writer; wait until it is free.

    The registry is a file that is rewritten whole, so that two writers would lose each other's changes.
    """
    return alone(home / "feast" / ".writer")


@contextlib.contextmanager
def online_errors() -> Iterator[None]:
    """Turn what Redis complains of into one line.

    Raises
    ------
    FeatureStoreError
        If Redis holds the online store and does not answer.
    """
    try:
        yield
    except Exception as error:
        # Its client is optional, so its exceptions cannot be named.
        if type(error).__module__.partition(".")[0] != "redis":
            raise
        raise FeatureStoreError(f"the Redis of {REDIS_SWITCH} cannot be used: {_one_line(error)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's progress prints and the deprecation warnings of its own dependencies out of the logs."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def materialized_state(home: Path) -> Path:
    """Return the folder that records what is online."""
    return home / "feast" / "materialized"


def online_settings(home: Path) -> dict[str, Any]:
    """Return the configuration of the online store."""
    online: dict[str, Any] = _settings(home)["online_store"]
    return online


def online_file(home: Path) -> Path | None:
    """Return the file of the online store; None where Redis holds it."""
    online = online_settings(home)
    return Path(online["path"]) if online["type"] == "sqlite" else None


def require_online_file(path: Path) -> tuple[int, int]:
    """Return what tells a file of the online store from another one of its name.

    Raises
    ------
    FeatureStoreError
        If there is none: SQLite would make an empty one.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise FeatureStoreError(f"{path} is gone: a nightly run makes it again") from None
    return stat.st_dev, stat.st_ino


def _settings(home: Path) -> dict[str, Any]:
    import feature_repo

    path = Path(feature_repo.__file__).with_name("feature_store.yaml")
    text = Template(path.read_text(encoding="utf-8")).substitute(
        {**os.environ, "TESSERA_HOME": str(home.absolute())}
    )
    # The safe loader, in C where PyYAML was built with it: the other takes 5 ms, and a service reads this as it answers.
    settings: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if redis := os.environ.get(REDIS_SWITCH):
        if "socket_timeout=" not in redis:
            # Its client waits for ever for a host that vanished, and with it the thread that looks a user up.
            redis += f",socket_timeout={_REDIS_TIMEOUT_S}"
        # Redis would pass over a row that is not newer than what it holds, and so over a corrected past. There is one writer.
        settings["online_store"] = {"type": "redis", "connection_string": redis, "skip_dedup": True}
    for name, variable in (("memory", "TESSERA_DUCKDB_MEMORY"), ("threads", "TESSERA_DUCKDB_THREADS")):
        if value := os.environ.get(variable):
            settings["offline_store"][name] = value
    return settings


def _prepare_sqlite(home: Path, store: FeatureStore) -> None:
    """Let SQLite serve readers while a writer commits, and start from nothing where its file is new."""
    if store.config.online_store.type != "sqlite":
        return
    path = Path(store.config.online_store.path)
    if not path.is_file():
        shutil.rmtree(materialized_state(home), ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # The setting stays with the file.
        connection.execute("PRAGMA journal_mode=WAL")


def _concerns_us(record: logging.LogRecord) -> bool:
    """Pass over a warning that the switch is for SQL registries only: a file registry needs it as much."""
    return "serve_features_while_materializing" not in record.getMessage()


def _kind(registered: Any) -> type:
    from feast import Entity, FeatureService, FeatureView

    return next(kind for kind in (Entity, FeatureView, FeatureService) if isinstance(registered, kind))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
