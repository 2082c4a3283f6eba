from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import vectors
from benchmarks.logs import Log
from benchmarks.vectors import Asked, measure, read, transitions
from ml.histories import Histories
from ml.vectors.encoder import TuningParams


def test_few_users_bring_only_their_items(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(
        ["b", "a"],
        Histories.of([[3, 1], [2]]),
        [{"title": name} for name in ("w", "x", "y", "z")],
        ["rating"],
    )
    monkeypatch.setattr(vectors, "read_log", lambda folder: log)
    histories, texts = read(Path("any"))
    assert (histories.items.tolist(), texts) == ([3, 1, 2], ["w", "x", "y", "z"])
    histories, texts = read(Path("any"), users=1)
    assert (histories.items.tolist(), histories.offsets.tolist(), texts) == ([1, 0], [0, 2], ["x", "z"])


def test_what_is_asked_was_not_learned_from() -> None:
    rng = np.random.default_rng(0)
    rows = [list(rng.integers(0, 50, 6)) for _ in range(40)]
    asked = transitions(Histories.of(rows), 50, seed=0)
    assert 0 < asked.cold.sum() < 15
    for u, row in enumerate(rows):
        kept = asked.train.items[asked.train.offsets[u] : asked.train.offsets[u + 1]]
        assert kept.tolist() == [item for item in row[:4] if not asked.cold[item]]
    expected = [(r[4], r[5]) for r in rows if not asked.cold[r[4]] and r[4] != r[5]]
    assert list(zip(asked.queries.tolist(), asked.targets.tolist(), strict=True)) == expected


def test_recall_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "K", 2)
    angles = np.array([0, 0.1, 0.2, 0.3, 3])
    known = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    cold = np.array([0, 0, 0, 0, 1], bool)
    train = Histories.of([])
    # From 0 the nearest two are 1 and 2; from 3 they are 2 and 1.
    asked = Asked(train, np.array([0, 0, 0, 3]), np.array([1, 3, 4, 2]), cold)
    assert asked.recall(known) == (pytest.approx(2 / 3), 0)
    # Items that nothing is known of are never found, and find nothing.
    known[1] = 0
    assert asked.recall(known) == (pytest.approx(2 / 3), 0)
    known[0] = 0
    assert asked.recall(known) == (pytest.approx(1 / 3), 0)


def test_every_comparison_has_a_row_warm_and_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    histories = Histories.of([list(10 * (u % 3) + rng.permutation(10)[:6]) for u in range(90)])
    texts = [f"{('soap', 'drill', 'towel')[n // 10]} {n}" for n in range(30)]
    monkeypatch.setattr(
        vectors, "encode_texts", lambda texts, precision: rng.normal(size=(30, 150)).astype(np.float32)
    )
    rows = measure(histories, texts, 2, TuningParams(), ["fusion"])
    assert [row.case for row in rows][::2] == [
        "128 principal components of both: next item, both known",
        "128 whitened components of both: next item, both known",
        "side by side, unmet behaviour predicted from text: next item, both known",
    ]
    assert {row.peer_name for row in rows} == {"text and behaviour side by side"}
    assert all(len(row.extra["ours_by_seed"]) == 2 and 0 <= row.ours <= 1 for row in rows)
