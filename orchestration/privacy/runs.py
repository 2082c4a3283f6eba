"""Runs that name a user, out of Dagster's own databases."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Collection
from itertools import chain
from pathlib import Path

import dagster as dg

from orchestration.privacy.search import as_word, holds_bytes, is_distinctive

_WAIT_S = 60


def forget_runs(dagster_home: Path, users: Collection[str], but: str, delete: Callable[[str], None]) -> int:
    """Delete the runs whose events name a user, and write the databases that did anew.

    Parameters
    ----------
    dagster_home
        Folder of Dagster's SQLite databases.
    users
        Ids; those that are not distinctive are passed over.
    but
        The run that is at work.
    delete
        Deletes a run by its id.

    Returns
    -------
    int
        Runs deleted.
    """
    known = [user for user in users if is_distinctive(user)]
    forgotten = 0
    databases = sorted(dagster_home.rglob("*.db"))
    for path in databases if known else ():
        for run in _runs_that_mention(path, known) - {but}:
            delete(run)
            forgotten += 1
        if path.is_file() and holds_bytes(path, known):
            with contextlib.closing(
                sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            ) as connection:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return forgotten


def forget_stored_runs(instance: dg.DagsterInstance, users: Collection[str], but: str) -> int:
    """Delete the runs that name a user from a storage that is no file of the home, such as Postgres.

    Parameters
    ----------
    instance
        Dagster's.
    users
        Ids; those that are not distinctive are passed over.
    but
        The run that is at work.

    Returns
    -------
    int
        Runs deleted.
    """
    known = [user for user in users if is_distinctive(user)]
    if not known:
        return 0
    pattern = re.compile(as_word(known))
    forgotten = 0
    for run in instance.get_runs():
        told = chain([run], (entry for entry in instance.all_logs(run.run_id)))
        if run.run_id != but and any(pattern.search(str(entry)) for entry in told):
            instance.delete_run(run.run_id)
            forgotten += 1
    return forgotten


def _runs_that_mention(path: Path, users: list[str]) -> set[str]:
    """Return the runs of a database of events or of runs whose text names a user."""
    pattern = re.compile(as_word(users))
    found: set[str] = set()
    with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_S)) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        for table, column in (("event_logs", "event"), ("runs", "run_body")):
            if table in tables:
                rows = connection.execute(f"SELECT run_id, {column} FROM {table}")
                found |= {run for run, text in rows if run is not None and pattern.search(text or "")}
    return found
