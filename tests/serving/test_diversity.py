"""MMR equals its definition, computed one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest

from serving.diversity import mmr


def by_definition(relevance: list[float], vectors: list[list[float]], k: int, diversity: float) -> list[int]:
    low, high = min(relevance), max(relevance)
    scaled = [(r - low) / (high - low) if high > low else 1.0 for r in relevance]
    chosen: list[int] = []
    while len(chosen) < min(k, len(relevance)):
        best, best_gain = -1, -float("inf")
        for place in range(len(relevance)):
            if place in chosen:
                continue
            alike = max(
                (sum(a * b for a, b in zip(vectors[place], vectors[c], strict=True)) for c in chosen),
                default=0.0,
            )
            gain = (1 - diversity) * scaled[place] - diversity * alike
            if gain > best_gain + 1e-9:
                best, best_gain = place, gain
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_equals_its_definition(diversity: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        n = int(rng.integers(1, 20))
        vectors = rng.normal(size=(n, 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[rng.random(n) < 0.2] = 0
        relevance = np.sort(rng.normal(size=n).astype(np.float32))[::-1].copy()
        k = int(rng.integers(1, 12))
        expected = by_definition(relevance.tolist(), vectors.tolist(), k, diversity)
        assert mmr(relevance, vectors, k, diversity).tolist() == expected


def test_by_hand() -> None:
    # Two alike, one apart: the second of the pair gives way to the weaker one that is unlike both.
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    relevance = np.array([1.0, 0.9, 0.5], np.float32)
    assert mmr(relevance, vectors, 3, 0.0).tolist() == [0, 1, 2]
    assert mmr(relevance, vectors, 3, 0.5).tolist() == [0, 2, 1]
    assert mmr(np.zeros(0, np.float32), np.zeros((0, 2), np.float32), 3, 0.5).tolist() == []
