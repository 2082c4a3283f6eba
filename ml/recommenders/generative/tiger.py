"""TIGER: generate the semantic ID of the next item (Rajput et al., NeurIPS 2023).

The paper's user token is left out: a recommender is given histories, not users, so that it can answer for anyone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ml.artifacts import ArtifactError, read_json, write_json
from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import WEIGHTS, RecommenderParams, read_params, reproducible, write_config
from ml.recommenders.generative.batches import TrainingBatches
from ml.recommenders.generative.beam import Normalise, beam_search, code_scores
from ml.recommenders.generative.model import Decoding, Network, Shape
from ml.recommenders.generative.trie import Trie, build_trie
from ml.recommenders.training import TrainingParams, train_network, validation_score

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_BUILT_ON = "semantic_ids.json"
# Hypotheses that are scored at a time: more would not be faster, and take memory.
_HYPOTHESES = 1 << 13


class TigerParams(TrainingParams):
    """Parameters of `Tiger`, beside those of its training.

    Parameters
    ----------
    d, heads, head_width, feed_forward, encoder_layers, decoder_layers, dropout
        See `ml.recommenders.generative.model.Shape`.
    length
        Latest history items that are read.
    causal, merge
        See `ml.recommenders.generative.model`; False and False is the paper's encoder.
    normalise
        See `ml.recommenders.generative.beam.beam_search`; training and decoding do the same.
    beam
        Hypotheses kept, at least as many as items asked for.
    batch_tokens
        Items of a training batch, padding counted.
    """

    d: int = Field(default=64, ge=2)
    heads: int = Field(default=2, ge=1)
    head_width: int = Field(default=32, ge=1)
    feed_forward: int = Field(default=128, ge=1)
    encoder_layers: int = Field(default=1, ge=0)
    decoder_layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    length: int = Field(default=20, ge=1)
    causal: bool = True
    merge: bool = True
    normalise: Normalise = "trie"
    beam: int = Field(default=20, ge=1)
    batch_tokens: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.035, ge=0)
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    valid_users: int = Field(default=500, ge=1)


class Tiger:
    """Encoder-decoder over semantic IDs, decoding over the trie of the catalogue."""

    kind: ClassVar[str] = "tiger"
    Params: ClassVar[type[RecommenderParams]] = TigerParams
    training_free: ClassVar[bool] = False

    def __init__(self, params: TigerParams) -> None:
        self.params = params
        self._network: Network | None = None
        self._trie: Trie | None = None
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
            self._prepare(catalogue, catalogue.code_sizes)
            network, trie = self._fitted()
            batches = TrainingBatches(split.train, params.length, params.batch_tokens, params.causal)
            if not len(batches):
                raise ValueError("no training history has two events: nothing to learn a sequence from")
            trained = _Trained(network, trie, params.normalise)
            score = validation_score(self, split, len(catalogue), params.valid_users, seed)
            report = train_network(trained, batches.epoch, len(batches), params, seed, score, checkpoints)
            self._trie = trained.trie
        return {**report, "reachable_items": len(trie)}

    @torch.inference_mode()
    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`; scores are log-probabilities.

        A new item whose codes the model does not know (`ml.recommenders.generative.trie.build_trie`) waits for the
        next training. With ``beam`` at the size of the catalogue the ranking is exact.
        """
        network, trie = self._fitted()
        network.eval()
        items = np.empty((len(histories), k), np.int32)
        scores = np.empty((len(histories), k), np.float32)
        rows = max(1, _HYPOTHESES // max(self.params.beam, k))
        for start in range(0, len(histories), rows):
            part = slice(start, start + rows)
            some = histories.rows(part)
            excluded = self._read(some, int(some.lengths.max(initial=1))) if exclude_history else None
            decoding = Decoding(network, self._read(some, self.params.length))
            found = beam_search(
                decoding, trie, len(some), self.params.beam, k, excluded, self.params.normalise
            )
            items[part], scores[part] = (tensor.cpu().numpy() for tensor in found)
        return items, scores

    @torch.inference_mode()
    def item_vectors(self) -> NDArray[np.float32]:
        """Return the sum of each item's code embeddings, float32 [n_items, d]: for similar items, not for users."""
        vectors: NDArray[np.float32] = self._fitted()[0].item_sums().cpu().numpy()
        return vectors

    def query_vectors(self, histories: Histories) -> None:
        """Return None: what a code is worth depends on the codes before it, so no inner product gives the score."""

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`."""
        network, _ = self._fitted()
        save_file(
            {name: value.cpu().contiguous() for name, value in network.state_dict().items()}, folder / WEIGHTS
        )
        built_on = {"tokenizer": self._tokenizer, "code_sizes": network.shape.code_sizes}
        write_json(folder / _BUILT_ON, built_on)
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
        made = cls(read_params(folder, TigerParams))
        built_on = read_json(folder / _BUILT_ON)
        if catalogue.tokenizer != built_on["tokenizer"]:
            raise ArtifactError(
                f"{folder} was trained on semantic IDs of tokenizer {built_on['tokenizer']}, not {catalogue.tokenizer}"
            )
        sizes = tuple(built_on["code_sizes"])
        # The last level may have grown with the catalogue; the others belong to the tokenizer.
        if catalogue.code_sizes[:-1] != sizes[:-1]:
            raise ArtifactError(
                f"{folder} was trained on semantic IDs of sizes {sizes}, not {catalogue.code_sizes}"
            )
        made._prepare(catalogue, sizes)
        try:
            made._fitted()[0].load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ArtifactError(f"{folder / WEIGHTS} cannot be read: {str(error).splitlines()[0]}") from None
        return made

    def _fitted(self) -> tuple[Network, Trie]:
        if self._network is None or self._trie is None:
            raise ValueError("this TIGER is not fitted")
        return self._network, self._trie

    def _prepare(self, catalogue: Catalogue, sizes: tuple[int, ...]) -> None:
        """Make an untrained network and the trie of the catalogue."""
        params = self.params
        shape = Shape(
            sizes,
            params.d,
            params.heads,
            params.head_width,
            params.feed_forward,
            params.encoder_layers,
            params.decoder_layers,
            params.length,
            params.dropout,
            params.causal,
            params.merge,
        )
        self._tokenizer = catalogue.tokenizer
        self._trie = build_trie(catalogue.codes, sizes)
        self._network = Network(shape, torch.from_numpy(catalogue.codes.astype(np.int64)))

    def _read(self, histories: Histories, length: int) -> Tensor:
        """Return the last items as int64 [n, length], right-aligned, -1 for padding."""
        device = self._fitted()[0].table.device
        return torch.from_numpy(histories.last(length).astype(np.int64)).to(device)


class _Trained(nn.Module):
    """The network with its loss."""

    def __init__(self, network: Network, trie: Trie, normalise: Normalise) -> None:
        super().__init__()
        self.network, self.trie, self.normalise = network, trie, normalise

    def forward(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch and its number of targets."""
        items, targets = batch
        self.trie = self.trie.to(items.device)
        loss = sequence_loss(self.network, self.network(items, targets), targets, self.trie, self.normalise)
        return loss, (targets >= 0).sum()


def sequence_loss(
    network: Network, states: Tensor, targets: Tensor, trie: Trie, normalise: Normalise
) -> Tensor:
    """Return the mean negative log-probability of the targets that have an ID.

    Parameters
    ----------
    network
        Gives logits.
    states
        float [n, places, levels, d], from ``network(items, targets)``.
    targets
        int64 [n, places], -1 for padding.
    trie
        The IDs that exist.
    normalise
        As in `ml.recommenders.generative.beam.beam_search`.
    """
    leaves = torch.where(targets >= 0, trie.place[targets.clamp(min=0)], -1)
    known = leaves >= 0
    states, leaves = states[known], leaves[known]
    loss = states.new_zeros(())
    for depth in range(trie.levels):
        nodes = trie.above(depth, leaves)
        _, codes, exists = trie.children(depth, nodes)
        scores = code_scores(network.logits(states[:, depth], depth).float(), codes, exists, normalise)
        taken = trie.above(depth + 1, leaves) - trie.first[depth][nodes]
        loss = loss - scores.gather(1, taken[:, None]).sum()
    return loss / max(len(leaves), 1)
