"""The network of a generative recommender: its parts, and how one is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.beam import Normalise
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import (
    Auxiliary,
    Backbone,
    Facts,
    Groups,
    Memory,
    Objective,
    Steps,
    Tokens,
    WritingTokens,
)
from ml.recommenders.generative.trie import Trie


class Network(nn.Module):
    """Histories in, semantic IDs out."""

    def __init__(
        self,
        facts: Facts,
        tokens: Tokens,
        backbone: Backbone,
        objective: Objective,
        auxiliary: Sequence[Auxiliary] = (),
    ) -> None:
        super().__init__()
        self.table = CodeTable(facts.codes, facts.code_sizes, facts.d)
        self.tokens, self.backbone, self.objective = tokens, backbone, objective
        self.auxiliary: Sequence[Auxiliary] = nn.ModuleList(auxiliary)  # type: ignore[assignment,arg-type]
        self._trie = facts.trie
        # Saved, since it gives the sizes of what reads behaviours.
        self.register_buffer("behaviours", torch.tensor(facts.behaviours))

    @property
    def trie(self) -> Trie:
        """The IDs that exist, on the device of the weights."""
        self._trie = self._trie.to(self.table.table.device)
        return self._trie

    def use(self, rows: Tensor, trie: Trie) -> tuple[Tensor, Trie]:
        """Know the items by other IDs of the same codes; return those before.

        Parameters
        ----------
        rows
            int64 [n_items, levels]; see `CodeTable.known_rows`.
        trie
            Of the same IDs.
        """
        before = self.table.item_rows, self._trie
        self.table.item_rows, self._trie = rows, trie
        return before

    def read(self, sequences: Sequences) -> Memory:
        """Read histories."""
        embedded = self.tokens(self.table, sequences)
        lengths = self.tokens.groups(sequences) if isinstance(self.tokens, Groups) else sequences.lengths
        return self.backbone.read(embedded, self.table.start, lengths)

    def asked(self, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many items precede each target and the targets, both int64 [n, p]; -1 where there is none."""
        if not self.backbone.causal:
            last = (sequences.lengths - 1).clamp(min=0)[:, None]
            return last + 1, targets.gather(1, last)
        at = torch.arange(1, targets.shape[1] + 1, device=targets.device)
        return at.expand_as(targets), targets

    def states(self, memory: Memory, at: Tensor, targets: Tensor) -> Tensor:
        """Return the states before every code of the targets, float [n, p, levels, d].

        Parameters
        ----------
        at, targets
            int64 [n, p]; see `asked`.
        """
        x = self.table.inputs(self.table.rows(targets)[..., :-1])
        if isinstance(self.tokens, WritingTokens):
            x = self.tokens.written(x)
        return self.backbone.write(memory, at, x)

    def forward(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, the tensors of `Sequences` and targets, and its number of targets."""
        *read, targets = batch
        return self.objective.loss(self, Sequences(*read), targets)


class Decoding:
    """One generation: the history is read once, its keys and values are shared by all hypotheses of a user."""

    def __init__(self, network: Network, sequences: Sequences, normalise: Normalise = "vocabulary") -> None:
        table = network.table
        self.network = network
        self.scores = table.log_probabilities if normalise == "table" else table.logits
        self.memory = network.read(sequences)
        self.at = self.memory.lengths[:, None]
        self.level = 0
        self.steps: Steps = network.backbone.steps(self.memory, self.at, table)
        # What was put in so far, for tokens whose embedding depends on those before them.
        self.written: Tensor | None = None

    def start(self) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        table = self.network.table
        return self._advance(table.inputs(table.offsets.new_zeros(len(self.at), 1, 0)), None)

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        table = self.network.table
        rows = codes + table.offsets[self.level]
        embedded = table.embed(rows)
        self.level += 1
        if self.written is not None:
            users = torch.arange(len(codes), device=codes.device)[:, None]
            self.written = self.written[users, parents]
        return self._advance((embedded + table.place[self.level])[:, :, None], parents, rows)

    def _advance(self, x: Tensor, parents: Tensor | None, rows: Tensor | None = None) -> Tensor:
        if isinstance(self.network.tokens, WritingTokens):
            rows = None
            self.written = x if self.written is None else torch.cat([self.written, x], dim=2)
            x = self.network.tokens.written(self.written)[:, :, -1:]
        states, self.steps = self.steps.write(x[:, :, 0], parents, rows)
        return self.logits(states)

    def logits(self, states: Tensor) -> Tensor:
        """Score the codes of this level, states [n, hypotheses, d] to [n, hypotheses, size of the level]."""
        return self.scores(states, self.level)
