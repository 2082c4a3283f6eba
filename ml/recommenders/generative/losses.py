"""What the steps towards an item's ID cost, for an objective that writes code by code."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
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

    rivals = 0

    def forward(self, chosen: Tensor, rivals: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See `ml.recommenders.generative.parts.PathLoss`."""
        return -chosen.sum(dim=-1).mean()


class PrefixAwareParams(PartParams):
    """Parameters of `PrefixAware`.

    Parameters
    ----------
    form
        What a prefix of ``t`` codes costs: ``pointwise`` its negative log-probability, ``pairwise`` that of being told
        from the prefixes of rivals; either divided by ``t``.
    weight
        Of the prefixes' losses beside the mean loss of a code.
    adaptive
        Let prefixes of greater loss in the batch count more; otherwise all lengths count alike.
    focus
        How much more: a length of loss L weighs as ``L * exp(focus * L)``.
    temperature
        Of the prefixes' log-probabilities.
    rivals
        Other items that lend the pairwise form their prefixes.
    """

    kind: Literal["prefix_aware"] = "prefix_aware"
    form: Literal["pointwise", "pairwise"] = "pointwise"
    weight: float = Field(default=0.1, ge=0)
    adaptive: bool = True
    focus: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    rivals: int = Field(default=16, ge=1)

    def build(self, facts: Facts) -> PathLoss:
        """Make the part."""
        return PrefixAware(self)


class PrefixAware(nn.Module):
    """Likelihood, and beside it a loss of every prefix: beam search drops an item whose first codes are unlikely.

    APAO (Yu et al., 2026, arXiv:2603.02730).
    """

    def __init__(self, params: PrefixAwareParams) -> None:
        super().__init__()
        self.params = params
        self.rivals = params.rivals if params.form == "pairwise" else 0

    def forward(self, chosen: Tensor, rivals: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See `ml.recommenders.generative.parts.PathLoss`."""
        levels = chosen.shape[1]
        losses = self.prefix_losses(chosen, rivals)
        # Likelihood here is a sum over codes.
        prefixes = levels * (self.shares(losses.detach()) * losses).sum()
        return -chosen.sum(dim=1).mean() + self.params.weight * prefixes

    def prefix_losses(self, chosen: Tensor, rivals: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the mean loss of the prefixes of each length, float [levels]."""
        codes = torch.arange(1, chosen.shape[1] + 1, device=chosen.device)
        scores = chosen.cumsum(dim=1) / self.params.temperature
        if rivals is not None:
            theirs, apart = rivals
            against = (theirs.cumsum(dim=2) / self.params.temperature).masked_fill(~apart, -torch.inf)
            scores = scores - torch.cat([scores[:, None], against], dim=1).logsumexp(dim=1)
        return -scores.mean(dim=0) / codes

    def shares(self, losses: Tensor) -> Tensor:
        """Return the weight of each length, float [levels], which sum to 1."""
        if not self.params.adaptive:
            return torch.full_like(losses, 1 / len(losses))
        return (losses.clamp(min=1e-12).log() + self.params.focus * losses).softmax(dim=0)
