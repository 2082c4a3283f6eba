"""Histories, items and titles as the token IDs of a language model, whole batches at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ml.recommenders.generative.auxiliary.text_alignment import Task, latest
from ml.snapshot import Catalogue

#: What is asked besides, or instead, of the next item's ID after a history of IDs.
NEXT = "next"
_HISTORY = "The user chose these items, the latest last:"
#: Before and after what is read.
_TEXTS: dict[str, tuple[str, str]] = {
    NEXT: (_HISTORY, "\nThe next item:"),
    "ids_to_title": (_HISTORY, "\nThe title of the next item:"),
    "titles_to_id": ("The user chose items of these titles, the latest last:", "\nThe next item:"),
    "title_to_id": ("An item's title:", "\nThe item:"),
    "id_to_title": ("An item:", "\nThe title of the item:"),
}
#: In the order of their numbers in a batch.
ASKED = tuple(_TEXTS)


def code_names(code_sizes: tuple[int, ...]) -> list[str]:
    """Return a token for each code of each level, level by level."""
    return [f"<code_{level}_{code}>" for level, size in enumerate(code_sizes) for code in range(size)]


class Prompts(nn.Module):
    """Questions and answers for the items of a catalogue; holds no weights.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer that knows `code_names`.
    catalogue, code_sizes
        Items, and the sizes of the levels that the model writes.
    titles, title_tokens
        Latest items of a history that are read by title; tokens that are kept of a title.
    """

    codes: Tensor
    items: Tensor
    titles: Tensor

    def __init__(
        self,
        tokenizer: Any,
        catalogue: Catalogue,
        code_sizes: tuple[int, ...],
        titles: int,
        title_tokens: int,
    ) -> None:
        super().__init__()
        self.latest = titles
        codes = torch.tensor(tokenizer.convert_tokens_to_ids(code_names(code_sizes)))
        offsets = torch.tensor([0, *code_sizes]).cumsum(0)[:-1]
        own = torch.from_numpy(catalogue.codes).long()
        known = ((own >= 0) & (own < torch.tensor(code_sizes))).all(dim=1, keepdim=True)
        items = torch.where(known, codes[torch.where(known, own + offsets, 0)], -1)

        def tokens(text: str) -> list[int]:
            found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return found

        rows = [tokens(" " + title)[:title_tokens] if title else [] for title in catalogue.titles]
        read = torch.full((len(rows), title_tokens + 1), -1)
        for place, row in enumerate(rows):
            read[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        # A mark after each title: where it ends when it is read, and the end of the answer when it is written.
        end = tokenizer.eos_token_id
        mark = tokens("\n")[-1] if end is None else end
        read[torch.arange(len(rows)), torch.tensor([len(row) for row in rows])] = mark
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("titles", read, persistent=False)
        self.has_title = [bool(row) for row in rows]
        first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.texts = {
            name: (first + tokens(before), tokens(after)) for name, (before, after) in _TEXTS.items()
        }

    def longest(self, length: int, asked: tuple[str, ...]) -> int:
        """Return the most tokens of a question with its answer, after histories of so many items."""
        code, title = self.items.shape[1], self.titles.shape[1]
        read = {
            **{NEXT: (length * code, code), "ids_to_title": (length * code, title)},
            **{"titles_to_id": (self.latest * title, code), "title_to_id": (title, code), "id_to_title": (code, title)},
        }  # fmt: skip
        return max(sum(read[name]) + sum(len(text) for text in self.texts[name]) for name in asked)

    def question(self, asked: Task | str, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of questions, padded on the left.

        Parameters
        ----------
        asked
            One of `ASKED`.
        items, lengths
            int64 [n, length] and [n], padded on the right.

        Returns
        -------
        Tokens int64 [n, places], and which are real, bool.
        """
        return packed(self._question(asked, items, lengths))

    def examples(
        self, asked: Task | str, items: Tensor, lengths: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return questions with their answers about ``targets``, int64 [n]: tokens, real, and answer's tokens int64 [n]."""
        answers = (
            self.items[targets] if asked in (NEXT, "titles_to_id", "title_to_id") else self.titles[targets]
        )
        tokens, real = packed([*self._question(asked, items, lengths), answers])
        return tokens, real, (answers >= 0).sum(dim=1)

    def _question(self, asked: Task | str, items: Tensor, lengths: Tensor) -> list[Tensor]:
        real = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        if asked in ("titles_to_id", "title_to_id"):
            recent = latest(items, lengths, self.latest)
            read = torch.where((recent >= 0)[..., None], self.titles[recent.clamp(min=0)], -1)
        else:
            read = torch.where(real[..., None], self.items[items.clamp(min=0)], -1)
        before, after = (
            torch.tensor(text, device=items.device).expand(len(items), -1) for text in self.texts[asked]
        )
        return [before, read.flatten(1), after]


def packed(pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Join pieces [n, any] of tokens with -1 for none, and move what is real to the right, in its order."""
    tokens = torch.cat(pieces, dim=1)
    order = (tokens >= 0).long().sort(dim=1, stable=True).indices
    tokens = tokens.gather(1, order)
    tokens = tokens[:, tokens.shape[1] - int((tokens >= 0).sum(dim=1).max()) :]
    return tokens.clamp(min=0), tokens >= 0
