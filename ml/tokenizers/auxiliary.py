"""Losses that pull the codes of RQ-VAE towards what users do, or apart from each other.

Wang et al., "Learnable Item Tokenization for Generative Recommendation" (LETTER, arXiv:2405.07314), section 3.2, for
`Alignment` and `Diversity`; Zheng et al., "Universal Item Tokenization for Transferable Generative Recommendation"
(UTGRec, arXiv:2504.04405), for `CoOccurrence`. Items are compared by cosines over a temperature, so that no loss can be
lowered by making vectors longer; code vectors by inner products, as in LETTER.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.tokenizers.base import check_vectors
from ml.tokenizers.items import ItemData
from ml.tokenizers.kmeans import kmeans, nearest
from ml.tokenizers.networks import Autoencoder
from ml.tokenizers.quantizers import Quantised

if TYPE_CHECKING:
    from ml.tokenizers.rqvae import RQVAEParams

BEHAVIOUR = "behaviour"


@dataclass(frozen=True)
class Step:
    """What a batch looks like when auxiliary losses are asked.

    Parameters
    ----------
    rows
        Items of the batch, int64 [n].
    quantised
        Their codes, residuals and code vectors.
    passed
        Sums of code vectors [n, latent] whose gradient reaches the encoder.
    """

    rows: Tensor
    quantised: Quantised
    passed: Tensor


# Quantises items and lets gradients pass: rows int64 [n] to sums of code vectors [n, latent].
Passes = Callable[[Tensor], Tensor]


class Auxiliary(Protocol):
    """A further loss of the training.

    Attributes
    ----------
    name
        For the report.
    """

    name: str

    def parameters(self) -> list[nn.Parameter]:
        """Return what of it is to be learned."""
        ...

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Draw or measure what stays the same for an epoch."""
        ...

    def loss(self, step: Step) -> Tensor:
        """Return the weighted loss of a batch, a scalar."""
        ...


def info_nce(left: Tensor, right: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Return the mean contrastive loss that tells row i of ``right`` from its other rows by row i of ``left``.

    Parameters
    ----------
    left, right
        [n, d] each.
    temperature
        Divides the cosines.
    same
        bool [n, n]: pairs that are no counter-examples; the diagonal is not looked at.

    Returns
    -------
    Tensor
        Scalar; van den Oord et al., "Contrastive Predictive Coding" (arXiv:1807.03748), equation 4.
    """
    cosines = nn.functional.normalize(left, dim=1) @ nn.functional.normalize(right, dim=1).T / temperature
    own = torch.eye(len(left), dtype=torch.bool, device=left.device)
    if same is not None:
        cosines = cosines.masked_fill(same & ~own, -torch.inf)
    return nn.functional.cross_entropy(cosines, torch.arange(len(left), device=left.device))


class Alignment:
    """LETTER's collaborative loss: the quantised latent of an item finds the item's behaviour vector in the batch.

    A linear head maps latent vectors to the width of behaviour vectors [n, d]; rows of zeros take no part.
    """

    name = "alignment"

    def __init__(self, behaviour: Tensor, latent: int, weight: float, temperature: float) -> None:
        self._known = (behaviour != 0).any(dim=1)
        self._targets = behaviour - behaviour[self._known].mean(dim=0)
        self._head = nn.Linear(latent, behaviour.shape[1]).to(behaviour.device)
        self._weight, self._temperature = weight, temperature

    def parameters(self) -> list[nn.Parameter]:
        """Return the head's."""
        return list(self._head.parameters())

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Do nothing."""

    def loss(self, step: Step) -> Tensor:
        """Return InfoNCE over the items of the batch that have behaviour."""
        known = self._known[step.rows]
        if int(known.sum()) < 2:
            return step.passed.new_zeros(())
        targets = self._targets[step.rows[known]]
        return self._weight * info_nce(self._head(step.passed[known]), targets, self._temperature)


class Diversity:
    """LETTER's diversity loss: a code comes nearer to a code of its cluster and goes away from all others.

    The code vectors of every level are clustered anew each epoch. The paper clusters into groups of equal size; plain
    k-means stands here. The loss reaches codes that no item chooses, and so can bring them back.
    """

    name = "diversity"

    def __init__(self, books: nn.Parameter, clusters: int, weight: float) -> None:
        self._books, self._clusters, self._weight = books, clusters, weight
        self._partners = torch.zeros(0)

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing."""
        return []

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Cluster the books, and draw each code's partner of its cluster."""
        levels = [self._draw(book, rng) for book in self._books.detach().cpu().numpy()]
        self._partners = torch.from_numpy(np.stack(levels)).to(self._books.device)

    def _draw(self, book: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return another code of each code's cluster, -1 where it is alone."""
        clusters = min(self._clusters, len(book) // 2)
        cluster = nearest(book, kmeans(book, clusters, rng))[0]
        partner = np.full(len(book), -1, np.int64)
        for label in range(clusters):
            members = rng.permutation(np.flatnonzero(cluster == label))
            if len(members) > 1:
                partner[members] = np.roll(members, 1)
        return partner

    def loss(self, step: Step) -> Tensor:
        """Return the mean over levels and items of the cross-entropy of the partner among all other codes."""
        total = step.passed.new_zeros(())
        for book, codes, partners in zip(self._books, step.quantised.codes.T, self._partners, strict=True):
            codes = codes[partners[codes] >= 0]
            if len(codes) == 0:
                continue
            own = nn.functional.one_hot(codes, len(book)).bool()
            logits = (book[codes] @ book.T).masked_fill(own, -torch.inf)
            total = total + nn.functional.cross_entropy(logits, partners[codes])
        return self._weight * total / len(self._books)


class CoOccurrence:
    """UTGRec's collaborative losses: items of one history have codes alike, and decode towards each other.

    Each epoch draws one partner for every item, in proportion to how often the two follow each other either way; items
    without transitions take no part.

    Parameters
    ----------
    items
        With their transitions.
    data
        What is to be reconstructed, [n, width].
    network
        Whose decoder is used.
    passes
        Quantises partners.
    alignment, reconstruction
        Weights of the two losses.
    temperature
        Of the contrastive one.
    """

    name = "cooccurrence"

    def __init__(
        self,
        items: ItemData,
        data: Tensor,
        network: Autoencoder,
        passes: Passes,
        alignment: float,
        reconstruction: float,
        temperature: float,
    ) -> None:
        if items.pairs is None:
            raise ArtifactError("there are no pairs of the items")
        both = (items.pairs + items.pairs.T).tocsr()
        both.setdiag(0)
        both.eliminate_zeros()
        self._starts = both.indptr.astype(np.int64)
        self._others = both.indices.astype(np.int64)
        self._up_to = np.concatenate([[0.0], np.cumsum(both.data, dtype=np.float64)])
        self._partners = torch.zeros(0)
        self._data, self._network, self._passes = data, network, passes
        self._alignment, self._reconstruction = alignment, reconstruction
        self._temperature = temperature

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing."""
        return []

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Draw each item's partner."""
        first, last = self._starts[:-1], self._starts[1:]
        low, high = self._up_to[first], self._up_to[last]
        drawn = np.searchsorted(self._up_to, low + rng.random(len(first)) * (high - low), side="right") - 1
        partners = np.full(len(first), -1, np.int64)
        some = last > first
        partners[some] = self._others[np.clip(drawn[some], first[some], last[some] - 1)]
        self._partners = torch.from_numpy(partners).to(self._data.device)

    def loss(self, step: Step) -> Tensor:
        """Return the two losses over the items of the batch that have a partner."""
        partners = self._partners[step.rows]
        some = partners >= 0
        total = step.passed.new_zeros(())
        if int(some.sum()) < 2:
            return total
        rows, partners, passed = step.rows[some], partners[some], step.passed[some]
        if self._alignment > 0:
            same = (partners[:, None] == partners) | (rows[:, None] == partners)
            others = self._passes(partners)
            total = total + self._alignment * info_nce(passed, others, self._temperature, same)
        if self._reconstruction > 0:
            decoded = self._network.decoder(passed)
            total = total + self._reconstruction * nn.functional.mse_loss(decoded, self._data[partners])
        return total


def auxiliaries(
    params: RQVAEParams, items: ItemData, data: Tensor, network: Autoencoder, passes: Passes
) -> list[Auxiliary]:
    """Return the losses that the parameters switch on.

    Raises
    ------
    ArtifactError
        If one needs what was not given of the items.
    """
    found: list[Auxiliary] = []
    books = network.quantizer.books
    if params.alignment > 0:
        behaviour = torch.from_numpy(check_vectors("alignment", items.space(BEHAVIOUR))).to(data.device)
        found.append(Alignment(behaviour, books.shape[2], params.alignment, params.temperature))
    if params.diversity > 0:
        found.append(Diversity(books, params.clusters, params.diversity))
    if params.cooccurrence > 0 or params.cooccurrence_reconstruction > 0:
        found.append(
            CoOccurrence(
                items,
                data,
                network,
                passes,
                params.cooccurrence,
                params.cooccurrence_reconstruction,
                params.temperature,
            )
        )
    return found
