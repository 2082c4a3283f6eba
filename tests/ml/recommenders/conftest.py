from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ml.histories import Histories
from ml.snapshot import Catalogue

N_ITEMS = 24
COLD = 23


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_histories(n_users: int = 60, seed: int = 0) -> Histories:
    """Walk a ring of items: what comes next is what went before plus one, three times in four.

    The last item of the catalogue is never met, and nobody meets an item twice.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_users):
        row = [int(rng.integers(COLD))]
        for _ in range(int(rng.integers(2, 9))):
            step = (row[-1] + 1) % COLD if rng.random() < 0.75 else int(rng.integers(COLD))
            if step not in row:
                row.append(step)
        rows.append(row)
    return Histories.of(rows)


def make_catalogue(n_items: int = N_ITEMS, width: int = 6) -> Catalogue:
    rng = np.random.default_rng(7)
    index = np.arange(n_items)
    return Catalogue(
        item_ids=[f"i{i:02d}" for i in index],
        titles=[f"Item {i}" for i in index],
        categories=[[f"c{i % 3}"] for i in index],
        vectors=rng.standard_normal((n_items, width)).astype(np.float32),
        codes=np.stack([index // 6, index % 6, np.zeros_like(index)], axis=1).astype(np.int32),
        code_sizes=(4, 6, 1),
    )


@pytest.fixture(scope="session")
def histories() -> Histories:
    return make_histories()


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return make_catalogue()
