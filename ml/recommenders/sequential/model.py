"""Sequential recommenders, made of parts that a recipe names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import (
    RecommenderParams,
    encode,
    item_counts,
    rank_dense,
    read_params,
    read_weights,
    reproducible,
    write_config,
    write_weights,
)
from ml.recommenders.batches import Plans, Sequences
from ml.recommenders.losses import BinaryParams, FullSoftmaxParams, SampledSoftmaxParams
from ml.recommenders.sequential.auxiliary.distillation import TransitionDistillationParams
from ml.recommenders.sequential.auxiliary.dropout_contrast import DropoutContrastParams
from ml.recommenders.sequential.auxiliary.intents import IntentContrastParams
from ml.recommenders.sequential.blocks.attention import AttentionParams
from ml.recommenders.sequential.blocks.filtered import FilteredAttentionParams
from ml.recommenders.sequential.blocks.gated import GatedAttentionParams
from ml.recommenders.sequential.blocks.hstu import HstuParams
from ml.recommenders.sequential.blocks.multi_query import MultiQueryParams
from ml.recommenders.sequential.blocks.recurrent import RecurrentParams
from ml.recommenders.sequential.blocks.state_space import StateSpaceParams
from ml.recommenders.sequential.item_nets.ids import IdAndVectorsParams, IdParams, VectorsParams
from ml.recommenders.sequential.item_nets.metadata import MetadataParams, NextCategoriesParams
from ml.recommenders.sequential.item_nets.semantic import BranchAlignmentParams, IdAndCodesParams
from ml.recommenders.sequential.item_nets.views import CodeGuidedParams, CodeMaskingParams
from ml.recommenders.sequential.network import Network
from ml.recommenders.sequential.objectives.cloze import ClozeParams
from ml.recommenders.sequential.objectives.next_item import NextItemParams
from ml.recommenders.sequential.objectives.reasoning import ReasoningParams
from ml.recommenders.sequential.parts import Facts
from ml.recommenders.training import TrainingParams, train_network, validation_score

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_SAMPLE_FOR_EMPTY = 1000

ItemNetParams = Annotated[
    IdParams | IdAndVectorsParams | VectorsParams | MetadataParams | IdAndCodesParams | CodeGuidedParams,
    Field(discriminator="kind"),
]
BlockParams = Annotated[
    AttentionParams
    | FilteredAttentionParams
    | GatedAttentionParams
    | HstuParams
    | MultiQueryParams
    | RecurrentParams
    | StateSpaceParams,
    Field(discriminator="kind"),
]
LossParams = Annotated[FullSoftmaxParams | SampledSoftmaxParams | BinaryParams, Field(discriminator="kind")]
ObjectiveParams = Annotated[NextItemParams | ClozeParams | ReasoningParams, Field(discriminator="kind")]
AuxiliaryParams = Annotated[
    DropoutContrastParams
    | IntentContrastParams
    | TransitionDistillationParams
    | NextCategoriesParams
    | BranchAlignmentParams
    | CodeMaskingParams,
    Field(discriminator="kind"),
]


class SequentialParams(TrainingParams):
    """Parameters of `Sequential`, beside those of its training.

    Parameters
    ----------
    items, block, loss, objective, auxiliary
        The parts by role, each ``{kind: ..., its parameters}``; see `ml.recommenders.sequential.parts`.
    d, blocks, max_length, dropout
        Width, number of blocks, latest history items that are read, dropout everywhere.
    position
        Whether a place has a learned vector.
    temperature
        Score by cosine over this temperature; None scores by inner product.
    batch_tokens
        Places of a training batch, padding counted.
    """

    items: ItemNetParams = IdParams()
    block: BlockParams = AttentionParams()
    loss: LossParams = FullSoftmaxParams()
    objective: ObjectiveParams = NextItemParams()
    auxiliary: tuple[AuxiliaryParams, ...] = ()
    d: int = Field(default=64, ge=2)
    blocks: int = Field(default=2, ge=1)
    max_length: int = Field(default=50, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    position: bool = True
    temperature: float | None = Field(default=None, gt=0)
    batch_tokens: int = Field(default=4096, ge=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for part in (self.items, self.block, self.loss, self.objective, *self.auxiliary):
            part.check(self)
            if part.needs and self.items.kind not in part.needs:
                raise ValueError(f"{part.kind} is for items of kind {' or '.join(part.needs)}")
        if self.block.whole_window and not self.objective.whole_window:
            raise ValueError(
                f"block {self.block.kind!r} sees the whole window, and objective {self.objective.kind!r} as it is set "
                "would let it see what it is asked for: predict from the last place alone (targets: last)"
            )
        return self

    def build(self, facts: Facts) -> Network:
        """Make the untrained network."""
        longer = replace(facts, max_length=facts.max_length + self.objective.more_places)
        return Network(
            facts,
            self.items.build(facts),
            [self.block.build(longer) for _ in range(self.blocks)],
            self.loss.build(facts),
            self.objective.build(facts),
            [part.build(facts) for part in self.auxiliary],
            self.position,
            self.temperature,
        )


class Sequential:
    """Recommend what a network that reads the history expects next."""

    kind: ClassVar[str] = "sequential"
    Params: ClassVar[type[RecommenderParams]] = SequentialParams
    training_free: ClassVar[bool] = False

    def __init__(self, params: SequentialParams) -> None:
        self.params = params
        self.network: Network | None = None
        self.table = self.items = torch.zeros(0, 0)

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Train; the weights kept are those of the best look. See `ml.recommenders.base.Recommender.fit`.

        Raises
        ------
        ValueError
            If no history has two events, if a part does not fit the catalogue, or if the loss is no longer finite.
        """
        params = self.params
        counts = torch.from_numpy(item_counts(split.train, len(catalogue)))
        with reproducible(seed):
            network = self.network = params.build(self._facts(catalogue, counts, split.train))
            plans = Plans(network.objective.windows(split.train, params.max_length), params.batch_tokens)
            if not len(plans):
                raise ValueError("no training history has two events: nothing to learn a sequence from")
            score = validation_score(self, split, len(catalogue), params.valid_users, seed)
            report = train_network(
                network, plans.batches, len(plans), params, seed, self._looked(score), checkpoints
            )
            self._set_default(split.train, np.random.default_rng(seed))
        return {**report, "untrained_items": int((counts == 0).sum())}

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        return rank_dense(lambda some: self._queries(some) @ self.items.T, histories, k, exclude_history)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return float32 [n_items, d + 1]; the last column keeps untrained items below all others."""
        vectors: NDArray[np.float32] = self.items.cpu().numpy()
        return vectors

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        """Return float32 [n, d + 1], the last column 1."""
        return encode(self._queries, histories, self.items.shape[1])

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        tensors = self._fitted().state_dict()
        write_weights(folder, {name: tensor.cpu().numpy() for name, tensor in tensors.items()})
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            If the weights cannot be read, or are of another catalogue.
        """
        made = cls(read_params(folder, SequentialParams))
        tensors = {name: torch.from_numpy(array) for name, array in read_weights(folder).items()}
        if len(tensors["trained"]) != len(catalogue):
            raise ArtifactError(
                f"{folder} was trained on {len(tensors['trained'])} items, not {len(catalogue)}"
            )
        made.network = made.params.build(made._facts(catalogue, tensors["trained"].long()))
        made.network.load_state_dict(tensors)
        made._freeze()
        return made

    def _facts(self, catalogue: Catalogue, counts: Tensor, train: Histories | None = None) -> Facts:
        params = self.params
        return Facts(catalogue, counts, params.d, params.max_length, params.dropout, train)

    def _fitted(self) -> Network:
        if self.network is None:
            raise ValueError("this recommender is not fitted")
        return self.network

    def _freeze(self) -> None:
        """Make the network ready to answer."""
        network = self._fitted().eval()
        self.table, self.items = network.settled()

    def _looked(self, score: Any) -> Any:
        """Return the score of the network as it is now, where there is one."""
        if score is None:
            return None

        def look() -> float:
            self._freeze()
            value: float = score()
            return value

        return look

    @torch.no_grad()
    def _queries(self, histories: Histories) -> Tensor:
        """Encode histories, float [n, d + 1]; short ones are not padded to the longest of the model."""
        sequences = Sequences.of(histories, self.params.max_length, self.table.device)
        states = self._fitted().query(sequences, self.table)
        return torch.cat([states, torch.ones(len(states), 1, device=states.device)], dim=1)

    def _set_default(self, train: Histories, rng: np.random.Generator) -> None:
        """Answer an empty history as the average of a sample of training users."""
        self._freeze()
        users = rng.permutation(np.flatnonzero(train.lengths > 0))[:_SAMPLE_FOR_EMPTY]
        self._fitted().default.copy_(self._queries(train.rows(users))[:, :-1].mean(dim=0))
