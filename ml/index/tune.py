"""Choose index type and effort: the lowest latency that reaches a recall target."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.index.build import IndexSpec, build_index, exact_search, search, set_effort
from ml.index.verify import recall_against_exact

FLAT = IndexSpec(factory="Flat")
LINKS = (16, 32)
EFFORTS = (64, 128, 256, 512, 1024, 2048)
PROBED = (32, 16, 8, 4, 2)
"""Shares of the lists that are looked into, one in so many."""
REFINE = (4, 8, 16, 32)
_ASKED = 64
_ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave: recall in [0, 1], milliseconds a query, one query at a time."""

    spec: IndexSpec
    recall: float
    latency_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return {
            "spec": self.spec.model_dump(exclude_none=True),
            "recall": self.recall,
            "latency_ms": self.latency_ms,
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Trial:
        """Read what `as_dict` returned."""
        return cls(IndexSpec.model_validate(told["spec"]), told["recall"], told["latency_ms"])


def tune_index(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int = 100,
    target: float = 0.99,
    exact_below: int = 20_000,
) -> tuple[Any, IndexSpec, list[Trial]]:
    """Build candidate indexes, measure each, and keep the fastest that reaches the target.

    Parameters
    ----------
    vectors
        ``[n_items, d]`` float32.
    queries
        ``[n, d]`` float32, a sample of real ones.
    k, target
        Recall at ``k`` to reach.
    exact_below
        A catalogue smaller than this is scanned exactly, without trials: the scan takes well under a millisecond,
        and a choice by stopwatch would differ from night to night.

    Returns
    -------
    index, spec, trials
        The chosen index, its setting, and every setting tried. An exact index always reaches the target.
    """
    bounds = exact_search(vectors, queries, k)[:, -1]
    best_index = build_index(vectors, FLAT)
    best = _measure(best_index, FLAT, vectors, queries, k, bounds)
    trials = [best]
    if len(vectors) < exact_below:
        return best_index, FLAT, trials
    for settings in families(*vectors.shape):
        index = build_index(vectors, settings[0])
        for spec in settings:
            set_effort(index, spec)
            trial = _measure(index, spec, vectors, queries, k, bounds)
            trials.append(trial)
            if trial.recall >= target and trial.latency_ms < best.latency_ms:
                best, best_index = trial, index
    set_effort(best_index, best.spec)
    return best_index, best.spec, trials


def families(n: int, d: int) -> Iterator[list[IndexSpec]]:
    """Yield the settings to try beside an exact scan; those of one list share what is built.

    HNSW by two widths of its graph, and an inverted file of about the root of ``n`` lists, whose 4-bit product codes
    (two dimensions a code, scanned in registers) choose the candidates that full vectors then order.

    Parameters
    ----------
    n, d
        Vectors, and their width. An odd width has no product code of this kind.
    """
    for links in LINKS:
        yield [IndexSpec(factory=f"HNSW{links}", effort=effort) for effort in EFFORTS]
    if d % 2:
        return
    lists = 2 ** max(1, round(math.log2(math.sqrt(n))))
    efforts = sorted({max(1, lists // share) for share in PROBED})
    yield [
        IndexSpec(factory=f"IVF{lists},PQ{d // 2}x4fs,RFlat", effort=effort, refine=refine)
        for effort in efforts
        for refine in REFINE
    ]


def _measure(
    index: Any,
    spec: IndexSpec,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    bounds: NDArray[np.float32],
) -> Trial:
    """Return recall over all queries, and the latency of a middling one out of some, each at its best."""
    sample = queries[:_ASKED]
    spent = np.full((_ROUNDS, len(sample)), np.inf)
    for times in spent:
        for place, query in enumerate(sample):
            start = time.perf_counter()
            search(index, query[None, :], k)
            times[place] = time.perf_counter() - start
    latency = float(np.median(spent.min(axis=0))) * 1e3
    return Trial(spec, recall_against_exact(index, vectors, queries, k, bounds), latency)
