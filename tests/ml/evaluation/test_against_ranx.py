"""Our metrics beside those of ranx, an independent implementation, on the lists that recommenders could give."""

from __future__ import annotations

import os
import warnings
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.evaluate import evaluate
from ml.evaluation.metrics import ndcg, recall, reciprocal_rank
from ml.evaluation.splits import Queries
from ml.histories import Histories

N_ITEMS, K = 70, 50
METRICS = {"recall": recall, "ndcg": ndcg, "mrr": reciprocal_rank}


@pytest.fixture(scope="module")
def ranx() -> ModuleType:
    # Compiling it takes half a minute, running it as plain Python none.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ranx")


class Lists:
    """Answers each query, told apart by its one history item, with its list; fewer items are padded."""

    def __init__(self, lists: list[list[int]], scores: list[list[float]]) -> None:
        self.items = np.full((len(lists), K), -1, np.int32)
        self.scores = np.full((len(lists), K), -np.inf, np.float32)
        for row, (items, values) in enumerate(zip(lists, scores, strict=True)):
            self.items[row, : len(items)] = items
            self.scores[row, : len(items)] = values

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = histories.items
        return self.items[rows, :k], self.scores[rows, :k]


def compare(ranx: ModuleType, lists: list[list[int]], targets: list[int]) -> None:
    n = len(lists)
    # No two scores of a list are equal, so that the order is the same to both.
    scores = [[float(K - place) for place in range(len(items))] for items in lists]
    asked = Queries(
        np.arange(n, dtype=np.int32), Histories.of([[q] for q in range(n)]), np.array(targets, np.int32)
    )
    ours = evaluate(Lists(lists, scores), asked, Histories.of([[0]]), N_ITEMS, exclude_history=False)
    qrels = ranx.Qrels({f"q{q:03}": {f"i{targets[q]}": 1} for q in range(n)})
    run = ranx.Run(
        {f"q{q:03}": {f"i{i}": s for i, s in zip(lists[q], scores[q], strict=True)} for q in range(n)}
    )
    for name, metric in METRICS.items():
        for cutoff in (5, 10, 20, 50):
            theirs = ranx.evaluate(qrels, run, f"{name}@{cutoff}", return_mean=False)
            np.testing.assert_allclose(metric(ours.ranks, cutoff), theirs, atol=1e-9, rtol=0)
            assert ours.metrics[f"{name}@{cutoff}"] == pytest.approx(float(np.mean(theirs)), abs=1e-9)
            # Without ties there is nothing to expect but what came.
            assert ours.expected[f"{name}@{cutoff}"] == pytest.approx(
                ours.metrics[f"{name}@{cutoff}"], abs=1e-12
            )


def test_random_lists(ranx: ModuleType) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.permutation(N_ITEMS)[: rng.integers(1, K + 1)].tolist() for _ in range(300)]
    compare(ranx, lists, rng.integers(N_ITEMS, size=300).tolist())


rank_lists = st.lists(
    st.tuples(
        st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=K, unique=True),
        st.integers(0, N_ITEMS - 1),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(asked=rank_lists)
def test_any_lists(ranx: ModuleType, asked: list[tuple[list[int], int]]) -> None:
    compare(ranx, [items for items, _ in asked], [target for _, target in asked])


@settings(deadline=None, max_examples=40)
@given(places=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_targets_at_chosen_places(ranx: ModuleType, places: list[int]) -> None:
    lists = [list(range(K)) for _ in places]
    compare(ranx, lists, [place - 1 for place in places])
