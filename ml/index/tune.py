"""Choose index type and effort: the lowest latency that reaches a recall target."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.index.build import IndexSpec, build_index, search, set_effort
from ml.index.verify import recall_against_exact

EFFORTS = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave: recall in [0, 1], milliseconds a query, one query at a time."""

    spec: IndexSpec
    recall: float
    latency_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self) | {"spec": str(self.spec)}


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
    flat = IndexSpec(factory="Flat")
    exact = build_index(vectors, flat)
    trials = [_measure(exact, flat, vectors, queries, k)]
    if len(vectors) < exact_below:
        return exact, flat, trials
    graph = build_index(vectors, IndexSpec(factory="HNSW32", effort=EFFORTS[0]))
    for effort in EFFORTS:
        set_effort(graph, effort)
        trials.append(_measure(graph, IndexSpec(factory="HNSW32", effort=effort), vectors, queries, k))
    best = min((t for t in trials if t.recall >= target), key=lambda t: t.latency_ms, default=trials[0])
    if best.spec.factory == "Flat":
        return exact, flat, trials
    set_effort(graph, best.spec.effort)
    return graph, best.spec, trials


def _measure(
    index: Any, spec: IndexSpec, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> Trial:
    sample = queries[:64]
    search(index, sample[:1], k)
    start = time.perf_counter()
    for query in sample:
        search(index, query[None, :], k)
    latency = (time.perf_counter() - start) / len(sample) * 1e3
    return Trial(spec, recall_against_exact(index, vectors, queries, k), latency)
