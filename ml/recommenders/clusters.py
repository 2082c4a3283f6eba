"""Clusters of vectors by cosine, for losses that contrast with prototypes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_LLOYD_STEPS = 10


def spherical_kmeans(x: Tensor, n_centres: int) -> tuple[Tensor, Tensor]:
    """Cluster vectors by cosine.

    Parameters
    ----------
    x
        float [n, d].
    n_centres
        Clusters; n where there are fewer vectors.

    Returns
    -------
    Centres float [k, d] of length 1, and the cluster of each vector, int64 [n].
    """
    x = normalize(x, dim=1)
    n_centres = min(n_centres, len(x))
    centres = x[torch.randperm(len(x), device="cpu")[:n_centres].to(x.device)]
    for _ in range(_LLOYD_STEPS):
        cluster = nearest_centres(x, centres)
        # A centre without vectors becomes zero and wins none again.
        centres = normalize(torch.zeros_like(centres).index_add_(0, cluster, x), dim=1)
    return centres, nearest_centres(x, centres)


def nearest_centres(x: Tensor, centres: Tensor) -> Tensor:
    """Return the centre with the greatest inner product, int64 [n], of vectors float [n, d] and centres [k, d]."""
    return torch.cat([(part @ centres.T).argmax(dim=1) for part in x.split(4096)])
