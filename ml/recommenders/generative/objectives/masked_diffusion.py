"""Restore masked codes of the next item; items are found by fixing a few codes one at a time and all others at once.

MDGR (Mu et al., 2026, arXiv:2601.19501): the codes are parallel, a decoder sees all of them, and those that are not known
are masks. Training adapts what is masked over its time and to the sample. Decoding has two stages: in the warm-up each
hypothesis fixes the code that it is surest of, whichever level that is; then one pass tells all others. The paper's
abstract gives no formula for either adaptation: those here are our own, and so is decoding over existing items alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from ml.recommenders.batches import Sequences, Windows, sliding, windows
from ml.recommenders.generative.parts import Facts, Memory, Objective, PartParams
from ml.recommenders.generative.unmasking import unmask

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.network import Network


class MaskedDiffusionParams(PartParams):
    """Parameters of `MaskedDiffusion`.

    Parameters
    ----------
    over_time
        How many codes of a target are masked. ``uniform``: any number, each as likely. ``rising``: one when training
        begins, and after ``rise`` steps from all but ``known`` of them to all, as decoding meets them where ``warm_up``
        is as much.
    rise, known
        See ``over_time``; one code at least is always masked.
    by_sample
        Which codes are masked: ``uniform``, or ``unseen``, those rather that no item of the history has.
    preference
        How much rather: the logarithm of the odds.
    warm_up
        Codes that decoding fixes one at a time; 0 leaves one stage. The last level, which tells twins apart, is never
        among them.
    beam
        Hypotheses kept, at least as many as items asked for.
    """

    kind: Literal["masked_diffusion"] = "masked_diffusion"
    over_time: Literal["rising", "uniform"] = "rising"
    rise: int = Field(default=500, ge=1)
    known: int = Field(default=2, ge=0)
    by_sample: Literal["unseen", "uniform"] = "unseen"
    preference: float = Field(default=1.0, ge=0)
    warm_up: int = Field(default=2, ge=0)
    beam: int = Field(default=20, ge=1)

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return MaskedDiffusion(self, facts)


class MaskedDiffusion(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Objective`."""

    def __init__(self, params: MaskedDiffusionParams, facts: Facts) -> None:
        super().__init__()
        self.params = params
        self.known = min(params.known, facts.levels - 1)
        self.warm_up = min(params.warm_up, facts.levels - 1)
        self.mask = nn.Parameter(torch.randn(facts.d) * facts.d**-0.5)
        # Saved with the weights, so that training goes on where it was.
        self.register_buffer("steps", torch.zeros(()))
        self.steps: Tensor

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return (windows if causal else sliding)(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; targets without an ID count for nothing.

        The loss of a target is the mean over its masked codes.
        """
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        known = (asked >= 0) & (network.trie.place[asked.clamp(min=0)] >= 0)
        rows = network.table.rows(asked)
        masked = self.draw(self._unseen(network, sequences, at, rows))
        states = self._states(network, memory, at, rows, masked)[known]
        of_codes = states.new_zeros(len(states))
        for level, begin in enumerate(network.table.offsets.tolist()):
            chances = network.table.logits(states[:, level], level).float().log_softmax(dim=1)
            own = chances.gather(1, (rows[known][:, level] - begin)[:, None])[:, 0]
            of_codes = of_codes - own.where(masked[known][:, level], 0.0)
        loss = (of_codes / masked[known].sum(dim=1)).sum() / known.sum().clamp(min=1)
        if self.training:
            self.steps += 1
        return loss, known.sum()

    def draw(self, unseen: Tensor) -> Tensor:
        """Choose what is masked.

        Parameters
        ----------
        unseen
            bool [..., levels], whether a code is of no item of the history.

        Returns
        -------
        Tensor
            bool [..., levels], one at least of each target.
        """
        levels = unseen.shape[-1]
        least, most = torch.ones((), device=unseen.device), torch.full((), levels, device=unseen.device)
        if self.params.over_time == "rising":
            gone = (self.steps / self.params.rise).clamp(max=1)
            least, most = 1 + gone * (levels - 1 - self.known), 1 + gone * (levels - 1)
        chance = torch.rand(unseen.shape[:-1], device=unseen.device)
        number = (least + chance * (most - least + 1)).floor().clamp(max=levels)
        # The order of so many draws without replacement, each with odds of its own (Gumbel's trick).
        keys = -torch.log(-torch.log(torch.rand(unseen.shape, device=unseen.device).clamp(1e-9, 1 - 1e-7)))
        if self.params.by_sample == "unseen":
            keys = keys + self.params.preference * unseen
        rank = keys.argsort(dim=-1, descending=True).argsort(dim=-1)
        return rank < number[..., None]

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; with a beam as wide as the catalogue it is exact."""
        memory, at, table = network.read(sequences), sequences.lengths[:, None], network.table
        widest = max(table.code_sizes)

        def told(codes: Tensor, masked: Tensor) -> Tensor:
            states = self._states(network, memory, at, codes + table.offsets, masked)
            logits = [
                pad(table.logits(states[:, :, level], level).float(), (0, widest - size), value=-torch.inf)
                for level, size in enumerate(table.code_sizes)
            ]
            return torch.stack(logits, dim=2).log_softmax(dim=-1)

        trie = network.trie
        codes = table.item_rows[trie.items] - table.offsets
        width = max(self.params.beam, k)
        return unmask(told, codes, trie, len(at), self.warm_up, width, k, excluded)

    def _states(self, network: Network, memory: Memory, at: Tensor, rows: Tensor, masked: Tensor) -> Tensor:
        """Return a state for each code, rows and masked [n, p, levels] to float [n, p, levels, d]."""
        x = torch.where(masked[..., None], self.mask, network.table.embed(rows)) + network.table.place
        return network.backbone.write(memory, at, x, whole=True)

    @staticmethod
    def _unseen(network: Network, sequences: Sequences, at: Tensor, rows: Tensor) -> Tensor:
        """Tell which codes of targets, rows [n, p, levels], are of none of the ``at`` items before, bool."""
        place = torch.arange(sequences.items.shape[1], device=at.device)
        before = network.table.rows(sequences.items)
        same = (rows[:, :, None] == before[:, None]) & (place < at[..., None])[..., None]
        return ~same.any(dim=2)
