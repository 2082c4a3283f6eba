"""Contrast of two readings that differ by dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.losses import info_nce
from ml.recommenders.sequential.parts import Facts, PartParams, last_state

if TYPE_CHECKING:
    from ml.recommenders.sequential.network import Network


class DropoutContrastParams(PartParams):
    """Parameters of `DropoutContrast`.

    Parameters
    ----------
    weight
        Of this loss.
    temperature
        Of its softmax.
    """

    kind: Literal["dropout_contrast"] = "dropout_contrast"
    weight: float = Field(default=0.1, gt=0)
    temperature: float = Field(default=0.1, gt=0)

    def build(self, facts: Facts) -> DropoutContrast:
        """Make the part."""
        return DropoutContrast(self.weight, self.temperature)


class DropoutContrast(nn.Module):
    """Two readings of a sequence, which differ by dropout, are nearer to each other than to other sequences.

    Unsupervised augmentation of DuoRec (Qiu et al., WSDM 2022, arXiv:2110.05730, section 4.2).
    """

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def forward(
        self, network: Network, sequences: Sequences, targets: Tensor, states: Tensor, table: Tensor
    ) -> Tensor:
        """See `ml.recommenders.sequential.parts.Auxiliary`."""
        first = last_state(states, sequences.lengths)
        second = last_state(network.states(sequences, table), sequences.lengths)
        return self.weight * info_nce(first, second, self.temperature)
