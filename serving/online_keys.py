"""Which entities are online, and which of them were pushed since the last night: Feast cannot list either."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from serving.feature_store import materialized_state


class OnlineKeys:
    """The entities of a view that were ever put online and not taken off; a run adds what it writes.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    view
        Name of the view.
    """

    def __init__(self, home: Path, view: str) -> None:
        self._folder = materialized_state(home) / f"{view}.keys"

    def add(self, keys: Collection[str]) -> None:
        """Remember entities, before they are written; known ones do no harm."""
        if keys:
            self._write(keys)

    def read(self) -> set[str]:
        """Return all of them."""
        if not any(self._folder.glob("*.parquet")):
            return set()
        return set(ds.dataset(sorted(map(str, self._folder.glob("*.parquet")))).to_table()["key"].to_pylist())

    def sample(self, n: int, seed: int) -> list[str]:
        """Return up to ``n`` of them, chosen by ``seed``."""
        keys = sorted(self.read())
        return Random(seed).sample(keys, min(n, len(keys)))

    def replace(self, keys: Collection[str]) -> None:
        """Forget all but ``keys``."""
        old = list(self._folder.glob("*.parquet"))
        self._write(keys)
        for path in old:
            path.unlink()

    def _write(self, keys: Collection[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.stem) for path in self._folder.glob("*.parquet")), default=0)
        path = self._folder / f"{number:08}.parquet"
        beside = path.with_suffix(".part")
        pq.write_table(pa.table({"key": pa.array(sorted(keys), pa.string())}), beside, compression="zstd")
        beside.replace(path)


class PushedKeys:
    """The entities of a view that were pushed since the last run, so that they may differ from the source.

    Parameters
    ----------
    home
        ``TESSERA_HOME``.
    view
        Name of the view.
    """

    def __init__(self, home: Path, view: str) -> None:
        self._path = materialized_state(home) / f"{view}.pushed"

    def add(self, keys: Collection[str]) -> None:
        """Remember entities, on disk, before they are pushed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(key) + "\n" for key in sorted(keys))
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> set[str]:
        """Return all of them."""
        if not self._path.is_file():
            return set()
        lines = self._path.read_text(encoding="utf-8").split("\n")
        # The last line is empty, or was cut off before its push began.
        return {json.loads(line) for line in lines[:-1]}

    def clear(self) -> None:
        """Forget all of them."""
        self._path.unlink(missing_ok=True)
