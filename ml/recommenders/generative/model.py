"""Generative recommenders over semantic IDs, made of parts that a recipe names."""

from __future__ import annotations

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
    read_params,
    read_weights,
    reproducible,
    write_config,
    write_weights,
)
from ml.recommenders.batches import Plans, Sequences
from ml.recommenders.generative.alignment import DirectParams, IterativeParams
from ml.recommenders.generative.answers import answer
from ml.recommenders.generative.auxiliary.text_alignment import TextAlignmentParams
from ml.recommenders.generative.backbones.decoder_only import DecoderOnlyParams
from ml.recommenders.generative.backbones.encoder_decoder import EncoderDecoderParams
from ml.recommenders.generative.built_on import read_built_on, write_built_on
from ml.recommenders.generative.identifiers import IdentifiersParams
from ml.recommenders.generative.network import Network
from ml.recommenders.generative.objectives.autoregressive import AutoregressiveParams
from ml.recommenders.generative.objectives.behaviour import BehaviourParams
from ml.recommenders.generative.objectives.cold_start import ColdStartParams
from ml.recommenders.generative.objectives.masked_diffusion import MaskedDiffusionParams
from ml.recommenders.generative.objectives.next_tokens import NextTokensParams
from ml.recommenders.generative.objectives.parallel import ParallelParams
from ml.recommenders.generative.objectives.prior_heads import PriorHeadsParams
from ml.recommenders.generative.objectives.session import SessionParams
from ml.recommenders.generative.objectives.sparse_dense import SparseDenseParams
from ml.recommenders.generative.objectives.token_set import TokenSetParams
from ml.recommenders.generative.parts import Facts
from ml.recommenders.generative.stages import Course, FineTuningParams
from ml.recommenders.generative.tokens.behaviour import BehaviourTokensParams
from ml.recommenders.generative.tokens.codes import CodeTokensParams
from ml.recommenders.generative.tokens.disentangled import DisentangledTokensParams
from ml.recommenders.generative.tokens.pairs import PairTokensParams
from ml.recommenders.generative.tokens.session import SessionTokensParams
from ml.recommenders.generative.tokens.sets import SetTokensParams
from ml.recommenders.generative.tokens.text import TextTokensParams
from ml.recommenders.generative.trie import build_trie
from ml.recommenders.training import TrainingParams, train_network, validation_score

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

TokensParams = Annotated[
    CodeTokensParams
    | BehaviourTokensParams
    | DisentangledTokensParams
    | PairTokensParams
    | SessionTokensParams
    | SetTokensParams
    | TextTokensParams,
    Field(discriminator="kind"),
]
BackboneParams = Annotated[EncoderDecoderParams | DecoderOnlyParams, Field(discriminator="kind")]
ObjectiveParams = Annotated[
    AutoregressiveParams
    | BehaviourParams
    | ColdStartParams
    | MaskedDiffusionParams
    | NextTokensParams
    | ParallelParams
    | PriorHeadsParams
    | SessionParams
    | SparseDenseParams
    | TokenSetParams,
    Field(discriminator="kind"),
]
AuxiliaryParams = TextAlignmentParams
AlignmentParams = Annotated[DirectParams | IterativeParams, Field(discriminator="kind")]
#: Stages of training after the first, in their order; each is a parameter of that name.
STAGES = ("fine_tuning", "alignment")
_CACHED = 2 * 2**20
_ON_GPU = 512


class GenerativeParams(TrainingParams):
    """Parameters of `Generative`, beside those of its training.

    Parameters
    ----------
    tokens, backbone, objective, auxiliary
        The parts by role, each ``{kind: ..., its parameters}``; see `ml.recommenders.generative.parts`.
    identifiers
        Train on several IDs of every item; see `ml.recommenders.generative.identifiers`.
    fine_tuning, alignment
        Stages of training after the first; see `ml.recommenders.generative.stages` and ``alignment``.
    d, length, dropout
        Width, latest history items that are read, dropout everywhere.
    batch_tokens
        Items of a training batch, padding counted.
    users_at_once
        Histories that are answered together; None for as many as are fast, see `GenerativeParams.together`.
    """

    tokens: TokensParams = CodeTokensParams()
    backbone: BackboneParams = EncoderDecoderParams()
    objective: ObjectiveParams = AutoregressiveParams()
    auxiliary: tuple[AuxiliaryParams, ...] = ()
    identifiers: IdentifiersParams | None = None
    fine_tuning: FineTuningParams | None = None
    alignment: AlignmentParams | None = None
    d: int = Field(default=64, ge=2)
    length: int = Field(default=20, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    batch_tokens: int = Field(default=1024, ge=1)
    users_at_once: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.035, ge=0)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        stages = (self.identifiers, self.fine_tuning, self.alignment)
        for part in (self.tokens, self.backbone, self.objective, *self.auxiliary, *stages):
            if part is not None:
                part.check(self)
        return self

    def facts(
        self,
        catalogue: Catalogue,
        code_sizes: tuple[int, ...],
        train: Histories | None = None,
        behaviours: int = 1,
    ) -> Facts:
        """Return what parts may know.

        Raises
        ------
        ValueError
            If no item has a semantic ID.
        """
        return Facts(
            catalogue,
            code_sizes,
            build_trie(catalogue.codes, code_sizes),
            self.tokens.per_item(len(code_sizes)),
            self.d,
            self.length,
            self.dropout,
            train,
            behaviours,
        )

    def together(self, k: int, device: torch.device) -> int:
        """Return how many histories to answer together, for lists of ``k`` items.

        On a CPU, so many that the widest that a layer makes of all hypotheses stays in its caches; a GPU wants many.
        """
        if self.users_at_once is not None:
            return self.users_at_once
        if device.type != "cpu":
            return _ON_GPU
        hypotheses = max(getattr(self.objective, "beam", None) or 1, k)
        width = max(self.backbone.feed_forward, 2 * self.backbone.heads * self.backbone.head_width)
        return min(_ON_GPU, max(1, _CACHED // (4 * hypotheses * width)))

    def build(self, facts: Facts) -> Network:
        """Make the untrained network."""
        return Network(
            facts,
            self.tokens.build(facts),
            self.backbone.build(facts),
            self.objective.build(facts),
            [part.build(facts) for part in self.auxiliary],
        )


class Generative:
    """Recommend the items whose semantic IDs a network writes, or scores, after reading a history."""

    kind: ClassVar[str] = "generative"
    Params: ClassVar[type[RecommenderParams]] = GenerativeParams
    training_free: ClassVar[bool] = False

    def __init__(self, params: GenerativeParams) -> None:
        self.params = params
        self.network: Network | None = None
        self._tokenizer: str | None = None

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Train; the weights kept are those of the best look. See `ml.recommenders.base.Recommender.fit`.

        Raises
        ------
        ValueError
            If no history has two events, if the catalogue has no semantic IDs, or if the loss is no longer finite.
        """
        params = self.params
        with reproducible(seed):
            behaviours = int(split.train.event_types.max(initial=0)) + 1
            facts = params.facts(catalogue, catalogue.code_sizes, split.train, behaviours)
            network = self._take(params.build(facts), catalogue)
            cut = network.objective.windows(split.train, params.length, network.backbone.causal)
            plans = Plans(cut, params.batch_tokens)
            if not len(plans):
                raise ValueError("no training history has two events: nothing to learn a sequence from")
            score = validation_score(self, split, len(catalogue), params.valid_users, seed)
            course = Course(self, split, catalogue, seed, plans, score, checkpoints)
            if params.identifiers is None:
                report = train_network(network, plans.batches, len(plans), params, seed, score, checkpoints)
            else:
                report = params.identifiers.train(course)
            for name in STAGES:
                stage = getattr(params, name)
                if stage is not None:
                    report[name], found = stage.run(course)
                    report["refit"][name] = {**stage.model_dump(mode="json"), **found}
        return {**report, "reachable_items": len(facts.trie)}

    @torch.inference_mode()
    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`.

        A new item whose codes the model does not know (`ml.recommenders.generative.trie.build_trie`) waits for the
        next training.
        """
        network, params = self.fitted(), self.params
        # For one user, walking through all modules takes a good part of the time.
        if network.training:
            network.eval()

        def rank(some: Sequences, k: int, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
            return network.objective.rank(network, some, k, excluded)

        device = network.table.table.device
        at_once = params.together(k, device)
        return answer(rank, histories, k, exclude_history, params.length, at_once, device)

    @torch.inference_mode()
    def item_vectors(self) -> NDArray[np.float32]:
        """Return the sum of each item's code embeddings, float32 [n_items, d]: for similar items, not for users."""
        vectors: NDArray[np.float32] = self.fitted().table.item_sums().cpu().numpy()
        return vectors

    def query_vectors(self, histories: Histories) -> None:
        """Return None: what a code is worth depends on the codes before it, so no inner product gives the score."""

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        network = self.fitted()
        tensors = {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
        write_weights(folder, tensors)
        write_built_on(folder, self._tokenizer, network.table.code_sizes)
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """Read what `save` wrote; the catalogue may have grown, under the same tokenizer.

        Raises
        ------
        ArtifactError
            If the weights cannot be read, or if the catalogue's semantic IDs are by another tokenizer or of another
            shape.
        """
        made = cls(read_params(folder, GenerativeParams))
        sizes = read_built_on(folder, catalogue)
        tensors = {name: torch.from_numpy(array) for name, array in read_weights(folder).items()}
        facts = made.params.facts(catalogue, sizes, behaviours=int(tensors["behaviours"]))
        network = made._take(made.params.build(facts), catalogue)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ArtifactError(f"the weights in {folder} do not fit: {str(error).splitlines()[0]}") from None
        return made

    @classmethod
    def of(cls, params: GenerativeParams, network: Network, catalogue: Catalogue) -> Self:
        """Make a recommender of a network that was trained before."""
        made = cls(params)
        made._take(network, catalogue)
        return made

    def fitted(self) -> Network:
        """Return the network.

        Raises
        ------
        ValueError
            If there is none yet.
        """
        if self.network is None:
            raise ValueError("this recommender is not fitted")
        return self.network

    def _take(self, network: Network, catalogue: Catalogue) -> Network:
        self.network, self._tokenizer = network, catalogue.tokenizer
        return network
