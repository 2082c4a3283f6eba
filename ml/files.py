"""Small files that several processes share: one writer at a time, and readers that see when one has changed."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

Mark = tuple[int, int, int]
_T = TypeVar("_T")


class SharedFile(Generic[_T]):
    """What a file holds, read again when it has changed. While it cannot be read, each caller tries, and is told.

    Parameters
    ----------
    path
        The file.
    read
        Makes of it what callers want.
    absent
        What they get where it is not there.
    """

    def __init__(self, path: Path, read: Callable[[Path], _T], absent: _T) -> None:
        self._path, self._read, self._absent = path, read, absent
        # In one, so that threads side by side never see the mark of one version and the content of another.
        self._known: tuple[Mark | None, _T] = None, absent

    def now(self) -> _T:
        """Return it: the same object as before where nothing has changed. Raises what ``read`` raises."""
        known, now = self._known, mark(self._path)
        if now == known[0]:
            return known[1]
        found = self._absent if now is None else self._read(self._path)
        self._known = now, found
        return found


@contextmanager
def alone(lock: Path, busy: Exception | None = None) -> Iterator[None]:
    """Hold a lock that no other process, nor another caller in this one, can hold meanwhile.

    The system gives it back when its holder ends, however that ends; the file stays.

    Parameters
    ----------
    lock
        An empty file, made if it is not there.
    busy
        What to raise where another holds it. None waits.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            if busy is None:
                raise
            raise busy from None
        yield


def mark(path: Path) -> Mark | None:
    """Return what changes whenever a file is replaced or written, None where it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
