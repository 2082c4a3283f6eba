"""Hugging Face's ``generate`` as `benchmarks.decoding` asks it, and how alike two sides' lists are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.histories import Histories
from ml.snapshot import Catalogue

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Asked:
    """What is asked of both sides."""

    catalogue: Catalogue
    histories: Histories
    beam: int
    k: int
    device: str = "cpu"


def agreement(ours: Lists, theirs: Lists, tolerance: float = 1e-4) -> dict[str, float]:
    """Return how alike lists are.

    Raises
    ------
    SystemExit
        If scores differ by more than the tolerance, or items where scores are further apart than it.
    """
    apart = np.abs(ours[1] - theirs[1])
    differ = ours[0] != theirs[0]
    # Scores as near as rounding are a tie, whose order is anyone's; a list's last may be tied with what comes after.
    near = np.abs(np.diff(ours[1], axis=1)) < tolerance
    tied = np.pad(near, ((0, 0), (0, 1)), constant_values=True) | np.pad(near, ((0, 0), (1, 0)))
    if (apart > tolerance).any() or (differ & ~tied).any():
        raise SystemExit(f"the lists differ: {differ.mean():.4%} of items, scores by {apart.max():.2g}")
    return {"same_items": round(float(1 - differ.mean()), 6), "largest_score_difference": float(apart.max())}


class Peer:
    """Hugging Face's ``generate``, as its documentation has it for constrained decoding."""

    def __init__(self, model: Any, asked: Asked, arguments: dict[str, Any]) -> None:
        self.model, self.asked, self.arguments = model, asked, arguments
        self.codes = asked.catalogue.codes + np.cumsum([1, *asked.catalogue.code_sizes[:-1]])
        after: dict[tuple[int, ...], set[int]] = {}
        for row in self.codes.tolist():
            for level, code in enumerate(row):
                after.setdefault(tuple(row[:level]), set()).add(code)
        self.allowed = {prefix: sorted(following) for prefix, following in after.items()}
        self.item = {tuple(row): place for place, row in enumerate(self.codes.tolist())}

    def answer(self, histories: Histories, batch: int) -> Lists:
        """Answer for some users, so many at once."""
        parts = [
            self._together(histories.rows(slice(start, start + batch)))
            for start in range(0, len(histories), batch)
        ]
        items, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return items, scores

    def _together(self, rows: Histories) -> Lists:
        asked, levels = self.asked, self.codes.shape[1]
        inputs = np.zeros((len(rows), 1 + int(rows.lengths.max(initial=1)) * levels), np.int64)
        mask = np.arange(inputs.shape[1]) <= rows.lengths[:, None] * levels
        inputs[:, 1:][mask[:, 1:]] = self.codes[rows.items].ravel()
        found = self.model.generate(
            input_ids=torch.from_numpy(inputs).to(asked.device),
            attention_mask=torch.from_numpy(mask.astype(np.int64)).to(asked.device),
            max_new_tokens=levels,
            num_beams=asked.beam,
            num_return_sequences=asked.k,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, prefix: self.allowed[tuple(prefix[1:].tolist())],
            return_dict_in_generate=True,
            output_scores=True,
            **self.arguments,
        )
        items = [self.item[tuple(row)] for row in found.sequences[:, 1:].tolist()]
        shape = (len(rows), asked.k)
        return np.array(items, np.int32).reshape(shape), found.sequences_scores.cpu().numpy().reshape(shape)
