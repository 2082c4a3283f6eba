"""The rows that break a promise, kept beside the verdict that names them.

``failed/SUITE/BATCH/RULE.parquet`` below the data docs holds all columns of the rows that break one rule, as they
stood in the table, up to a cap. The same batch checked again replaces the folder, or removes it where all is well.
The files may hold ids of users; nothing else that the checks leave does.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml.artifacts import publish

FOLDER = "failed"
MAX_FAILED_ROWS = 1_000
_TOTAL = b"tessera.rows"
_RULE = b"tessera.rule"


def file_name(rule: str) -> str:
    """Return the name of a rule's file: its words, in letters and digits that any file system takes."""
    return re.sub(r"[^a-z0-9]+", "_", rule.lower()).strip("_")[:100]


def keep_failed_rows(docs: Path, suite: str, batch: str, rows: Mapping[str, tuple[pa.Table, int]]) -> None:
    """Replace the failing rows of a batch.

    Parameters
    ----------
    docs
        Folder of the data docs.
    suite, batch
        What was checked.
    rows
        Rule to its failing rows, capped, and how many there were; empty where nothing failed.
    """
    target = docs / FOLDER / suite / batch
    if rows:
        with publish(target) as folder:
            for rule, (table, total) in rows.items():
                told = {_RULE: rule.encode(), _TOTAL: str(total).encode()}
                metadata = (table.schema.metadata or {}) | told
                pq.write_table(table.replace_schema_metadata(metadata), folder / f"{file_name(rule)}.parquet")
    elif target.is_dir():
        doomed = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{batch}."))
        target.rename(doomed / batch)
        shutil.rmtree(doomed, ignore_errors=True)


def failed_rows(docs: Path, suite: str, batch: str = "latest") -> dict[str, pa.Table]:
    """Return the rows that broke promises, by rule in its own words; empty where none did.

    Parameters
    ----------
    docs
        Folder of the data docs, for example ``TESSERA_HOME/quality``.
    suite, batch
        As in the list of verdicts.
    """
    found = {}
    for path in sorted((docs / FOLDER / suite / batch).glob("*.parquet")):
        table = pq.read_table(path)
        rule = (table.schema.metadata or {}).get(_RULE, path.stem.encode()).decode()
        found[rule] = table
    return found


def failed_count(table: pa.Table) -> int:
    """Return how many rows broke the rule, of which ``table`` holds the first."""
    return int((table.schema.metadata or {}).get(_TOTAL, str(table.num_rows).encode()))
