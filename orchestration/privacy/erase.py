"""The steps of an erasure, each of which can be done again. What calls them is ``defs/privacy``.

Who is to be erased stands in ``TESSERA_HOME/erasing.json`` from the request to the end, so that an erasure that was
killed knows what to go on with; then the file goes, and what stays are salted digests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ml.artifacts import (
    MANIFEST,
    ArtifactError,
    is_complete,
    publish,
    read_json,
    read_manifest,
    write_json,
    write_manifest,
)
from ml.snapshot import drop_users
from orchestration import home as homes
from orchestration.ingest import erased
from orchestration.ingest.errors import IngestError
from orchestration.ingest.options import options_of
from orchestration.privacy import search
from orchestration.privacy.tables import erase_days, erase_rows
from orchestration.settings import Settings
from serving.feature_store import apply_definitions
from serving.forget import forget_users
from serving.materialize import materialize

PENDING = "erasing.json"
AUDIT = "erasures.jsonl"
_LISTS = "recommendations.parquet"
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}")  # as ml.artifacts.write_bytes names them


class PrivacyError(ArtifactError):
    """Somebody cannot be erased, or was not wholly; the message is one line."""


def request(settings: Settings, users: Sequence[str]) -> None:
    """Put users on the list of the erased, and note that the work is to be done.

    From now on no ingestion takes them in. Users of an erasure that was begun and not finished are done with these.

    Parameters
    ----------
    settings
        The home. Where it hashes ids with a secret, what they become is erased as well as what is given.
    users
        Ids as the logs have them, or as the lake does.

    Raises
    ------
    PrivacyError
        If nobody is named, and no earlier erasure waits to be finished.
    """
    path = settings.home / PENDING
    waiting: dict[str, bool] = read_json(path)["users"] if path.is_file() else {}
    if not users and not waiting:
        raise PrivacyError("name the users to erase: none was named, and no erasure waits to be finished")
    users = [*users, *_hashed(settings, users)]
    listed = erased.add(settings.home / erased.ERASED, [*users, *waiting])
    if fresh := [user for user in dict.fromkeys(users) if user not in waiting]:
        _tell(settings.home, "requested", sorted(listed.digest(user) for user in fresh))
        write_json(path, {"users": waiting | dict.fromkeys(fresh, False)})


def pending(settings: Settings) -> list[str]:
    """Return who is being erased.

    Raises
    ------
    PrivacyError
        If nobody is.
    """
    path = settings.home / PENDING
    if not path.is_file():
        raise PrivacyError(
            f"{path} does not exist: request an erasure first (python -m orchestration erase USER ...)"
        )
    return sorted(read_json(path)["users"])


def erase_from_lake(settings: Settings, daily: bool) -> dict[str, int | bool]:
    """Take the users out of lake and quarantine.

    Returns
    -------
    dict
        ``rows`` that went, and whether the users were ``known``: if not, nothing below the home is about them.
    """
    homes.sweep(settings.home)
    _remove_leftovers(settings)
    users = pending(settings)
    known = {user for user, found in read_json(settings.home / PENDING)["users"].items() if found}
    known |= _known_among(settings, set(users) - known)
    # Noted before the first row goes, or an erasure that was killed would find nobody.
    write_json(settings.home / PENDING, {"users": {user: user in known for user in users}})
    rows = erase_days(settings.lake, settings.quarantine, users, daily) if known else 0
    return {"rows": rows, "known": bool(known)}


def is_known(settings: Settings) -> bool:
    """Tell whether any of the users was found when the erasure began."""
    return any(read_json(settings.home / PENDING)["users"].values())


def forget_warehouse(settings: Settings) -> None:
    """Remove the warehouse, to be built anew: deleted rows would stay readable in free blocks of its file."""
    (settings.warehouse.with_suffix(".loaded.json")).unlink(missing_ok=True)
    for path in settings.home.glob(f"{settings.warehouse.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def erase_online(settings: Settings) -> int:
    """Take the users out of the online store, and bring it to what the marts hold; return how many were online."""
    apply_definitions(settings.home)  # a home that was moved must not be read where it was
    online = forget_users(settings.home, pending(settings))
    materialize(settings.home, settings.now())
    return online


def erase_derived(settings: Settings) -> dict[str, list[str]]:
    """Take the users out of everything that was made from the marts, old versions among them, and out of logs.

    Returns
    -------
    dict
        Files that were ``rewritten``, and files that were ``removed``.
    """
    users = pending(settings)
    done: dict[str, list[str]] = {"rewritten": [], "removed": []}
    for folder in sorted(settings.snapshots.glob("*/")):
        # One whose manifest is damaged is not passed over: its histories hold what the users did.
        if (folder / MANIFEST).is_file() and search.parquet_concerns(folder / "users.parquet", users):
            drop_users(folder, users)
            done["rewritten"].append(_name(settings, folder))
    for folder in sorted(settings.recommendations.glob("*/")):
        if is_complete(folder) and search.parquet_concerns(folder / _LISTS, users):
            _shorten_lists(folder, users)
            done["rewritten"].append(_name(settings, folder))
    for path in list(search.files_below(settings.home, _not_derived(settings))):
        if path.suffix == ".parquet":
            if erase_rows(path, users):
                done["rewritten"].append(_name(settings, path))
        elif _may_go(settings, path) and search.mentions(path, users):
            path.unlink()
            done["removed"].append(_name(settings, path))
    return done


def finish(settings: Settings) -> dict[str, int | bool]:
    """Look for the users in every file once more, note the end, and forget who they were.

    Returns
    -------
    dict
        Whether the users were ``known`` to this home, how many ``landing_files`` still hold them (these belong to
        whoever put them there), and how many ``models`` learned from them.

    Raises
    ------
    PrivacyError
        If any other file below the home holds one of them.
    """
    users = pending(settings)
    left = [
        _name(settings, path)
        for path in search.files_below(settings.home, [settings.landing, settings.home / PENDING])
        if search.held_by(path, users)
    ]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise PrivacyError(f"these still hold a user that is to be erased: {', '.join(left[:3])}{more}")
    landing = search.files_below(settings.landing) if settings.landing.is_dir() else ()
    known = is_known(settings)
    counts = {
        "landing_files": sum(search.landed_mentions(path, users) for path in landing),
        "models": len(list(settings.models.glob("*/*/manifest.json"))) if known else 0,
    }
    listed = erased.load(settings.home / erased.ERASED)
    if listed is None or any(user not in listed for user in users):
        raise IngestError(
            f"{settings.home / erased.ERASED} lacks users that are being erased: request it again"
        )
    _tell(settings.home, "finished", sorted(listed.digest(user) for user in users), **counts)
    (settings.home / PENDING).unlink()
    return {"known": known, **counts}


def _hashed(settings: Settings, users: Sequence[str]) -> list[str]:
    """Return the ids of users in the lake, where ingestion hashes them."""
    secret = options_of(settings).secret
    return [] if secret is None else [secret.hashed(user) for user in users]


def _known_among(settings: Settings, users: set[str]) -> set[str]:
    """Return the users whom any file below the home holds, landing files aside."""
    known: set[str] = set()
    for path in search.files_below(settings.home, [settings.landing, settings.home / PENDING]):
        if not (left := users - known):
            break
        if search.held_by(path, left):
            known |= {user for user in left if search.held_by(path, [user])}
    return known


def _shorten_lists(folder: Path, users: Collection[str]) -> None:
    manifest = read_manifest(folder)
    with publish(folder) as staging:
        for path in folder.iterdir():
            shutil.copy2(path, staging / path.name)
        before = pq.read_table(staging / _LISTS, columns=["user_id"])["user_id"]
        rows = len(before) - erase_rows(staging / _LISTS, users)
        gone = len(set(before.unique().to_pylist()) & set(users))
        metrics = {"rows": rows, "users": manifest.metrics["users"] - gone}
        write_manifest(staging, manifest.model_copy(update={"metrics": manifest.metrics | metrics}))


def _not_derived(settings: Settings) -> list[Path]:
    """Return what the other steps take care of."""
    home = settings.home
    return [
        settings.landing,
        settings.lake,
        settings.quarantine,
        settings.marts,
        home / "feast",
        home / PENDING,
    ]


def _may_go(settings: Settings, path: Path) -> bool:
    """Tell whether a file is only there to be looked at: logs, and the pages of quality checks."""
    logs = path.suffix in (".log", ".out", ".err") or "compute_logs" in path.parts
    return logs or path.is_relative_to(settings.quality)


def _remove_leftovers(settings: Settings) -> None:
    """Remove what killed writers of single files left beside them, in whatever folder."""
    for path in search.files_below(settings.home, [settings.landing]):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink()


def _name(settings: Settings, path: Path) -> str:
    return path.relative_to(settings.home).as_posix()


def _tell(home: Path, what: str, digests: list[str], **more: Any) -> None:
    """Append a line to the record of erasures, which names nobody."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "erasure": what,
        "digests": digests,
    } | more
    handle = os.open(home / AUDIT, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)
