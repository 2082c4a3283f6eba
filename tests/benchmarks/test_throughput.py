from __future__ import annotations

import numpy as np
import pytest

from benchmarks.throughput import few, measure, peak
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders import build
from ml.snapshot import Catalogue

SMALL = {"kind": "sequential", "d": 8, "blocks": 1, "max_length": 6, "precision": "32-true", "epochs": 7}


def test_operations_are_those_of_one_epoch_and_grow_with_the_data() -> None:
    parts = split(Histories.of([[(u + step) % 20 for step in range(6)] for u in range(40)]), "leave_one_out")
    catalogue = Catalogue.unknown(20)
    half, whole = (measure(SMALL, few(parts, users, 0), catalogue, 0) for users in (20, 40))
    # Per target at least the scores of all items: forward once, backward twice, a product of 8 and an addition each.
    targets = 40 * 3
    assert whole["gflops"] * 1e9 > targets * 20 * 8 * 2 * 3
    assert whole["gflops"] == pytest.approx(2 * half["gflops"], rel=0.05)
    assert (half["users"], whole["users"]) == (20, 40)
    assert whole["targets_per_second"] > 0


def test_few_takes_training_histories_and_nothing_else() -> None:
    parts = split(Histories.of([[u, u + 1, u + 2, u + 3] for u in range(10)]), "leave_one_out")
    some = few(parts, 4, 0)
    rows = [
        some.train.items[a:b].tolist()
        for a, b in zip(some.train.offsets, some.train.offsets[1:], strict=False)
    ]
    assert len({tuple(row) for row in rows}) == 4
    assert all(row[1] - row[0] == 1 and len(row) == 2 for row in rows)
    assert len(some.valid) == len(some.test) == 0
    build(SMALL | {"epochs": 1}).fit(some, Catalogue.unknown(13), 0)


def test_the_limit_is_a_rate() -> None:
    assert np.isfinite(peak("32-true", 0.05))
    assert peak("32-true", 0.05) > 0.1
