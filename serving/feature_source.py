"""A feature view's Parquet files, read without Feast: what is in them, not what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import MANIFEST, is_complete, read_json
from serving.feature_store import require_source

Fingerprint = dict[str, Any]
"""Of one part: ``content`` (hash of the file, or None) and ``rows`` (hash of its rows up to some time)."""


@dataclass(frozen=True)
class FeatureSource:
    """The files that one view reads.

    Parameters
    ----------
    files
        In order of their names.
    key
        Column that names the entity.
    contents
        Name of a file to its content hash, where a manifest states it.
    """

    files: list[Path]
    key: str
    contents: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, home: Path, view: Any) -> FeatureSource:
        """Return the source of a view.

        Raises
        ------
        FeatureStoreError
            If it has no files.
        """
        files = require_source(view)
        folder = files[0].parent
        contents = {}
        if folder.parent == home / "marts" and is_complete(folder.parent):
            inputs = read_json(folder.parent / MANIFEST)["inputs"]
            named = {file.name: f"{folder.name}/{file.stem}" for file in files}
            contents = {name: inputs[part] for name, part in named.items() if part in inputs}
        return cls(files, view.entity_columns[0].name, contents)

    def fingerprints(self, end: datetime, known: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
        """Return what identifies the rows up to ``end``, by part.

        Rows are read only of parts that are not ``known`` yet with the same content, or that reach beyond ``end``.

        Parameters
        ----------
        end
            Rows after it do not count.
        known
            What an earlier call returned.
        """
        found = {}
        for file in self.files:
            content = self.contents.get(file.name)
            before = known.get(file.name, {})
            if content is not None and before.get("content") == content and before.get("whole"):
                found[file.name] = dict(before)
                continue
            found[file.name] = {
                "content": content,
                "rows": self._rows(file, end),
                "whole": (last := _last_time(file)) is not None and last <= end,
            }
        return found

    def is_unchanged(self, end: datetime, known: Mapping[str, Fingerprint]) -> bool:
        """Tell whether the rows up to ``end`` are those of ``known``, which :func:`fingerprints` made for ``end``."""
        now = self.fingerprints(end, known)
        nothing = [0, "None", "None"]
        return all(
            now.get(name, {}).get("rows", nothing) == known.get(name, {}).get("rows", nothing)
            for name in now.keys() | known.keys()
        )

    def keys(self, start: datetime, end: datetime) -> set[str]:
        """Return the entities that have a row in the window, both ends included."""
        rows = self._query(
            f'SELECT DISTINCT "{self.key}" FROM read_parquet($files) WHERE event_timestamp BETWEEN $start AND $end',
            start=start,
            end=end,
        ).to_pydict()[self.key]
        return set(rows)

    def newest(self) -> datetime | None:
        """Return the time of the newest row, None without rows."""
        found = self._query("SELECT max(event_timestamp) AS newest FROM read_parquet($files)")["newest"]
        newest: datetime | None = found.to_pylist()[0]
        return newest

    def sample(self, n: int, seed: int, start: datetime, end: datetime) -> list[str]:
        """Return up to ``n`` entities of the window, chosen by ``seed``."""
        return self._query(
            f'SELECT DISTINCT "{self.key}" AS key FROM read_parquet($files) '
            "WHERE event_timestamp BETWEEN $start AND $end "
            "ORDER BY hash(key || $seed), key LIMIT $n",
            start=start,
            end=end,
            seed=f"#{seed}",
            n=n,
        )["key"].to_pylist()

    def latest(self, keys: Sequence[str], columns: Sequence[str], start: datetime, end: datetime) -> pa.Table:
        """Return the latest row of each of some entities in the window: key, ``columns`` and both times."""
        chosen = ", ".join(
            f'"{column}"' for column in [self.key, *columns, "event_timestamp", "created_timestamp"]
        )
        return self._query(
            f"SELECT {chosen} FROM read_parquet($files) "
            f'WHERE "{self.key}" IN (SELECT unnest($keys)) AND event_timestamp BETWEEN $start AND $end '
            f'QUALIFY row_number() OVER (PARTITION BY "{self.key}" ORDER BY event_timestamp DESC, '
            "created_timestamp DESC NULLS LAST, file_index DESC, file_row_number DESC) = 1",
            keys=list(keys),
            start=start,
            end=end,
        )

    def _rows(self, file: Path, end: datetime) -> list[Any]:
        """Return count and hashes of a part's set of rows up to ``end``, whatever their order."""
        found = self._query(
            "SELECT count(*) AS n, bit_xor(hash(t)) AS x, sum(hash(t) % 1000000007) AS s "
            "FROM (SELECT * FROM read_parquet($files) WHERE event_timestamp <= $end) t",
            files=[file],
            end=end,
        ).to_pylist()[0]
        return [found["n"], str(found["x"]), str(found["s"])]

    def _query(self, sql: str, files: Sequence[Path] | None = None, **parameters: Any) -> pa.Table:
        paths = [str(file) for file in files or self.files]
        with duckdb.connect(config={"threads": 2}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql, {"files": paths, **parameters}).to_arrow_table()


def _last_time(file: Path) -> datetime | None:
    """Return the latest event time that a file's statistics tell of, or None without rows or statistics."""
    metadata = pq.read_metadata(file)
    place = metadata.schema.names.index("event_timestamp")
    times = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_min_max:
            return None
        times.append(statistics.max)
    return max(times).astimezone(UTC) if times else None
