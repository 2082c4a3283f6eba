"""Training on several IDs of every item, drawn batch by batch, those more often that teach most for the one served.

MTGRec (Zheng et al., SIGIR 2025, arXiv:2504.04400). Only the last of an item's IDs is ever recommended.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.evaluation.splits import Queries
from ml.histories import Histories
from ml.recommenders.batches import Plans, Sequences
from ml.recommenders.generative.parts import PartParams
from ml.recommenders.generative.trie import Trie, build_trie
from ml.recommenders.training import train_network

if TYPE_CHECKING:
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network
    from ml.recommenders.generative.stages import Course
    from ml.snapshot import Catalogue


class IdentifiersParams(PartParams):
    """Parameters of `Identifiers`.

    Parameters
    ----------
    count
        How many IDs of each item, the served one counted; None takes all that the catalogue has.
    curriculum
        Draw an identifier by the influence of its data, measured before every epoch; otherwise evenly.
    temperature
        Of the draw; the lower, the more one identifier is preferred.
    held_out
        Users upon the loss of whose last training event influence is measured. Where there is an evaluation, no variant is
        trained on these events in this stage, so that variants differ in nothing else; what is served (protocol ``full``)
        is trained on all of them.
    probes
        Training batches that influence is measured on.
    """

    count: int | None = Field(default=None, ge=1)
    curriculum: bool = True
    temperature: float = Field(default=1.0, gt=0)
    held_out: int = Field(default=512, ge=1)
    probes: int = Field(default=2, ge=1)

    def check(self, whole: GenerativeParams) -> None:
        """Refuse objectives that are not known to read IDs from the network alone, and what is compiled."""
        if whole.objective.kind != "autoregressive" or whole.compile:
            raise ValueError("several identifiers need an autoregressive objective that is not compiled")

    def train(self, course: Course) -> dict[str, Any]:
        """Train the network of a course; see `ml.recommenders.training.train_network`."""
        network, params = course.recommender.fitted(), course.recommender.params
        left, held = hold_out(course.split.train, self.held_out, params.length, course.seed)
        plans = course.plans
        if course.split.protocol != "full":
            cut = network.objective.windows(left, params.length, network.backbone.causal)
            plans = Plans(cut, params.batch_tokens)
        taught = Identifiers(self, network, course.catalogue, held if self.curriculum else None)
        report = train_network(
            taught,
            lambda rng: taught.batches(plans, rng),
            len(plans),
            params,
            course.seed,
            course.score,
            course.checkpoints,
        )
        return {**report, "shares": [round(share, 4) for share in taught.shares.tolist()]}


class Identifiers(nn.Module):
    """A network that is trained on several IDs of every item.

    The influence of an identifier's data upon the loss of a batch of others, told under the IDs that are served, is to
    first order the product of the two gradients. Only ratios between identifiers count, so
    the products of one look are divided by their mean size; looks are averaged.
    """

    def __init__(
        self,
        params: IdentifiersParams,
        network: Network,
        catalogue: Catalogue,
        held: tuple[Tensor, ...] | None,
    ) -> None:
        """Make it.

        Parameters
        ----------
        params, network
            See there.
        catalogue
            Its ``more_codes`` are the other IDs.
        held
            A batch upon whose loss influence is measured; None where it is not.
        """
        super().__init__()
        self.params, self.network, self.held = params, network, held
        others = len(catalogue.more_codes) if params.count is None else params.count - 1
        codes = catalogue.more_codes[len(catalogue.more_codes) - min(others, len(catalogue.more_codes)) :]
        rows = network.table.known_rows(torch.from_numpy(codes.astype(np.int64)))
        self.register_buffer("rows", rows, persistent=False)
        self.tries = [build_trie(one, network.table.code_sizes) for one in codes]
        self.register_buffer("influence", torch.zeros(1 + len(codes), dtype=torch.float64))
        self.register_buffer("looks", torch.zeros((), dtype=torch.float64))
        self.rows: Tensor
        self.influence: Tensor
        self.looks: Tensor

    def __len__(self) -> int:
        return len(self.influence)

    @property
    def shares(self) -> NDArray[np.float64]:
        """How often each identifier is drawn, float64 [identifiers], the served one last."""
        mean = self.influence / self.looks.clamp(min=1) / self.params.temperature
        shares: NDArray[np.float64] = mean.softmax(dim=0).cpu().numpy()
        return shares

    def forward(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """See `Network.forward`."""
        found: tuple[Tensor, Tensor] = self.network(batch)
        return found

    def batches(self, plans: Plans, rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch; the network knows the items by the IDs drawn for a batch as long as it lasts."""
        if len(self) == 1:
            yield from plans.batches(rng)
            return
        if self.held is not None:
            self._look(plans, rng, self.held)
        drawn = rng.choice(len(self), size=len(plans), p=self.shares)
        served = self.network.use(self.network.table.item_rows, self.network.trie)
        for batch, identifier in zip(plans.batches(rng), drawn.tolist(), strict=True):
            self._use(identifier, served)
            yield batch
        self.network.use(*served)

    def _use(self, identifier: int, served: tuple[Tensor, Trie]) -> None:
        if identifier == len(self.tries):
            self.network.use(*served)
        else:
            self.tries[identifier] = self.tries[identifier].to(self.rows.device)
            self.network.use(self.rows[identifier], self.tries[identifier])

    def _look(self, plans: Plans, rng: np.random.Generator, held: tuple[Tensor, ...]) -> None:
        """Measure the influence of each identifier's data at these weights."""
        probes = list(itertools.islice(plans.batches(rng), self.params.probes))
        training = self.network.training
        self.network.eval()
        served = self.network.use(self.network.table.item_rows, self.network.trie)
        wanted = self._gradient([held])
        products = []
        for identifier in range(len(self)):
            self._use(identifier, served)
            taught = self._gradient(probes)
            products.append(sum(float((one * two).sum()) for one, two in zip(wanted, taught, strict=True)))
        self.network.use(*served)
        self.network.train(training)
        found = torch.tensor(products, dtype=torch.float64, device=self.influence.device)
        self.influence += found / found.abs().mean().clamp(min=1e-30)
        self.looks += 1

    def _gradient(self, batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
        device = self.network.table.table.device
        parameters = list(self.network.parameters())
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for batch in batches:
            loss, _ = self.network(tuple(tensor.to(device) for tensor in batch))
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            for place, one in zip(total, found, strict=True):
                if one is not None:
                    place += one
        return total


def hold_out(
    train: Histories, users: int, length: int, seed: int
) -> tuple[Histories, tuple[Tensor, ...] | None]:
    """Take the last event of some users out of training histories.

    Parameters
    ----------
    train
        Training histories.
    users
        How many; fewer where fewer have three events, the least that leaves one to learn.
    length
        Latest history items that are read.
    seed
        Of the draw.

    Returns
    -------
    What is left, and a batch of what was taken: the four tensors of `Sequences`, and targets int64 [n, length], -1
    but at the last place; None in its place where nobody has three events.
    """
    able = np.flatnonzero(train.lengths >= 3)
    drawn = np.sort(np.random.default_rng([seed, 1]).permutation(able)[:users])
    if not len(drawn):
        return train, None
    lengths = train.lengths.copy()
    lengths[drawn] -= 1
    left = train.head(lengths)
    asked = Queries(drawn.astype(np.int32), left.rows(drawn), train.items[train.offsets[drawn + 1] - 1])
    read = Sequences.of(asked.histories, length)
    targets = torch.full_like(read.items, -1)
    last = (read.lengths - 1)[:, None]
    targets.scatter_(1, last, torch.from_numpy(asked.targets.astype(np.int64))[:, None])
    return left, (*read[:4], targets)
