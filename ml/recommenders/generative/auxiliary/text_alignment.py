"""Teach the network what IDs mean in words: titles to IDs, IDs to titles, and histories told in either.

LC-Rec (Zheng et al., ICDE 2024, arXiv:2311.09049, section 3.3) tunes a large language model on such tasks. Here they are
losses beside the objective's, for a small network of one's own that knows no word before: a stand-in for the language model
(`ml.recommenders.generative.language_model` is the way to a real one). A learned vector for each task takes the place of
its instruction. Two of the paper's tasks, search by intention and inference of preferences, need text that another language
model writes; they are left out.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.objectives.autoregressive import Autoregressive
from ml.recommenders.generative.parts import Auxiliary, Facts, Memory, PartParams

if TYPE_CHECKING:
    from ml.recommenders.generative.model import GenerativeParams
    from ml.recommenders.generative.network import Network

#: What is read, and what is to be written.
Task = Literal["title_to_id", "id_to_title", "titles_to_id", "ids_to_title"]
TASKS: tuple[Task, ...] = ("title_to_id", "id_to_title", "titles_to_id", "ids_to_title")


class TextAlignmentParams(PartParams):
    """Parameters of `TextAlignment`.

    Parameters
    ----------
    tasks
        ``title_to_id`` and ``id_to_title``: an item of the catalogue, told one way, is to be told the other way.
        ``titles_to_id`` and ``ids_to_title``: the next item of a history, where what is read and what is to be written
        are not of the same kind.
    weight
        Of the mean of the tasks' losses.
    items
        Items of the catalogue drawn for each batch.
    words, title_words
        Words fall into so many buckets by a hash of their letters, so that no vocabulary has to be kept; of a title so
        many words are read.
    titles
        Latest items of a history that are read by their titles.
    """

    kind: Literal["text_alignment"] = "text_alignment"
    tasks: tuple[Task, ...] = Field(default=TASKS, min_length=1)
    weight: float = Field(default=1.0, gt=0)
    items: int = Field(default=64, ge=1)
    words: int = Field(default=8192, ge=2)
    title_words: int = Field(default=12, ge=1)
    titles: int = Field(default=4, ge=1)

    def check(self, whole: GenerativeParams) -> None:
        """See `ml.recommenders.generative.parts.PartParams.check`."""
        if whole.objective.kind != "autoregressive":
            raise ValueError(
                "auxiliary text_alignment needs the objective autoregressive: IDs are written code by code"
            )

    def build(self, facts: Facts) -> Auxiliary:
        """Make the part."""
        return TextAlignment(self, facts)


class TextAlignment(nn.Module):
    """See the module and `ml.recommenders.generative.parts.Auxiliary`."""

    titles: Tensor

    def __init__(self, params: TextAlignmentParams, facts: Facts) -> None:
        super().__init__()
        self.params, self.per_item = params, facts.per_item
        # Titles fill whole items where they are read.
        width = -(-params.title_words // facts.per_item) * facts.per_item
        titles = title_words(facts.catalogue.titles, params.title_words, params.words)
        titles = np.pad(titles, ((0, 0), (0, width - titles.shape[1])), constant_values=-1)
        self.register_buffer("titles", torch.from_numpy(titles), persistent=False)
        # The last row stands for no word.
        self.words = nn.Parameter(torch.randn(params.words + 1, facts.d) * facts.d**-0.5)
        self.told = nn.Parameter(torch.zeros(len(TASKS), facts.d))

    def forward(self, network: Network, sequences: Sequences, targets: Tensor, memory: Memory) -> Tensor:
        """See `ml.recommenders.generative.parts.Auxiliary`; a history counts with its last target."""
        drawn = torch.randint(len(self.titles), (self.params.items,), device=targets.device)
        place = (targets >= 0).long().cumsum(1).argmax(1, keepdim=True)
        following = torch.where(targets.gather(1, place)[:, 0] >= 0, targets.gather(1, place)[:, 0], -1)
        at = place + 1
        losses = {
            "title_to_id": lambda: self._to_id(network, "title_to_id", drawn[:, None], drawn),
            "id_to_title": lambda: self._to_title(
                network, "id_to_title", self._one_item(network, drawn), torch.ones_like(drawn)[:, None], drawn
            ),
            "titles_to_id": lambda: self._to_id(
                network, "titles_to_id", latest(sequences.items, at[:, 0], self.params.titles), following
            ),
            "ids_to_title": lambda: self._to_title(network, "ids_to_title", memory, at, following),
        }
        found = torch.stack([losses[task]() for task in self.params.tasks])
        return self.params.weight * found.mean()

    def _to_id(self, network: Network, task: Task, read: Tensor, items: Tensor) -> Tensor:
        """Return the mean loss of the IDs of items [m], told the titles of items [m, any], -1 for none."""
        words = torch.where((read >= 0)[..., None], self.titles[read.clamp(min=0)], -1)
        leaves = torch.where(items >= 0, network.trie.place[items.clamp(min=0)], -1)
        asked = (leaves >= 0) & (words >= 0).flatten(1).any(1)
        if not asked.any():
            return self.words.sum() * 0
        words = together(words[asked].unflatten(-1, (-1, self.per_item)).flatten(1, 2))
        lengths = (words >= 0).any(-1).sum(1)
        words = words[:, : int(lengths.max())]
        start = network.table.start + self.told[TASKS.index(task)]
        memory = network.backbone.read(self._embed(words), start, lengths)
        states = network.states(memory, lengths[:, None], items[asked, None])[:, 0]
        assert isinstance(network.objective, Autoregressive)
        return -network.objective.chosen(network, states, leaves[asked]).sum(dim=1).mean()

    def _to_title(self, network: Network, task: Task, memory: Memory, at: Tensor, items: Tensor) -> Tensor:
        """Return the mean loss of the words of the titles of items [m], after the first ``at`` items [m, 1] of a memory."""
        words = torch.where((items >= 0)[:, None], self.titles[items.clamp(min=0)], -1)
        real = words >= 0
        if not real.any():
            return self.words.sum() * 0
        start = (network.table.start + self.told[TASKS.index(task)]).expand(len(words), 1, -1)
        x = torch.cat([start, self._embed(words[:, :-1])], dim=1)
        states = network.backbone.write(memory, at, x[:, None])
        logits = states[:, 0][real] @ self.words[:-1].T
        return nn.functional.cross_entropy(logits.float(), words[real])

    def _one_item(self, network: Network, items: Tensor) -> Memory:
        one = Sequences(items[:, None], torch.ones_like(items), *(torch.zeros_like(items[:, None]),) * 2)
        return network.read(one)

    def _embed(self, words: Tensor) -> Tensor:
        return nn.functional.embedding(torch.where(words >= 0, words, self.params.words), self.words)


def title_words(titles: list[str], longest: int, buckets: int) -> np.ndarray:
    """Return the buckets of each title's first words, int64 [n, longest], -1 where there are fewer."""
    found = np.full((len(titles), longest), -1, np.int64)
    for row, title in enumerate(titles):
        words = re.findall(r"\w+", title.lower())[:longest]
        found[row, : len(words)] = [zlib.crc32(word.encode()) % buckets for word in words]
    return found


def latest(items: Tensor, at: Tensor, most: int) -> Tensor:
    """Return the last of the first ``at`` items [m] of rows [m, length], oldest first, int64 [m, most]; -1 before them."""
    place = at[:, None] - most + torch.arange(most, device=items.device)
    return torch.where(place >= 0, items.gather(1, place.clamp(min=0)), -1)


def together(groups: Tensor) -> Tensor:
    """Move the groups that hold something, of [m, groups, width] with -1 for nothing, to the left, in their order."""
    empty = (groups < 0).all(dim=-1)
    order = empty.long().sort(dim=1, stable=True).indices
    return groups.gather(1, order[..., None].expand_as(groups))
