from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ml.recommenders.generative.beam import Normalise, beam_search, dead_nodes, distinct_leaves
from ml.recommenders.generative.trie import Trie, build_trie

SIZES = (4, 3, 5)
CODES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=25, unique=True
)
NORMALISE = st.sampled_from(["trie", "vocabulary"])


class TableDecoder:
    """Logits looked up by user and prefix."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self.prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(n)]

    def logits(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, user, len(prefix), *prefix])
        return rng.normal(0, 2, SIZES[len(prefix)])

    def start(self) -> Tensor:
        return self._all()

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        self.prefixes = [
            [(*self.prefixes[u][p], c) for c, p in zip(codes[u].tolist(), parents[u].tolist(), strict=True)]
            for u in range(self.n)
        ]
        return self._all()

    def _all(self) -> Tensor:
        rows = [[self.logits(u, prefix) for prefix in self.prefixes[u]] for u in range(self.n)]
        return torch.from_numpy(np.array(rows))


def score(
    decoder: TableDecoder, rows: list[tuple[int, ...]], user: int, row: tuple[int, ...], how: Normalise
) -> float:
    total = 0.0
    for depth, code in enumerate(row):
        logits = decoder.logits(user, row[:depth])
        among = sorted({other[depth] for other in rows if other[:depth] == row[:depth]})
        over = logits[among] if how == "trie" else logits
        total += logits[code] - np.log(np.exp(over).sum())
    return float(total)


@settings(deadline=None)
@given(CODES, st.integers(0, 99), st.integers(1, 8), st.lists(st.integers(-1, 24), max_size=30), NORMALISE)
def test_full_width_equals_scoring_every_item(
    rows: list[tuple[int, ...]], seed: int, k: int, history: list[int], how: Normalise
) -> None:
    trie = build_trie(np.array(rows, np.int32), SIZES)
    history = [item if item < len(rows) else -1 for item in history]
    excluded = torch.tensor([history, [-1] * len(history)], dtype=torch.int64).reshape(2, -1)
    items, scores = beam_search(TableDecoder(2, seed), trie, 2, len(rows), k, excluded, how)
    for user, hidden in enumerate((set(history), set())):
        exact = [score(TableDecoder(2, seed), rows, user, row, how) for row in rows]
        expected = sorted((i for i in range(len(rows)) if i not in hidden), key=lambda i: -exact[i])[:k]
        found = items[user].tolist()
        assert found == expected + [-1] * (k - len(expected))
        np.testing.assert_allclose(scores[user, : len(expected)], [exact[i] for i in expected], atol=1e-9)
        assert torch.isneginf(scores[user, len(expected) :]).all()


@settings(deadline=None)
@given(
    CODES, st.integers(0, 99), st.integers(1, 3), st.integers(1, 12), st.sets(st.integers(0, 24)), NORMALISE
)
def test_any_width_fills_k_with_distinct_permitted_items(
    rows: list[tuple[int, ...]], seed: int, width: int, k: int, history: set[int], how: Normalise
) -> None:
    trie = build_trie(np.array(rows, np.int32), SIZES)
    hidden = sorted(item for item in history if item < len(rows))
    excluded = torch.tensor([hidden], dtype=torch.int64).reshape(1, -1)
    items, scores = beam_search(TableDecoder(1, seed), trie, 1, width, k, excluded, how)
    found = [item for item in items[0].tolist() if item >= 0]
    assert len(found) == min(k, len(rows) - len(hidden))
    assert len(set(found)) == len(found)
    assert not set(found) & set(hidden)
    for item, value in zip(found, scores[0].tolist(), strict=False):
        np.testing.assert_allclose(value, score(TableDecoder(1, seed), rows, 0, rows[item], how), atol=1e-9)
    assert all(left >= right for left, right in pairwise(scores[0].tolist()))


def plain_beam(
    decoder: TableDecoder, rows: list[tuple[int, ...]], width: int, hidden: set[int], how: Normalise
) -> list[int]:
    """Return items, best first: every hypothesis is asked about at every step."""
    beam: list[tuple[int, ...]] = [()]
    for depth in range(1, 4):
        longer = {
            row[:depth] for item, row in enumerate(rows) if item not in hidden and row[: depth - 1] in beam
        }
        beam = sorted(longer, key=lambda prefix: -partial(decoder, rows, prefix, how))[:width]
    return [rows.index(row) for row in beam]


def partial(
    decoder: TableDecoder, rows: list[tuple[int, ...]], prefix: tuple[int, ...], how: Normalise
) -> float:
    prefixes = [row[: len(prefix)] for row in rows]
    return score(decoder, prefixes, 0, prefix, how)


@settings(deadline=None)
@given(CODES, st.integers(0, 99), st.integers(1, 6), st.sets(st.integers(0, 24)), NORMALISE)
def test_a_narrow_beam_equals_plain_loops(
    rows: list[tuple[int, ...]], seed: int, width: int, history: set[int], how: Normalise
) -> None:
    trie = build_trie(np.array(rows, np.int32), SIZES)
    hidden = {item for item in history if item < len(rows)}
    excluded = torch.tensor([sorted(hidden)], dtype=torch.int64).reshape(1, -1)
    items, _ = beam_search(TableDecoder(1, seed), trie, 1, width, width, excluded, how)
    expected = plain_beam(TableDecoder(1, seed), rows, width, hidden, how)
    assert items[0].tolist() == expected + [-1] * (width - len(expected))


def test_what_is_certain_is_not_asked() -> None:
    asked: list[list[tuple[int, ...]]] = []

    class Counting(TableDecoder):
        def step(self, codes: Tensor, parents: Tensor) -> Tensor:
            logits = super().step(codes, parents)
            asked.append(sorted(self.prefixes[0]))
            return logits

    forked = [(0, 0, 0), (0, 0, 3), (1, 2, 4), (2, 0, 0), (2, 1, 1)]
    trie = build_trie(np.array(forked, np.int32), SIZES)
    beam_search(Counting(1, 5), trie, 1, 5, 5, None, "trie")
    assert asked == [[(0,), (2,)], [(0, 0)]]
    asked.clear()
    beam_search(Counting(1, 5), trie, 1, 4, 4, None, "vocabulary")
    assert [len(prefixes) for prefixes in asked] == [3, 4]
    asked.clear()
    alone = build_trie(np.array([(0, 0, 0), (1, 2, 4), (3, 1, 1)], np.int32), SIZES)
    assert sorted(beam_search(Counting(1, 5), alone, 1, 3, 3, None, "trie")[0][0].tolist()) == [0, 1, 2]
    assert asked == []


@given(CODES, st.lists(st.integers(0, 24), max_size=40))
def test_dead_nodes_equal_plain_loops(rows: list[tuple[int, ...]], history: list[int]) -> None:
    trie: Trie = build_trie(np.array(rows, np.int32), SIZES)
    history = [item for item in history if item < len(rows)]
    leaves = distinct_leaves(trie, torch.tensor([history], dtype=torch.int64).reshape(1, -1))
    for depth in range(1, 4):
        prefixes = sorted({row[:depth] for row in rows})
        expected = [
            node
            for node, prefix in enumerate(prefixes)
            if all(item in history for item, row in enumerate(rows) if row[:depth] == prefix)
        ]
        found = [node for node in dead_nodes(trie, depth, leaves)[0].tolist() if node >= 0]
        assert sorted(found) == expected


def test_probabilities_over_the_trie_sum_to_one() -> None:
    rows = [(0, 0, 0), (0, 0, 3), (1, 2, 4), (3, 0, 0), (3, 1, 1)]
    trie = build_trie(np.array(rows, np.int32), SIZES)
    _, scores = beam_search(TableDecoder(1, 5), trie, 1, 5, 5, None, "trie")
    np.testing.assert_allclose(scores.exp().sum().item(), 1)


def test_equal_scores_go_to_the_lower_item() -> None:
    class Flat(TableDecoder):
        def logits(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
            return np.zeros(SIZES[len(prefix)])

    rows = [(3, 0, 0), (0, 0, 0), (2, 0, 0), (1, 0, 0)]
    trie = build_trie(np.array(rows, np.int32), SIZES)
    assert beam_search(Flat(1, 0), trie, 1, 4, 4)[0].tolist() == [[0, 1, 2, 3]]
