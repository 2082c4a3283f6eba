from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.evaluation import cost
from ml.evaluation.cost import changed_ids, latency_ms, size_mb
from ml.histories import Histories
from ml.snapshot import Catalogue


class Slow:
    """Answers by a clock that it moves itself: so many milliseconds for the user whose only item is so large."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[int] = []

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        assert len(histories) == 1
        self.asked.append(int(histories.items[0]))
        self.now += histories.items[0] / 1000
        return np.zeros((1, k), np.int32), np.zeros((1, k), np.float32)


def one_item_each(n: int) -> Histories:
    items = np.arange(n, dtype=np.int32)
    return Histories(np.arange(n + 1), items, np.zeros(n, np.int8), np.zeros(n, np.int64))


def test_latency_is_that_of_the_slow_tenth_one_user_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: slow.now)
    assert latency_ms(slow, one_item_each(101), users=101) == pytest.approx(90)
    slow.asked.clear()
    assert latency_ms(slow, one_item_each(101), users=3) == pytest.approx(90)
    # The first is asked for before the clock runs.
    assert slow.asked == [0, 0, 50, 100]
    assert latency_ms(slow, one_item_each(0)) == 0


def test_size_is_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(bytes(1_000_000))
    (tmp_path / "sub" / "b").write_bytes(bytes(500_000))
    assert size_mb(tmp_path) == 1.5


def test_changed_ids_are_counted_among_the_items_in_common() -> None:
    base = Catalogue.unknown(4)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    before = replace(base, codes=codes, code_sizes=(2, 2))
    now = replace(
        before,
        item_ids=["3", "1", "0", "new"],
        codes=np.array([[1, 1], [0, 0], [0, 0], [0, 1]], np.int32),
    )
    assert changed_ids(before, now) == pytest.approx(1 / 3)
    assert changed_ids(before, before) == 0
    assert changed_ids(before, replace(before, codes=codes[:, :1])) == 1
    assert changed_ids(before, replace(before, item_ids=list("wxyz"))) is None
