"""Publications are exchanged while requests run: none fails, none is answered by two of them."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eventual import eventually
from numpy.typing import NDArray
from planted import Broken, Known, Searching, planted_engine

from ml.artifacts import write_json
from ml.histories import Histories
from serving import holder as holders
from serving.engine import Engine, EngineError
from serving.holder import EngineHolder
from serving.published import read_published


def publish(home: Path, number: int) -> None:
    write_json(home / "champion.json", {"recipe": str(number), "model": "m", "snapshot": "s"})


def recipe(holder: EngineHolder) -> str:
    return holder.get().versions["recipe"]


class Stopped:
    """The holder's clock, which moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 100.0
        monkeypatch.setattr(holders, "monotonic", lambda: self.seconds)


class Numbered:
    """Scores every item with its number: an answer says which champion gave it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def recommend(self, histories: Histories, k: int, exclude_history: bool = True) -> Any:
        return np.arange(k, dtype=np.int32)[None], np.full((1, k), self._number, np.float32)

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        return np.full((1, 1), self._number, np.float32)


def numbered(home: Path) -> Engine:
    """Champion and index are both of the number that is published; an answer of a mixed pair tells two."""
    number = int(read_published(home).recipe)

    def search(
        queries: NDArray[np.float32], k: int, allowed: None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        assert queries[0, 0] == number, "the query is of another publication than the index"
        return np.arange(k)[None], np.full((1, k), number, np.float32)

    return planted_engine(
        champion=Numbered(number),
        search=Searching(search),
        versions={"recipe": str(number)},
        titles=[str(number)] * 12,
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "POLL_S", 0.005)


def test_no_request_fails_or_is_mixed_while_publications_change(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    holder = EngineHolder(tmp_path, numbered)
    holder.start()
    answers: set[tuple[str, ...]] = set()
    failed: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answer = holder.get().recommend("ann", 3)
            if answer.source != "champion" or not answer.items:
                failed.append(answer.reason)
            answers.add((answer.versions["recipe"], *(f"{i.title} {i.score:g}" for i in answer.items)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 12):
            publish(tmp_path, number)
            eventually(lambda number=number: recipe(holder) == str(number))  # type: ignore[misc]
    finally:
        done.set()
        for thread in threads:
            thread.join()
        holder.stop()
    assert not failed
    assert all({f"{number} {number}"} == set(items) for number, *items in answers)
    assert len({number for number, *_ in answers}) > 5


def test_requests_are_answered_while_an_engine_loads(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    loading, go_on = threading.Event(), threading.Event()

    def slow(home: Path) -> Engine:
        engine = numbered(home)
        if engine.versions["recipe"] == "2":
            loading.set()
            assert go_on.wait(10)
        return engine

    holder = EngineHolder(tmp_path, slow)
    holder.start()
    began_with = holder.get()
    publish(tmp_path, 2)
    assert loading.wait(10)
    assert recipe(holder) == "1"
    # Whatever is published during a load is loaded next.
    publish(tmp_path, 3)
    go_on.set()
    eventually(lambda: recipe(holder) == "3")
    holder.stop()
    assert began_with.recommend("ann", 1).versions["recipe"] == "1"


def test_nothing_is_loaded_by_asking(tmp_path: Path) -> None:
    holder = EngineHolder(tmp_path, numbered)
    with pytest.raises(EngineError, match="starting"):
        holder.get()
    holder.refresh()
    with pytest.raises(EngineError, match="nothing has been published yet"):
        holder.get()
    publish(tmp_path, 1)
    with pytest.raises(EngineError, match="nothing has been published yet"):
        holder.get()
    holder.refresh()
    assert (recipe(holder), holder.stale) == ("1", "")


def test_the_engine_before_is_freed(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    holder = EngineHolder(tmp_path, numbered)
    holder.refresh()
    old = weakref.ref(holder.get())
    publish(tmp_path, 2)
    gc.disable()
    try:
        holder.refresh()
        assert old() is None
    finally:
        gc.enable()


def test_what_fails_its_rehearsal_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, now = True, Stopped(monkeypatch)

    def load(home: Path) -> Engine:
        engine = numbered(home)
        return replace(engine, champion=Broken()) if broken and engine.versions["recipe"] == "2" else engine

    publish(tmp_path, 1)
    holder = EngineHolder(tmp_path, load)
    holder.refresh()
    publish(tmp_path, 2)
    with caplog.at_level(logging.ERROR, "serving.holder"):
        for now.seconds in (101.0, 130.0, 131.5, 162.0):
            holder.refresh()
            assert recipe(holder) == "1"
            assert "the champion failed" in holder.stale
    assert [r.name for r in caplog.records].count("serving.holder") == 1
    assert [r.name for r in caplog.records].count("serving.engine") == 3
    broken = False
    holder.refresh()
    assert recipe(holder) == "1"
    now.seconds = 193.0
    holder.refresh()
    assert (recipe(holder), holder.stale) == ("2", "")


def test_a_rehearsal_asks_the_champion(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counting(Numbered):
        def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
            asked.append(len(histories.items))
            return super().query_vectors(histories)

    engine = planted_engine(
        champion=Counting(1),
        search=Searching(lambda _, k, __: (np.zeros((1, k), np.int64), np.zeros((1, k)))),
    )
    holders.rehearse(engine)
    assert set(asked) == {1, 5, 12}


def test_what_was_missing_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, tried, now = True, 0, Stopped(monkeypatch)

    def load(home: Path) -> Engine:
        nonlocal tried
        tried += 1
        if broken:
            raise EngineError("the index is gone")
        return planted_engine(versions={"recipe": "whole"})

    def part(home: Path) -> Engine:
        return planted_engine(versions={"recipe": "part"}, lookup=Known())

    publish(tmp_path, 1)
    holder = EngineHolder(tmp_path, load, part)
    for now.seconds, tries in ((100.0, 1), (101.0, 1), (131.0, 2)):
        holder.refresh()
        assert (recipe(holder), tried, holder.stale) == ("part", tries, "the index is gone")
    broken, now.seconds = False, 162.0
    holder.refresh()
    assert (recipe(holder), holder.stale) == ("whole", "")
    now.seconds = 1000.0
    holder.refresh()
    assert tried == 3


def test_a_load_rests_again_and_again_and_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    clock = iter(range(100_000))
    monkeypatch.setattr(holders, "perf_counter", lambda: next(clock) * 0.001)
    monkeypatch.setattr(holders, "sleep", rests.append)
    before = sys.getprofile()
    with holders._paced():
        for _ in range(50):
            len("x")
    assert set(rests) == {holders._REST_S}
    assert len(rests) > 10
    assert sys.getprofile() is before
