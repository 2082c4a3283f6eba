"""Who met what as a graph, and one step along its edges (He et al., "LightGCN", SIGIR 2020, arXiv:2002.02126, Eq. 7)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.histories import Histories


def edges(histories: Histories, n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return user and item of every pair that met, each once, int64 [n_edges], sorted by user, then item."""
    keys = np.unique(histories.users * n_items + histories.items)
    return keys // n_items, keys % n_items


def normalised_adjacency(
    users: NDArray[np.int64], items: NDArray[np.int64], n_users: int, n_items: int
) -> Tensor:
    """Return the bipartite graph, each edge over the square root of the degrees of its ends.

    Parameters
    ----------
    users, items
        int64 [n_edges], each pair once.

    Returns
    -------
    Symmetric, sparse CSR float32 [n_users + n_items, n_users + n_items], users before items.
    """
    n = n_users + n_items
    source, target = np.concatenate([users, items + n_users]), np.concatenate([items + n_users, users])
    order = np.lexsort((target, source))
    source, target = source[order], target[order]
    degree = np.bincount(source, minlength=n)
    values = 1 / np.sqrt(degree[source].astype(np.float64) * degree[target])
    return sparse_rows(degree, target, values.astype(np.float32), n)


def sparse_rows(
    degrees: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32], width: int
) -> Tensor:
    """Return a sparse CSR matrix [len(degrees), width], of so many entries in each row."""
    offsets = np.concatenate([[0], np.cumsum(degrees)])
    with warnings.catch_warnings():
        # That this kind of tensor is young.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.from_numpy(offsets),
            torch.from_numpy(columns),
            torch.from_numpy(values),
            (len(degrees), width),
            check_invariants=True,
        )


class _Propagate(torch.autograd.Function):
    """Multiply by a symmetric sparse matrix: its own transpose on the way back, which autograd would build each step."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return _multiply(adjacency, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, _multiply(ctx.adjacency, gradients[0])


def propagate(adjacency: Tensor, x: Tensor) -> Tensor:
    """Replace each node's vector by the weighted sum of its neighbours'.

    Parameters
    ----------
    adjacency
        Symmetric, sparse CSR [n, n]; takes no gradient.
    x
        float32 [n, d].
    """
    moved: Tensor = _Propagate.apply(adjacency, x)
    return moved


def _multiply(adjacency: Tensor, x: Tensor) -> Tensor:
    # Sparse products know no half precision.
    with torch.autocast(x.device.type, enabled=False):
        return adjacency @ x.float()
