"""What follows what in the whole log, distilled into item vectors: an auxiliary loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.sequential.parts import Facts, PartParams

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network


class TransitionDistillationParams(PartParams):
    """Parameters of `TransitionDistillation`.

    Parameters
    ----------
    weight
        Of this loss.
    temperature
        Of both distributions.
    span
        A transition leads from an event to each of the next ``span`` of its history.
    most
        Items of a batch that are asked, drawn where there are more.
    """

    kind: Literal["transition_distillation"] = "transition_distillation"
    reads_sequences: ClassVar[bool] = False
    weight: float = Field(default=0.1, gt=0)
    temperature: float = Field(default=0.1, gt=0)
    span: int = Field(default=1, ge=1)
    most: int = Field(default=256, ge=1)

    def build(self, facts: Facts) -> TransitionDistillation:
        """Make the part."""
        return TransitionDistillation(
            transitions(facts.train or Histories.of([]), facts.n_items, self.span),
            *(self.weight, self.temperature, self.most, facts.dropout),
        )


def transitions(histories: Histories, n_items: int, span: int) -> NDArray[np.int64]:
    """Count how often one event follows another of the same history within ``span`` places.

    Returns
    -------
    int64 [n, 3]: item, follower, count, sorted by the first two.
    """
    users, items = histories.users, histories.items.astype(np.int64)
    pairs = [
        (items[:-step] * n_items + items[step:])[users[:-step] == users[step:]] for step in range(1, span + 1)
    ]
    keys, counts = np.unique(np.concatenate(pairs), return_counts=True)
    return np.stack([keys // max(n_items, 1), keys % max(n_items, 1), counts], axis=1)


class TransitionDistillation(nn.Module):
    """An item's inner products with all items, as a distribution, should be that of what followed it in the log.

    Transition-aware embedding distillation of Zhu et al. (WSDM 2024, arXiv:2311.01056). Followers that were counted
    score their count over the item's greatest count, all others 0; the target is the softmax of these over the
    temperature. Each of a batch's items is asked once; items that nothing followed are not.

    Parameters
    ----------
    counted
        What `transitions` returns.
    weight, temperature, most
        See `TransitionDistillationParams`.
    dropout
        Of the vectors that ask.
    """

    offsets: Tensor
    followers: Tensor
    scores: Tensor

    def __init__(
        self, counted: NDArray[np.int64], weight: float, temperature: float, most: int, dropout: float
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.most = weight, temperature, most
        self.drop = nn.Dropout(dropout)
        heads, first = np.unique(counted[:, 0], return_index=True)
        sizes = np.diff(first, append=len(counted))
        greatest = np.maximum.reduceat(counted[:, 2], first) if len(heads) else np.zeros(0, np.int64)
        scores = counted[:, 2] / np.repeat(greatest, sizes)
        # Rows of `followers` and `scores` of item i: offsets[i] to offsets[i + 1].
        offsets = np.searchsorted(counted[:, 0], np.arange(int(heads.max(initial=-1)) + 2))
        for name, array in (("offsets", offsets), ("followers", counted[:, 1]), ("scores", scores)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def labels(self, heads: Tensor, columns: Tensor, width: int) -> Tensor:
        """Return the target distribution of items, int64 [m], all of which have followers.

        Parameters
        ----------
        columns
            int64 [n_items], the column of each item.
        width
            Number of columns.

        Returns
        -------
        float32 [m, width].
        """
        starts, sizes = self.offsets[heads], self.offsets[heads + 1] - self.offsets[heads]
        rows = torch.repeat_interleave(torch.arange(len(heads), device=heads.device), sizes)
        nth = torch.arange(len(rows), device=heads.device) - (sizes.cumsum(0) - sizes)[rows]
        places = starts[rows] + nth
        scores = torch.zeros(len(heads), width, device=heads.device)
        scores[rows, columns[self.followers[places]]] = self.scores[places].float()
        return torch.softmax(scores / self.temperature, dim=1)

    def forward(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """See `ml.recommenders.sequential.parts.Auxiliary`."""
        heads = torch.unique(sequences.items[sequences.real])
        heads = heads[heads < len(self.offsets) - 1]
        heads = heads[self.offsets[heads + 1] > self.offsets[heads]]
        heads = heads[torch.randperm(len(heads), device=heads.device)[: self.most]]
        if not len(heads):
            return table.new_zeros(())
        known = table[network.trained]
        asked = self.drop(table[heads] * math.sqrt(table.shape[1]))
        labels = self.labels(heads, network.row, len(known))
        return self.weight * cross_entropy(asked @ known.T / self.temperature, labels)
