from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from ml.files import SharedFile, alone, mark


class BusyError(Exception):
    pass


def hold(lock: Path, held: Event, go: Event) -> None:
    with alone(lock):
        held.set()
        go.wait(30)


def test_a_lock_is_held_by_one_and_free_after_it_even_on_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "below" / "lock"
    with alone(lock), pytest.raises(BusyError, match="at work"), alone(lock, BusyError("at work")):
        raise AssertionError("held twice")
    with pytest.raises(KeyError), alone(lock):
        raise KeyError
    with alone(lock, BusyError("at work")):
        assert lock.read_bytes() == b""


def test_an_error_inside_is_not_taken_for_a_lock_that_is_held(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), alone(tmp_path / "lock", BusyError("at work")):
        raise BlockingIOError


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, go = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "lock", held, go))
    holder.start()
    assert held.wait(30)
    with pytest.raises(BusyError), alone(tmp_path / "lock", BusyError("at work")):
        raise AssertionError("held twice")
    holder.kill()
    holder.join()
    with alone(tmp_path / "lock", BusyError("at work")):
        pass


def test_a_mark_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert mark(file) is None
    file.write_text("one")
    first = mark(file)
    assert first is not None
    assert first == mark(file)
    other = tmp_path / "other"
    other.write_text("two")
    os.utime(other, ns=(first[0], first[0]))
    other.replace(file)
    assert mark(file) != first


def test_shared_file_is_read_again_when_it_has_changed_and_until_it_can_be(tmp_path: Path) -> None:
    path, reads = tmp_path / "numbers", []

    def read(path: Path) -> list[int]:
        reads.append(path)
        return [int(word) for word in path.read_text().split()]

    file = SharedFile(path, read, [])
    assert (file.now(), len(reads)) == ([], 0)
    path.write_text("1 2")
    assert file.now() == [1, 2]
    assert file.now() is file.now()
    assert len(reads) == 1
    path.write_text("1 2 three")
    for _ in range(2):
        with pytest.raises(ValueError, match="three"):
            file.now()
    assert len(reads) == 3
    path.write_text("1 2 3 4 5")
    assert (file.now(), len(reads)) == ([1, 2, 3, 4, 5], 4)
    path.unlink()
    assert (file.now(), len(reads)) == ([], 4)
