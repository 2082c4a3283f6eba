"""A Feast offline store whose point-in-time join is DuckDB's ASOF join.

Feast's own DuckDB store joins each row with everything that was known before it, wide columns included, and then keeps
the latest. Here narrow columns find the winners first (keys, times, and where the row stands), and the wide columns are
kept for the winners only.

What is returned is what Feast's store returns: of the rows with ``event_timestamp`` (and, with
``filter_by_created_timestamp``, ``created_timestamp``) not later than the asked time, the one with the latest
``event_timestamp``, then the latest ``created_timestamp``; nothing if it is older than the view's TTL (a row exactly as
old as the TTL counts). Two differences: rows come back in the order asked, and of rows with the same key and times the
last one wins, by file name and place in the file, where Feast takes any.

Imported by Feast, which is told the class by its full name in ``feature_store.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import StrictStr

from serving.asof_join import STANDS, Read, connect, fetch, identifiers, join, quoted, while_unchanged


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Configuration of :class:`AsofOfflineStore`.

    Parameters
    ----------
    threads
        Threads that read and join.
    memory
        What DuckDB may hold before it spills, as DuckDB writes sizes.
    """

    type: StrictStr = "serving.point_in_time.AsofOfflineStore"
    threads: int = 2
    memory: StrictStr = "2GB"


class AsofOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB store with an ASOF join and filters that Parquet files can be skipped by.

    What this store does not know (sources that are not local Parquet files, views without entities, transformations in
    substrait) is left to Feast's.
    """

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Return the job that joins features to ``entity_df``; see the module for what it returns."""
        transformations = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        known = isinstance(entity_df, pd.DataFrame) and all(
            _parquet_pattern(view.batch_source) and _join_keys(view).keys() for view in feature_views
        )
        if not known or any(view.mode == "substrait" for view in transformations):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        assert isinstance(entity_df, pd.DataFrame)
        rows, time = _utc(entity_df)
        reads = [
            _read_of(view, feature_refs, full_feature_names, filter_by_created_timestamp)
            for view in feature_views
        ]
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in rows.columns if name != time],
            min_event_timestamp=rows[time].min().to_pydatetime(),
            max_event_timestamp=rows[time].max().to_pydatetime(),
        )
        return _AsofJob(
            config, lambda: join(config, rows, time, reads), transformations, full_feature_names, metadata
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return the job that finds each key's latest row of the window, both ends included.

        Feast's store casts the time before it compares, so that it reads every row of every file.
        """
        pattern = _parquet_pattern(data_source)
        if pattern is None:
            return DuckDBOfflineStore.pull_latest_from_table_or_query(
                config,
                data_source,
                join_key_columns,
                feature_name_columns,
                timestamp_field,
                created_timestamp_column,
                start_date,
                end_date,
            )
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        order = [timestamp_field]
        if created_timestamp_column:
            columns.append(created_timestamp_column)
            order.append(created_timestamp_column)

        def ask(connection: duckdb.DuckDBPyConnection, files: list[str]) -> pa.Table:
            newest = ", ".join(f"{quoted(name)} DESC NULLS LAST" for name in order)
            won = connection.execute(
                f"SELECT {STANDS} AS stands FROM read_parquet($files) "
                f"WHERE {quoted(timestamp_field)} BETWEEN $start AND $end QUALIFY row_number() OVER ("
                f"PARTITION BY {identifiers(join_key_columns)} ORDER BY {newest}, stands DESC) = 1",
                {"files": files, "start": start_date.astimezone(UTC), "end": end_date.astimezone(UTC)},
            ).fetchnumpy()
            return fetch(config, files, np.sort(won["stands"]), columns)

        def latest() -> pa.Table:
            with connect(config) as connection:
                return while_unchanged(pattern, lambda files: ask(connection, files))

        return _AsofJob(config, latest, [], False, None)


class _AsofJob(IbisRetrievalJob):
    """A retrieval that runs when its result is asked for."""

    def __init__(
        self,
        config: Any,
        run: Callable[[], pa.Table],
        transformations: list[Any],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
    ) -> None:
        store = config.offline_store
        super().__init__(
            None,
            transformations,
            full_feature_names,
            metadata,
            _write_data_source,
            store.staging_location,
            store.staging_location_endpoint_override,
            str(config.repo_path),
        )
        self._run = run

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        self.table = ibis.memtable(self._run())
        super().persist(storage, allow_overwrite, timeout)

    def to_remote_storage(self) -> list[str]:
        self.table = ibis.memtable(self._run())
        remote: list[str] = super().to_remote_storage()
        return remote


def _read_of(view: Any, refs: list[str], full_names: bool, by_created: bool) -> Read:
    """Return what is read of a view for the features asked."""
    source = view.batch_source
    name = view.projection.name_to_use()
    shown = view.projection.name_alias or view.name
    features = [ref.split(":")[1] for ref in refs if ref.startswith(f"{name}:")]
    stored = {new: old for old, new in source.field_mapping.items()}
    pattern = _parquet_pattern(source)
    assert pattern is not None
    return Read(
        pattern=pattern,
        keys={stored.get(key, key): asked for key, asked in _join_keys(view).items()},
        time=stored.get(source.timestamp_field, source.timestamp_field),
        created=source.created_timestamp_column or None,
        visible=by_created and bool(source.created_timestamp_column),
        columns={
            stored.get(feature, feature): f"{shown}__{feature}" if full_names else feature
            for feature in features
        },
        ttl=view.ttl or None,
    )


def _parquet_pattern(source: Any) -> str | None:
    """Return the local Parquet files that a source reads, or None for another kind of source."""
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        return None
    path = str(source.path)
    return path if path.endswith(".parquet") and "://" not in path else None


def _join_keys(view: Any) -> dict[str, str]:
    keys: dict[str, str] = view.projection.join_key_map or {e.name: e.name for e in view.entity_columns}
    return keys


def _utc(entity_df: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows asked for with their times in UTC, and the name of that column."""
    time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
    return entity_df.assign(**{time: pd.to_datetime(entity_df[time], utc=True)}), time
