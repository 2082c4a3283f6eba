from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ml.recommenders.generative.beam import Normalise, beam_search
from ml.recommenders.generative.exact import exact_scores, exact_search
from ml.recommenders.generative.trie import build_trie

SIZES = (4, 3, 5)
CODES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=25, unique=True
)


class Random:
    """Logits that depend on the user and on the codes so far; counts what it is asked."""

    def __init__(self, n: int, seed: int, asked: list[int]) -> None:
        draw = np.random.default_rng(seed)
        self.weight = [torch.from_numpy(draw.normal(0, 2, (n, 60, size))) for size in SIZES]
        self.prefix = torch.zeros(n, 1, dtype=torch.int64)
        self.depth, self.asked = 0, asked

    def start(self) -> Tensor:
        return self._logits()

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        self.prefix = self.prefix.gather(1, parents) * SIZES[self.depth] + codes
        self.depth += 1
        self.asked.append(codes.shape[1])
        return self._logits()

    def _logits(self) -> Tensor:
        weight = self.weight[self.depth]
        return weight[torch.arange(len(weight))[:, None], self.prefix]


@settings(deadline=None)
@given(
    CODES,
    st.integers(0, 99),
    st.integers(1, 30),
    st.integers(1, 40),
    st.lists(st.integers(-1, 24), max_size=30),
    st.sampled_from(["trie", "vocabulary", "table"]),
)
def test_it_equals_a_beam_of_all_items(
    rows: list[tuple[int, ...]], seed: int, k: int, at_once: int, history: list[int], how: Normalise
) -> None:
    trie = build_trie(np.array(rows, np.int32), SIZES)
    history = [item if item < len(rows) else -1 for item in history]
    excluded = torch.tensor([history, [-1] * len(history)], dtype=torch.int64).reshape(2, -1)
    items, scores = exact_search(Random(2, seed, []), trie, 2, k, excluded, how, at_once)
    wide = beam_search(Random(2, seed, []), trie, 2, len(rows), k, excluded, how)
    torch.testing.assert_close(items, wide[0])
    torch.testing.assert_close(scores, wide[1])


def test_each_prefix_is_asked_once_in_groups_and_what_is_certain_never() -> None:
    rows = [(0, 0, 0), (0, 0, 3), (1, 2, 4), (2, 0, 0), (2, 1, 1), (3, 0, 0), (3, 0, 1)]
    trie = build_trie(np.array(rows, np.int32), SIZES)
    asked: list[int] = []
    scores = exact_scores(Random(1, 3, asked), trie, 1, "vocabulary", at_once=3)
    # Two groups of first codes, 0 1 2 and 3; the four prefixes below the former again in two.
    assert asked == [3, 3, 1, 1, 1]
    assert sum(asked) == sum(len({row[:depth] for row in rows}) for depth in (1, 2))
    assert (scores.exp().sum() < 1).all()
    asked.clear()
    scores = exact_scores(Random(1, 3, asked), trie, 1, "trie", at_once=8)
    assert asked == [3, 2]
    np.testing.assert_allclose(scores.exp().sum(), 1)
