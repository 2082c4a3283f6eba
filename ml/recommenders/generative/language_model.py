"""A causal language model of the Hugging Face format, tuned to write semantic IDs.

LC-Rec (Zheng et al., ICDE 2024, arXiv:2311.09049): every code becomes a token of the model, and the model is tuned on
instructions: the next item after a history, and the alignment of IDs and titles
(`ml.recommenders.generative.auxiliary.text_alignment`). Of the paper's tasks two are left out that need text by another language
model, and descriptions, which the catalogue lacks; each task has one wording, where the paper draws from many. All weights
are tuned.

Items are found by our own beam search over the trie. All hypotheses of a user stand in one sequence behind the user's one
history, and a mask lets each see the history and its own codes alone: no key or value is copied when hypotheses branch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split
from ml.histories import Histories
from ml.recommenders.base import RecommenderParams, read_params, reproducible, write_config
from ml.recommenders.batches import Plans, Sequences, sliding
from ml.recommenders.generative.answers import answer
from ml.recommenders.generative.auxiliary.text_alignment import TASKS, Task
from ml.recommenders.generative.beam import Normalise, beam_search
from ml.recommenders.generative.built_on import read_built_on, write_built_on
from ml.recommenders.generative.language_prompts import ASKED, NEXT, Prompts, code_names
from ml.recommenders.generative.trie import Trie, build_trie
from ml.recommenders.training import Batch, TrainingParams, train_network, validation_score

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

#: Names the folder of a model where the parameters name none.
VARIABLE = "TESSERA_LANGUAGE_MODEL"
_MODEL = "model"


class LanguageModelParams(TrainingParams):
    """Parameters of `LanguageModel`, beside those of its training.

    Parameters
    ----------
    model
        Folder of a causal language model and its tokenizer, as ``save_pretrained`` writes them; None takes that of the
        environment variable ``TESSERA_LANGUAGE_MODEL``. Nothing is downloaded, and weights are safetensors.
    tasks
        What is tuned beside the next item.
    length, titles, title_tokens
        Latest items that are read by ID, and by title; tokens that are kept of a title.
    normalise, beam
        See `ml.recommenders.generative.beam.beam_search`.
    batch_tokens, batch_items
        Items of a training batch of histories, padding counted, and of one of single items.
    users_at_once
        Histories that are answered together.
    """

    model: str | None = None
    tasks: tuple[Task, ...] = TASKS
    length: int = Field(default=20, ge=1)
    titles: int = Field(default=4, ge=1)
    title_tokens: int = Field(default=24, ge=1)
    normalise: Normalise = "trie"
    beam: int = Field(default=20, ge=1)
    batch_tokens: int = Field(default=512, ge=1)
    batch_items: int = Field(default=64, ge=1)
    users_at_once: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


class LanguageModel:
    """Recommend the items whose semantic IDs a tuned language model writes."""

    kind: ClassVar[str] = "language_model"
    Params: ClassVar[type[RecommenderParams]] = LanguageModelParams
    training_free: ClassVar[bool] = False

    def __init__(self, params: LanguageModelParams) -> None:
        self.params = params
        self.network: LanguageNetwork | None = None
        self._tokenizer: Any = None
        self._ids: str | None = None

    def fit(
        self, split: Split, catalogue: Catalogue, seed: int, checkpoints: Path | None = None
    ) -> dict[str, Any]:
        """Tune; the weights kept are those of the best look. See `ml.recommenders.base.Recommender.fit`.

        Raises
        ------
        ValueError
            If there is no model or no package to read it with, if a prompt is too long for the model, if the catalogue
            has no semantic IDs, or if no history has two events.
        """
        params = self.params
        folder = params.model or os.environ.get(VARIABLE)
        if folder is None:
            raise ValueError(
                f"a language model is needed: name its folder by the parameter model or by {VARIABLE}"
            )
        with reproducible(seed):
            model, tokenizer = read_language_model(Path(folder))
            network = self._take(model, tokenizer, catalogue, catalogue.code_sizes)
            plans = _Plans(split, network.prompts, params)
            score = validation_score(self, split, len(catalogue), params.valid_users, seed)
            report = train_network(network, plans.batches, len(plans), params, seed, score, checkpoints)
        return {**report, "reachable_items": len(network.trie), "language_model": Path(folder).name}

    @torch.inference_mode()
    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See `ml.recommenders.base.Recommender.recommend`."""
        network, params = self.fitted().eval(), self.params

        def rank(some: Sequences, k: int, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
            decoding, n = _Decoding(network, some, params.normalise), len(some.lengths)
            return beam_search(decoding, network.trie, n, params.beam, k, excluded, params.normalise)

        device = network.prompts.codes.device
        return answer(rank, histories, k, exclude_history, params.length, params.users_at_once, device)

    @torch.inference_mode()
    def item_vectors(self) -> NDArray[np.float32]:
        """Return the sum of each item's code embeddings, float32 [n_items, d]: for similar items, not for users."""
        network = self.fitted()
        rows = network.prompts.items
        embedded = network.model.get_input_embeddings()(rows.clamp(min=0)) * (rows >= 0)[..., None]
        vectors: NDArray[np.float32] = embedded.sum(dim=1).float().cpu().numpy()
        return vectors

    def query_vectors(self, histories: Histories) -> None:
        """Return None: what a code is worth depends on the codes before it, so no inner product gives the score."""

    def save(self, folder: Path) -> None:
        """See `ml.recommenders.base.Recommender.save`; ``model/`` is a folder that any Hugging Face program reads."""
        network = self.fitted()
        network.model.save_pretrained(folder / _MODEL)
        self._tokenizer.save_pretrained(folder / _MODEL)
        write_built_on(folder, self._ids, network.code_sizes)
        write_config(folder, self)

    @classmethod
    def load(cls, folder: Path, catalogue: Catalogue) -> Self:
        """Read what `save` wrote; the catalogue may have grown, under the same tokenizer.

        Raises
        ------
        ArtifactError
            If the model cannot be read, or if the catalogue's semantic IDs are by another tokenizer or of another shape.
        """
        made = cls(read_params(folder, LanguageModelParams))
        sizes = read_built_on(folder, catalogue)
        try:
            model, tokenizer = read_language_model(folder / _MODEL)
        except ValueError as error:
            raise ArtifactError(str(error)) from None
        made._take(model, tokenizer, catalogue, sizes)
        return made

    def fitted(self) -> LanguageNetwork:
        """Return the network.

        Raises
        ------
        ValueError
            If there is none yet.
        """
        if self.network is None:
            raise ValueError("this recommender is not fitted")
        return self.network

    def _take(
        self, model: Any, tokenizer: Any, catalogue: Catalogue, sizes: tuple[int, ...]
    ) -> LanguageNetwork:
        trie = build_trie(catalogue.codes, sizes)
        tokenizer.add_tokens(code_names(sizes))
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            # Drawn as the model's own were: from the mean of all tokens codes would begin alike.
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        prompts = Prompts(tokenizer, catalogue, sizes, self.params.titles, self.params.title_tokens)
        longest = prompts.longest(self.params.length, (NEXT, *self.params.tasks))
        room = getattr(model.config, "max_position_embeddings", longest)
        if longest > room:
            raise ValueError(
                f"a prompt has up to {longest} tokens, the language model reads {room}: lower length or title_tokens"
            )
        self.network = LanguageNetwork(model, prompts, trie, sizes).eval()
        self._tokenizer, self._ids = tokenizer, catalogue.tokenizer
        return self.network


def read_language_model(folder: Path) -> tuple[Any, Any]:
    """Read a causal language model and its tokenizer.

    Raises
    ------
    ValueError
        If the package is missing, or if the folder holds no such model; one line.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise ValueError(
            "language models need the package transformers: pip install 'tessera[language-models]'"
        ) from None
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder with a language model")
    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no language model: {str(error).splitlines()[0]}") from None
    return model, tokenizer


class LanguageNetwork(nn.Module):
    """A language model, what it is asked, and the IDs that exist."""

    def __init__(self, model: Any, prompts: Prompts, trie: Trie, code_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.prompts, self.code_sizes, self._trie = model, prompts, code_sizes, trie

    @property
    def trie(self) -> Trie:
        """The IDs that exist, on the device of the weights."""
        self._trie = self._trie.to(self.prompts.codes.device)
        return self._trie

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the answers' tokens and their number; the batch is one of `_Plans`."""
        items, lengths, targets, asked = batch
        tokens, real, answer = self.prompts.examples(ASKED[int(asked[0])], items, lengths, targets)
        longest = int(answer.max())
        logits = self.model(
            input_ids=tokens,
            attention_mask=real.long(),
            position_ids=places(real),
            logits_to_keep=longest + 1,
        ).logits[:, :-1]
        wanted = torch.arange(longest, device=tokens.device) >= longest - answer[:, None]
        loss = nn.functional.cross_entropy(logits[wanted].float(), tokens[:, -longest:][wanted])
        return loss, wanted.sum()


class _Plans:
    """Batches of questions of one kind each, the kinds mixed: items int64 [n, length], lengths, targets and kind [n]."""

    def __init__(self, split: Split, prompts: Prompts, params: LanguageModelParams) -> None:
        self.size = params.batch_items
        cut = sliding(split.train, params.length)
        known = (prompts.items >= 0).all(dim=1).numpy()
        titled = known & np.array(prompts.has_title)
        following = cut.events.items.numpy()[cut.starts + cut.lengths] if len(cut.starts) else cut.starts
        if not known[following].any():
            raise ValueError("no training history has two events: nothing to learn a sequence from")
        self.items = np.flatnonzero(titled)
        self.windows: dict[str, Plans] = {}
        for asked in (NEXT, *(task for task in params.tasks if task in ("ids_to_title", "titles_to_id"))):
            kept = titled[following] if asked == "ids_to_title" else known[following]
            some = type(cut)(cut.events, cut.starts[kept], cut.lengths[kept], last_only=True)
            self.windows[asked] = Plans(some, params.batch_tokens)
        singles = -(-len(self.items) // self.size)
        self.steps = {asked: len(plans) for asked, plans in self.windows.items()}
        self.steps |= {task: singles for task in params.tasks if task not in self.windows}

    def __len__(self) -> int:
        return sum(self.steps.values())

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield every window and item once for each question about it."""
        sources = {
            asked: self._histories(asked, rng) if asked in self.windows else self._singles(rng)
            for asked in self.steps
        }
        turns = np.repeat(np.arange(len(self.steps)), list(self.steps.values()))
        names = list(self.steps)
        for turn in rng.permutation(turns):
            items, lengths, targets = next(sources[names[turn]])
            yield items, lengths, targets, torch.full_like(lengths, ASKED.index(names[turn]))

    def _histories(self, asked: str, rng: np.random.Generator) -> Iterator[Batch]:
        for items, lengths, *_, targets in self.windows[asked].batches(rng):
            yield items, lengths, targets.gather(1, lengths[:, None] - 1)[:, 0]

    def _singles(self, rng: np.random.Generator) -> Iterator[Batch]:
        order = torch.from_numpy(rng.permutation(self.items))
        for items in order.split(self.size):
            yield items[:, None], torch.ones_like(items), items


class _Decoding:
    """One generation, as a `ml.recommenders.generative.beam.Decoder`; see the module."""

    def __init__(self, network: LanguageNetwork, sequences: Sequences, normalise: Normalise) -> None:
        from transformers import DynamicCache

        self.network, self.normalise = network, normalise
        tokens, self.real = network.prompts.question(NEXT, sequences.items, sequences.lengths)
        self.kept, self.level = DynamicCache(), 0
        #: Of each hypothesis, which of all the codes written so far are its own: bool [n, hypotheses, codes].
        self.own = self.real.new_zeros(len(tokens), 1, 0)
        self.first = self._ask(tokens, self.real.long(), places(self.real))[:, -1:]

    def start(self) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        return self._of_level(self.first)

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """See `ml.recommenders.generative.beam.Decoder`."""
        n, hypotheses = codes.shape
        tokens = self._tokens()[codes]
        users = torch.arange(n, device=codes.device)[:, None]
        itself = torch.eye(hypotheses, dtype=torch.bool, device=codes.device).expand(n, -1, -1)
        self.own = torch.cat([self.own[users, parents], itself], dim=2)
        seen = torch.cat([self.real[:, None].expand(-1, hypotheses, -1), self.own], dim=2)[:, None]
        dtype = self.network.model.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=codes.device)
        hidden = hidden.masked_fill(~seen, torch.finfo(dtype).min)
        place = (self.real.sum(dim=1) + self.level)[:, None].expand(-1, hypotheses)
        self.level += 1
        return self._of_level(self._ask(tokens, hidden, place))

    def _ask(self, tokens: Tensor, mask: Tensor, place: Tensor) -> Tensor:
        logits: Tensor = self.network.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=place,
            past_key_values=self.kept,
            use_cache=True,
            logits_to_keep=1 if self.level == 0 else 0,
        ).logits
        return logits

    def _tokens(self) -> Tensor:
        """Return the tokens of the codes of the level that is written."""
        sizes = self.network.code_sizes
        return self.network.prompts.codes[sum(sizes[: self.level]) : sum(sizes[: self.level + 1])]

    def _of_level(self, logits: Tensor) -> Tensor:
        if self.normalise == "table":
            logits = logits.float().log_softmax(dim=-1)
        return logits[..., self._tokens()].float()


def places(real: Tensor) -> Tensor:
    """Return the number of each real token of rows bool [n, places], from 0; 0 for padding, which is on the left."""
    return (real.long().cumsum(dim=1) - 1).clamp(min=0)
