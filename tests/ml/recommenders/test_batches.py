from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.histories import Histories
from ml.recommenders.batches import Plans, Sequences, sliding, windows


@pytest.mark.parametrize("last_only", [False, True])
def test_a_batch_tells_time_and_type_of_what_it_asks_for(last_only: bool) -> None:
    times = np.array([10, 20, 30, 40, 7, 8], np.int64)
    types = np.array([1, 0, 2, 1, 2, 0], np.int8)
    histories = replace(Histories.of([[5, 6, 7, 8], [3, 4]]), times=times, event_types=types)
    cut = (sliding if last_only else windows)(histories, 2)
    told = []
    for *read, targets in Plans(cut, 6).batches(np.random.default_rng(0)):
        sequences = Sequences(*read)
        asked = zip(targets, sequences.target_times, sequences.target_types, strict=True)
        for items, when, kinds in asked:
            known = items >= 0
            told += list(zip(items[known].tolist(), when[known].tolist(), kinds[known].tolist(), strict=True))
            assert (when[~known] == 0).all()
            assert (kinds[~known] == 0).all()
    assert sorted(told) == [(4, 8, 0), (6, 20, 0), (7, 30, 2), (8, 40, 1)]
    assert Sequences.of(histories, 3).target_times.shape == (0, 0)
