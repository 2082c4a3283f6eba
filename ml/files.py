"""Small files that several processes share: one writer at a time, and readers that see when one has changed."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Mark = tuple[int, int, int]


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
