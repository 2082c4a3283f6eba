"""Who reads several files of one publication sees them as they stood together, however often they are replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import watchers

from ml.artifacts import ArtifactError, Manifest, consistently, hash_file, publish, write_manifest

PARTS = 12


def put(marts: Path, number: int) -> None:
    """Publish marts of which every part says the same number; even and odd ones have other parts."""
    with publish(marts) as staging:
        (staging / "fct").mkdir()
        for part in range(PARTS + number % 2):
            pq.write_table(pa.table({"n": [number]}), staging / "fct" / f"{part}.parquet")
        inputs = {f"fct/{path.stem}": hash_file(path) for path in (staging / "fct").iterdir()}
        metrics = {"rows": {"fct": len(inputs)}}
        write_manifest(staging, Manifest(kind="marts", version="marts", inputs=inputs, metrics=metrics))


@contextmanager
def replaced_on_and_on(write: Callable[[int], None]) -> Iterator[None]:
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            write(number)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def numbers(marts: Path) -> set[int]:
    """Read part after part, by path, as any library does."""
    parts = sorted((marts / "fct").glob("*.parquet"))
    return {pq.read_table(path)["n"][0].as_py() for path in parts}


def test_parts_read_together_are_of_one_publication(tmp_path: Path) -> None:
    marts = tmp_path / "marts"
    put(marts, 0)
    with replaced_on_and_on(lambda number: put(marts, number)):
        for _ in range(30):
            found = consistently(marts, lambda: numbers(marts), attempts=1000)
            assert len(found) == 1
    watchers.read_marts(marts)


def test_parts_read_by_path_alone_are_mixed_or_missing(tmp_path: Path) -> None:
    """What the test above guards against does happen."""
    marts = tmp_path / "marts"
    put(marts, 0)
    with replaced_on_and_on(lambda number: put(marts, number)):
        for _ in range(2000):
            try:
                if len(numbers(marts)) != 1:
                    break
            except (OSError, pa.ArrowInvalid):
                break
        else:
            pytest.fail("no mix was seen")


def test_watcher_of_the_kill_tests_sees_what_is_wrong(tmp_path: Path) -> None:
    marts = tmp_path / "marts"
    put(marts, 0)
    (marts / "fct" / "3.parquet").unlink()
    with pytest.raises(AssertionError, match="manifest differ"):
        watchers.read_marts(marts)
    put(marts, 1)
    part = marts / "fct" / "0.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(pa.ArrowInvalid):
        watchers.read_marts(marts)
    with pytest.raises(ArtifactError):
        watchers.read_marts(tmp_path / "void")
