"""Artefacts on disk: content hashes, birth certificates, and publication that is atomic.

Whatever Tessera makes is a folder with a ``manifest.json`` written last, so that its presence means complete.
A folder of versions names its live one in a ``CURRENT`` file.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

MANIFEST = "manifest.json"
CURRENT = "CURRENT"
_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OLD = ".old."
_PAUSE_S = 0.02
_T = TypeVar("_T")
_M = TypeVar("_M", bound=BaseModel)


class ArtifactError(Exception):
    """An artefact is missing, incomplete or not the one that was asked for; the message is one line."""


class Manifest(BaseModel):
    """Birth certificate of an artefact.

    Parameters
    ----------
    kind
        What it is, for example ``"tokenizer"``.
    version
        Name of the version: a hash of everything that determined the content.
    inputs
        Name of an input to its content hash.
    recipe
        The parameters it was made with.
    seed
        Seed of every random choice, where there was one.
    code
        Version of the Tessera package that made it.
    packages
        Name of a package to its installed version.
    metrics
        What was measured while making it.
    created_at
        UTC wall clock; takes no part in any hash.
    """

    kind: str
    version: str
    inputs: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    code: str = Field(default_factory=lambda: package_versions("tessera")["tessera"])
    packages: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each package; ``"unknown"`` where it is not installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def hash_bytes(*parts: bytes | memoryview) -> str:
    """Return 16 hex digits of SHA-256 over the parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def hash_json(value: Any) -> str:
    """Return 16 hex digits that name a JSON-able value, independent of key order."""
    return hash_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


def hash_file(path: Path) -> str:
    """Return 16 hex digits of SHA-256 over a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def hash_folder(folder: Path) -> str:
    """Return 16 hex digits over the names and bytes of all files below a folder, manifests left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return hash_json([(p.relative_to(folder).as_posix(), hash_file(p)) for p in files])


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside ``path``, sync it, and rename it into place."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text beside ``path``, sync it, and rename it into place."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes beside ``path``, sync them, and rename the file into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp makes files that nobody else may read
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    ArtifactError
        If the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}") from None


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that becomes ``target`` if the block succeeds.

    Everything written is synced before the rename. A folder that stood at ``target`` is replaced; if the block
    raises, it stays untouched and what was written is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    staging.chmod(0o755)
    try:
        yield staging
        for path in staging.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _swap(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def consistently(folder: Path, read: Callable[[], _T], attempts: int = 20) -> _T:
    """Read several files of a published folder as they stood together.

    A folder is replaced in one step, but whoever opens its files one after the other may have some of the old and
    some of the new, or miss one. So the reading is done again where the folder was replaced meanwhile.

    Parameters
    ----------
    folder
        What :func:`publish` replaces.
    read
        Reads below ``folder``, by path; may be called more than once.
    attempts
        How often it may be called.

    Raises
    ------
    ArtifactError
        If there is no such folder, or if it was replaced during every attempt.
    """
    for _ in range(attempts):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Where a file system cannot exchange two folders, there is none for a moment.
            time.sleep(_PAUSE_S)
            continue
        try:
            result = read()
            if not _was_replaced(folder, handle):
                return result
        except Exception:
            if not _was_replaced(folder, handle):
                raise
        finally:
            os.close(handle)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} does not exist")
    raise ArtifactError(f"{folder} was replaced each of the {attempts} times that it was read")


def sweep(parent: Path) -> None:
    """Mend what killed publications left below ``parent``; call it only where no other writer is at work.

    What they were writing is removed. A folder that was moved aside, and not yet replaced, comes back.
    """
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        if path.name.startswith(".") and path.is_dir():
            standing, moved_aside, _ = path.name[1:].rpartition(_OLD)
            if moved_aside and (path / "old").is_dir() and not (parent / standing).exists():
                (path / "old").rename(parent / standing)
            shutil.rmtree(path, ignore_errors=True)


def read_model(path: Path, model: type[_M]) -> _M:
    """Read a JSON file into a pydantic model.

    Raises
    ------
    ArtifactError
        If the file is missing, cannot be read, is not JSON, or is not of the model.
    """
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {where}{': ' if where else ''}{first['msg']}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the birth certificate of ``folder``; do so last."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """Read the birth certificate of ``folder``.

    Raises
    ------
    ArtifactError
        If there is none, if it cannot be read, or if it is of another kind.
    """
    manifest = read_model(folder / MANIFEST, Manifest)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{folder} holds a {manifest.kind}, not a {kind}")
    return manifest


def check_made_from(folder: Path, expected: Mapping[str, str]) -> Manifest:
    """Return the birth certificate of ``folder`` if it names these inputs.

    Parameters
    ----------
    folder
        An artefact.
    expected
        Name of an input to the version that it must be.

    Raises
    ------
    ArtifactError
        If it was made from something else; the line says from what.
    """
    manifest = read_manifest(folder)
    for name, version in expected.items():
        if (found := manifest.inputs.get(name)) != version:
            raise ArtifactError(f"{folder} was built on {name} {found or '(unknown)'}, not on {version}")
    return manifest


def is_complete(folder: Path) -> bool:
    """Tell whether ``folder`` holds a finished artefact; one whose manifest is damaged is none, and is to be made anew."""
    try:
        return isinstance(read_json(folder / MANIFEST), dict)
    except ArtifactError:
        return False


def set_current(versions: Path, version: str) -> None:
    """Make ``version`` the live one of a folder of versions.

    Raises
    ------
    ArtifactError
        If that version does not exist or is incomplete.
    """
    if not is_complete(versions / version):
        raise ArtifactError(f"{versions / version} does not exist or is incomplete")
    write_text(versions / CURRENT, version + "\n")


def current(versions: Path) -> Path:
    """Return the folder of the live version.

    Raises
    ------
    ArtifactError
        If no version is live, or if the live one is gone.
    """
    pointer = versions / CURRENT
    if not pointer.is_file():
        raise ArtifactError(f"{versions} has no live version yet")
    folder = versions / pointer.read_text(encoding="utf-8").strip()
    if not is_complete(folder):
        raise ArtifactError(f"{folder} is named as live but does not exist or is incomplete")
    return folder


def hash_inputs(mapping: Mapping[str, Path]) -> dict[str, str]:
    """Return the content hash of each named file or folder, for ``Manifest.inputs``."""
    return {name: hash_folder(path) if path.is_dir() else hash_file(path) for name, path in mapping.items()}


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
    elif not _exchange(staging, target):
        doomed = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}{_OLD}"))
        target.rename(doomed / "old")
        staging.rename(target)
        shutil.rmtree(doomed, ignore_errors=True)
    _sync_folder(target.parent)


def _was_replaced(folder: Path, handle: int) -> bool:
    """Tell whether a path names another folder than it did; an open handle keeps the number of the old one taken."""
    try:
        now = folder.stat()
    except FileNotFoundError:
        return True
    before = os.fstat(handle)
    return (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two folders in one step (Linux ``renameat2``); tell whether the system could."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE)
    return done == 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
