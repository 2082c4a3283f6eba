"""Write the first codes of the next item's ID, then a vector: the codes say where to look, the vector for what.

COBRA (Yang et al. 2025, arXiv:2503.02453). Codes are learned by cross-entropy, the vector by contrast with those of other
items. To answer, a beam search finds prefixes; of each the vector is written and compared with every item below it, so
that the lists of items by prefix are searched wholly and need no index of their own; BeamFusion (section 3.4) makes one
ranking of them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from ml.recommenders.base import item_counts
from ml.recommenders.batches import Sequences, Windows, sliding, windows
from ml.recommenders.generative.beam import Normalise, distinct_leaves, prefix_search, ranked
from ml.recommenders.generative.network import Decoding
from ml.recommenders.generative.objectives.autoregressive import path_scores
from ml.recommenders.generative.parts import Facts, Objective, PartParams
from ml.recommenders.generative.tokens.pairs import PairTokens
from ml.recommenders.generative.trie import Trie

if TYPE_CHECKING:
    from ml.histories import Histories
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network

#: Candidates compared at once: times 64 numbers of 4 bytes, 64 MB.
_AT_ONCE = 1 << 18


class SparseDenseParams(PartParams):
    """Parameters of `SparseDense`.

    Parameters
    ----------
    normalise
        See `ml.recommenders.generative.beam.beam_search`; training and decoding do the same.
    temperature
        Of cosines in training.
    negatives
        Items that a vector is told apart from: the targets of the ``batch``, as in the paper, or all ``trained`` ones.
    dense_weight
        Weight of the contrast beside the cross-entropy of the codes.
    beam
        Prefixes kept, at least as many as items asked for.
    fusion
        Whether items of different prefixes compete by BeamFusion; else all items of a likelier prefix come first.
    tau, psi
        BeamFusion's weights of a prefix's log-probability and of a cosine.
    """

    kind: Literal["sparse_dense"] = "sparse_dense"
    normalise: Normalise = "trie"
    temperature: float = Field(default=0.1, gt=0)
    negatives: Literal["batch", "trained"] = "batch"
    dense_weight: float = Field(default=1.0, ge=0)
    beam: int = Field(default=20, ge=1)
    fusion: bool = True
    tau: float = Field(default=1.0, ge=0)
    psi: float = Field(default=10.0, ge=0)

    def check(self, whole: GenerativeParams) -> None:
        """See `ml.recommenders.generative.parts.PartParams`."""
        if whole.tokens.kind != "pairs":
            raise ValueError("objective sparse_dense writes what tokens of kind pairs read")

    def build(self, facts: Facts) -> Objective:
        """Make the part."""
        return SparseDense(self, facts)


class SparseDense(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Objective`.

    An item without a vector is learned by its codes alone, and is as good as a cosine of 0: neither near nor far.
    """

    trained: Tensor

    def __init__(self, params: SparseDenseParams, facts: Facts) -> None:
        super().__init__()
        self.params = params
        self.head = nn.Linear(facts.d, facts.d, bias=False)
        counts = torch.zeros(0) if facts.train is None else item_counts(facts.train, facts.n_items)
        self.register_buffer("trained", torch.as_tensor(counts) > 0, persistent=False)

    def windows(self, histories: Histories, length: int, causal: bool) -> Windows:
        """See `ml.recommenders.generative.parts.Objective`."""
        return (windows if causal else sliding)(histories, length)

    def loss(self, network: Network, sequences: Sequences, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`; targets without an ID count for nothing."""
        memory = network.read(sequences)
        at, asked = network.asked(sequences, targets)
        leaves = torch.where(asked >= 0, network.trie.place[asked.clamp(min=0)], -1)
        known = leaves >= 0
        rows = network.table.rows(asked)[..., : _tokens(network).depth]
        states = network.backbone.write(memory, at, network.table.inputs(rows))[known]
        loss = 0 * states.sum()
        if len(states):
            chosen = path_scores(network, states[:, :-1], leaves[known], self.params.normalise)
            loss = loss - chosen.sum(dim=1).mean()
            loss = loss + self.params.dense_weight * self.contrast(network, states[:, -1], asked[known])
        return loss, known.sum()

    def contrast(self, network: Network, states: Tensor, items: Tensor) -> Tensor:
        """Return the mean loss of telling items by their vectors.

        Parameters
        ----------
        states
            float [m, d], after the codes of the items.
        items
            int64 [m]; those without a vector count for nothing.
        """
        tokens = _tokens(network)
        told = tokens.known[items]
        if not bool(told.any()):
            return 0 * states.sum()
        among = items[told].unique()
        if self.params.negatives == "trained":
            among = torch.nonzero(self.trained & tokens.known)[:, 0]
        own = torch.searchsorted(among, items[told])
        cosines = self.written(states[told]) @ normalize(tokens.dense(among), dim=-1).T
        return cross_entropy(cosines.float() / self.params.temperature, own)

    def written(self, states: Tensor) -> Tensor:
        """Return the vectors of length 1 that states [..., d] after the codes stand for, float [..., d]."""
        return normalize(self.head(states), dim=-1)

    def rank(
        self, network: Network, sequences: Sequences, k: int, excluded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ml.recommenders.generative.parts.Objective`."""
        params, tokens, trie = self.params, _tokens(network), network.trie
        writing, n = _Writing(network, sequences, params.normalise), len(sequences.lengths)
        dead = None if excluded is None else distinct_leaves(trie, excluded)
        nodes, beams, _ = prefix_search(
            writing, trie, n, max(params.beam, k), tokens.depth, dead, params.normalise
        )
        table = normalize(tokens.dense(trie.items), dim=-1) * tokens.known[trie.items][:, None]
        leaves, cosines = below(trie, tokens.depth, nodes, self.written(writing.state), table)
        scores = fused(beams, cosines, params.tau, params.psi) if params.fusion else in_turn(beams, cosines)
        leaves, scores = leaves.flatten(1), scores.flatten(1)
        if dead is not None:
            dead = pad(dead, (0, 1), value=len(trie))
            scores = scores.masked_fill(
                dead.gather(1, torch.searchsorted(dead, leaves)) == leaves, -torch.inf
            )
        scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
        return ranked(trie.items[leaves.gather(1, best)], scores, k)


class _Writing(Decoding):
    """A generation that keeps the states of its hypotheses, from which vectors are written."""

    state: Tensor

    def logits(self, states: Tensor) -> Tensor:
        """See `Decoding.logits`."""
        self.state = states
        return super().logits(states)


def below(trie: Trie, depth: int, nodes: Tensor, asked: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Compare a vector of each node with the items below it.

    Parameters
    ----------
    depth, nodes
        int64 [n, beams], nodes of that depth.
    asked
        float [n, beams, d].
    table
        float [leaves, d].

    Returns
    -------
    leaves, products
        int64 and float [n, beams, most], inner products; 0 and -inf where a node has fewer.
    """
    first = trie.leaves[depth][nodes].flatten()
    size = trie.leaves[depth][nodes + 1].flatten() - first
    most = int(size.max())
    leaves = first.new_zeros(len(first), most)
    products = asked.new_full((len(first), most), -torch.inf)
    asked = asked.flatten(0, 1)
    # Lists differ much in length: only what is there is gathered, so many nodes at once that it fits.
    step = max(1, _AT_ONCE // most)
    for start in range(0, len(first), step):
        some = size[start : start + step]
        row = torch.repeat_interleave(some)
        column = torch.arange(len(row), device=row.device) - (some.cumsum(0) - some)[row]
        row += start
        leaf = first[row] + column
        leaves[row, column] = leaf
        products[row, column] = (asked[row] * table[leaf]).sum(dim=-1)
    return leaves.view(*nodes.shape, most), products.view(*nodes.shape, most)


def fused(beams: Tensor, cosines: Tensor, tau: float, psi: float) -> Tensor:
    """Return the logarithm of BeamFusion's scores, float [n, beams, most].

    The softmax of ``tau * beams`` over the beams [n, beams], times that of ``psi * cosines`` over the items of a beam
    [n, beams, most]: with both weights as in training the probability of an item, given the codes that were kept.
    """
    alive = torch.isfinite(beams)[:, :, None] & torch.isfinite(cosines)
    scores = _log_softmax(tau, beams, 1)[:, :, None] + _log_softmax(psi, cosines, 2)
    return torch.where(alive, scores, -torch.inf)


def _log_softmax(weight: float, of: Tensor, dim: int) -> Tensor:
    return torch.where(torch.isfinite(of), weight * of, -torch.inf).log_softmax(dim)


def in_turn(beams: Tensor, cosines: Tensor) -> Tensor:
    """Return scores that put all items of a beam before those of the next; shapes as of `fused`."""
    turn = torch.arange(beams.shape[1], device=beams.device)[:, None]
    return torch.where(torch.isfinite(beams)[:, :, None], cosines - 3.0 * turn, -torch.inf)


def _tokens(network: Network) -> PairTokens:
    return cast(PairTokens, network.tokens)
