"""Small items to fit tokenizers to."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from ml.tokenizers.items import ItemData

WIDTH = 12
_CLUSTERS = 6


def cluster_vectors(n: int, seed: int = 0) -> np.ndarray:
    """Return float32 [n, 12] around six centres that are the same for every seed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(_CLUSTERS, WIDTH)) * 3
    return (centres[rng.integers(_CLUSTERS, size=n)] + rng.normal(size=(n, WIDTH)) + 5).astype(np.float32)


def sample_items(n: int = 200, seed: int = 0, scale: float = 1.0) -> ItemData:
    """Return items known in every way: two spaces that agree on clusters, categories, transitions, first events."""
    fused = cluster_vectors(n, seed) * np.float32(scale)
    clusters = np.random.default_rng(seed).integers(_CLUSTERS, size=n)
    rng = np.random.default_rng(seed + 1)
    behaviour = (np.random.default_rng(98).normal(size=(_CLUSTERS, 5))[clusters] * 2).astype(np.float32)
    behaviour += rng.normal(size=behaviour.shape).astype(np.float32) * np.float32(0.5)
    rows, columns = rng.integers(n, size=(2, 4 * n)) if n else np.zeros((2, 0), np.int64)
    near = clusters[rows] == clusters[columns]
    pairs = csr_array((np.ones(int(near.sum())), (rows[near], columns[near])), shape=(n, n))
    return ItemData(
        [f"i{seed}-{place:04}" for place in range(n)],
        {"fused": fused, "text": fused[:, :8].copy(), "behaviour": behaviour},
        [[f"group {c % 2}", f"cluster {c}"] for c in clusters],
        pairs,
        rng.permutation(n).astype(np.int64),
    )
