"""Vectors that are hard enough to search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def low_dimensional(
    n: int, d: int = 32, intrinsic: int = 12, seed: int = 0, noise: float = 0.05
) -> NDArray[np.float32]:
    """Return points of a known intrinsic dimension: a lazy search misses neighbours, as it would not in tight clusters.

    Points of every seed lie near the same random subspace.
    """
    rng = np.random.default_rng(seed)
    subspace = np.random.default_rng(99).normal(size=(intrinsic, d))
    points = rng.normal(size=(n, intrinsic)) @ subspace + noise * rng.normal(size=(n, d))
    return points.astype(np.float32)
