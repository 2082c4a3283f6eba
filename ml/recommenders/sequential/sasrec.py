"""SASRec (Kang and McAuley 2018): self-attention over a history, trained to predict every next item by softmax.

Only items with a training event are candidates while training. Items without one share the zero vector and a
constant that keeps them below every trained item (`Network.vectors`), unless the item net can place them
(``id_and_vectors``); so no item is recommended for its random start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.evaluation.evaluate import evaluate
from ml.evaluation.splits import Queries, Split
from ml.histories import Histories
from ml.recommenders.base import (
    RecommenderParams,
    item_counts,
    mask_history,
    read_params,
    read_weights,
    reproducible,
    top_k,
    write_config,
    write_weights,
)
from ml.recommenders.sequential.batches import Batch, Plans, windows
from ml.recommenders.sequential.parts import (
    Block,
    FullSoftmax,
    IdAndVectors,
    IdEmbedding,
    ItemNet,
    Loss,
    SampledSoftmax,
)

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from ml.snapshot import Catalogue

_ROWS = 1024
_SAMPLE_FOR_EMPTY = 1000


class SASRecParams(RecommenderParams):
    """Parameters of `SASRec`.

    Parameters
    ----------
    item_net
        ``id``, or ``id_and_vectors``: plus a linear map of the catalogue's vectors.
    d, blocks, heads, feed_forward
        Width, depth, attention heads, width of the point-wise net over d.
    max_length
        Latest history items that are read.
    dropout, pre_norm
        See `ml.recommenders.sequential.parts.Block`.
    loss, negatives
        ``full`` softmax, or over the target and that many negatives drawn ``uniform`` or ``log_uniform``.
    learning_rate, weight_decay, warmup, batch_tokens
        AdamW; the rate rises over ``warmup`` steps and falls linearly to a tenth over all epochs; items a batch.
    epochs, patience, valid_users
        Most epochs; epochs without a better NDCG@10 on a fixed sample of validation users before it stops.
    precision
        As Lightning Fabric names it.
    """

    item_net: Literal["id", "id_and_vectors"] = "id"
    d: int = Field(default=64, ge=2)
    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=1, ge=1)
    feed_forward: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=50, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    pre_norm: bool = True
    loss: Literal["full", "uniform", "log_uniform"] = "full"
    negatives: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=50, ge=0)
    batch_tokens: int = Field(default=4096, ge=1)
    epochs: int = Field(default=12, ge=1)
    patience: int = Field(default=3, ge=1)
    valid_users: int = Field(default=1000, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide d ({self.d})")
        return self


class Network(nn.Module):
    """The transformer: item indices in, a state after every place out.

    Parameters
    ----------
    params
        Shape of the network.
    trained
        bool [n_items], items with a training event.
    vectors
        float32 [n_items, width] of the catalogue.
    """

    trained: Tensor
    default: Tensor

    def __init__(self, params: SASRecParams, trained: Tensor, vectors: Tensor) -> None:
        super().__init__()
        self.params = params
        self.item_net: ItemNet = (
            IdEmbedding(len(trained), params.d)
            if params.item_net == "id"
            else IdAndVectors(len(trained), params.d, vectors)
        )
        self.position = nn.Parameter(torch.randn(params.max_length, params.d) * 0.02)
        hidden = max(1, round(params.d * params.feed_forward))
        self.blocks = nn.Sequential(
            *(
                Block(params.d, params.heads, hidden, params.dropout, params.pre_norm)
                for _ in range(params.blocks)
            )
        )
        self.drop, self.norm = nn.Dropout(params.dropout), nn.LayerNorm(params.d)
        self.register_buffer("trained", trained)
        self.register_buffer("default", torch.zeros(params.d))

    def states(self, items: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
        """Encode items int64 [n, length], padded on the right, by a table [n_items, d]; float [n, length, d].

        A place is numbered from the end of its own sequence, so that the latest item is always at the last.
        """
        places = torch.arange(items.shape[1], device=items.device) - lengths[:, None] + self.params.max_length
        x = table[items] * math.sqrt(self.params.d)
        x = x + self.position[places.clamp(max=self.params.max_length - 1)]
        encoded: Tensor = self.norm(self.blocks(self.drop(x)))
        return encoded

    def forward(self, items: Tensor, lengths: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Return the training loss; targets int64 [n, length], -1 where there is none."""
        real, table = targets >= 0, self.item_net()
        row = torch.cumsum(self.trained, dim=0) - 1
        return loss(self.states(items, lengths, table)[real], table[self.trained], row[targets[real]])

    @torch.no_grad()
    def query(self, items: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
        """Return the state after the last item, float [n, d]; the mean query where there is no item."""
        states = self.states(items, lengths, table)
        last = states[torch.arange(len(items), device=items.device), (lengths - 1).clamp(min=0)]
        return torch.where((lengths > 0)[:, None], last, self.default)

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """Return item vectors, float [n_items, d + 1], for queries that end in 1.

        The last column is 0 for items that the item net can place. The others are zero but for that column: a
        constant below every score that a placed item can get, since a query is the output of a layer norm and so
        no longer than ``sqrt(d) * max|gain| + |bias|``.
        """
        table, placed = self.item_net.settled(self.trained)
        longest = math.sqrt(self.params.d) * self.norm.weight.abs().max() + self.norm.bias.norm()
        floor = -2 * longest * table.norm(dim=1).max()
        return torch.cat([table, torch.where(placed, 0.0, floor)[:, None]], dim=1)


class SASRec:
    """Recommend what a causal transformer expects next."""

    kind: ClassVar[str] = "sasrec"
    Params: ClassVar[type[RecommenderParams]] = SASRecParams
    training_free: ClassVar[bool] = False

    def __init__(self, params: SASRecParams) -> None:
        self.params = params
        self.network: Network | None = None
        self.items = torch.zeros(0, 0)

    def fit(self, split: Split, catalogue: Catalogue, seed: int) -> dict[str, Any]:
        """Train; the weights kept are those of the best epoch. See `ml.recommenders.base.Recommender.fit`.

        Raises
        ------
        ValueError
            If no history has two events, or if the loss is no longer finite.
        """
        with reproducible(seed):
            return self._fit(split, catalogue, seed)

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        items = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        for start in range(0, len(histories), _ROWS):
            rows = slice(start, start + _ROWS)
            some = histories.rows(rows)
            dense = self._queries(some) @ self.items.T
            if exclude_history:
                mask_history(dense, some)
            items[rows], scores[rows] = top_k(dense, k)
        return items, scores

    def item_vectors(self) -> NDArray[np.float32]:
        """Return float32 [n_items, d + 1]; the last column keeps untrained items below all others."""
        vectors: NDArray[np.float32] = self.items.cpu().numpy()
        return vectors

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        """Return float32 [n, d + 1], the last column 1."""
        parts = [
            self._queries(histories.rows(slice(start, start + _ROWS))).cpu().numpy()
            for start in range(0, len(histories), _ROWS)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.params.d + 1), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        tensors = self._network.state_dict()
        write_weights(folder, {name: tensor.cpu().numpy() for name, tensor in tensors.items()})
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """See `ml.recommenders.base.Recommender.load`."""
        made = cls(read_params(folder, SASRecParams))
        tensors = {name: torch.from_numpy(array) for name, array in read_weights(folder).items()}
        if len(tensors["trained"]) != len(catalogue):
            raise ArtifactError(
                f"{folder} was trained on {len(tensors['trained'])} items, not {len(catalogue)}"
            )
        made.network = Network(made.params, tensors["trained"], torch.from_numpy(catalogue.vectors))
        made.network.load_state_dict(tensors)
        made._freeze()
        return made

    @property
    def _network(self) -> Network:
        if self.network is None:
            raise ValueError("this SASRec is not fitted")
        return self.network

    def _freeze(self) -> None:
        """Make the network ready to answer."""
        self._network.eval()
        self.items = self._network.vectors()

    def _queries(self, histories: Histories) -> Tensor:
        """Encode histories, float [n, d + 1]; short ones are not padded to the longest of the model."""
        recent = histories.tail(self.params.max_length)
        width = max(1, int(recent.lengths.max(initial=0)))
        padded = np.zeros((len(recent), width), dtype=np.int64)
        padded[np.arange(width) < recent.lengths[:, None]] = recent.items
        device = self.items.device
        items, lengths = torch.from_numpy(padded).to(device), torch.from_numpy(recent.lengths).to(device)
        states = self._network.query(items, lengths, self.items[:, :-1])
        return torch.cat([states, torch.ones(len(states), 1, device=device)], dim=1)

    def _fit(self, split: Split, catalogue: Catalogue, seed: int) -> dict[str, Any]:
        # Lightning takes seconds to import and is needed only here.
        from lightning.fabric import Fabric

        started, params = time.perf_counter(), self.params
        cut = windows(split.train, params.max_length)
        if len(cut.starts) == 0:
            raise ValueError("no training history has two events: nothing to learn a sequence from")
        counts = torch.from_numpy(item_counts(split.train, len(catalogue)))
        fabric = Fabric(accelerator="auto", devices=1, precision=params.precision)
        network = self.network = Network(params, counts > 0, torch.from_numpy(catalogue.vectors))
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
        )
        model, optimizer = fabric.setup(network, optimizer)
        loss = self._loss(counts[counts > 0].to(fabric.device))
        rng = np.random.default_rng(seed)
        plans = Plans(cut, params.batch_tokens)
        steps = params.epochs * len(plans)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate(step, steps, params.warmup)
        )
        sample = _sample(split.valid, params.valid_users, seed)
        losses: list[float] = []
        scores: list[float] = []
        best: dict[str, Tensor] = {}
        for epoch in range(params.epochs):
            network.train()
            losses.append(_epoch(fabric, model, optimizer, schedule, loss, plans.batches(rng)))
            if not math.isfinite(losses[-1]):
                raise ValueError(f"the loss is {losses[-1]} after epoch {epoch + 1}: lower the learning rate")
            if len(sample):
                self._freeze()
                score = evaluate(self, sample, split.train, len(catalogue), k=10).metrics["ndcg@10"]
                if score > max(scores, default=-1.0):
                    best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                scores.append(score)
                if epoch - int(np.argmax(scores)) >= params.patience:
                    break
        if best:
            network.load_state_dict(best)
        self._set_default(split.train, rng)
        epochs = int(np.argmax(scores)) + 1 if scores else params.epochs
        return {
            "losses": losses,
            "valid_ndcg@10": scores,
            "epochs": epochs,
            "refit": {"epochs": epochs},
            "untrained_items": int((counts == 0).sum()),
            "device": str(fabric.device),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _loss(self, counts: Tensor) -> Loss:
        if self.params.loss == "full":
            return FullSoftmax()
        return SampledSoftmax(counts, self.params.negatives, self.params.loss == "log_uniform")

    def _set_default(self, train: Histories, rng: np.random.Generator) -> None:
        """Answer an empty history as the average of a sample of training users."""
        self._freeze()
        users = rng.permutation(np.flatnonzero(train.lengths > 0))[:_SAMPLE_FOR_EMPTY]
        self._network.default.copy_(self._queries(train.rows(users))[:, :-1].mean(dim=0))


def _epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loss: Loss,
    epoch_batches: Iterable[Batch],
) -> float:
    """Take one step a batch; return the mean loss of a target."""
    total, tokens = 0.0, 0
    for batch in epoch_batches:
        items, targets, lengths = (torch.from_numpy(array).to(fabric.device) for array in batch)
        value = model(items, lengths, targets, loss)
        fabric.backward(value)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        n = int(batch[2].sum())
        total, tokens = total + n * float(value.detach()), tokens + n
    return total / tokens


def _rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    return rising * (1 - 0.9 * step / steps)


def _sample(queries: Queries, most: int, seed: int) -> Queries:
    """Draw at most that many queries, in their order."""
    drawn = np.random.default_rng(seed).permutation(len(queries))[:most]
    return queries.take(np.sort(drawn))
