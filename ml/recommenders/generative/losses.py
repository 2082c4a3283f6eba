"""What the steps towards an item's ID cost, for an objective that writes code by code."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ml.recommenders.generative.parts import Facts, PartParams, PathLoss


class LikelihoodParams(PartParams):
    """Parameters of `Likelihood`; none."""

    kind: Literal["likelihood"] = "likelihood"

    def build(self, facts: Facts) -> PathLoss:
        """Make the part."""
        return Likelihood()


class Likelihood(nn.Module):
    """The negative log-probability of the whole ID."""

    def forward(self, chosen: Tensor) -> Tensor:
        """See `ml.recommenders.generative.parts.PathLoss`."""
        return -chosen.sum(dim=-1).mean()
