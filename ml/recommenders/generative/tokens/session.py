"""Sessions are read, not items: what happened in one becomes one place, so that the backbone attends over sessions.

SessionRec (Huang et al. 2025, arXiv:2502.10157): aggregation inside a session first, over sessions after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ml.recommenders.batches import Sequences
from ml.recommenders.generative.code_table import CodeTable
from ml.recommenders.generative.parts import Facts, PartParams, Tokens
from ml.recommenders.generative.tokens.behaviour import TypeTable

if TYPE_CHECKING:
    from ml.recommenders.generative.model import GenerativeParams

_MINUTE = 60_000_000
#: Events of a session, from its last back, that have a weight of their own by their place.
_RECENT = 8


class SessionTokensParams(PartParams):
    """Parameters of `SessionTokens`.

    Parameters
    ----------
    gap
        Minutes without an event that end a session; 1440 where the log knows days alone.
    types
        Whether an item is read with what was done with it.
    """

    kind: Literal["session"] = "session"
    gap: float = Field(default=30, gt=0)
    types: bool = True

    def check(self, whole: GenerativeParams) -> None:
        """Refuse objectives that count items: a session's place holds items after the one that is read up to."""
        if whole.objective.kind != "next_session":
            raise ValueError(
                "tokens of kind session need objective next_session: others would read their targets"
            )

    def per_item(self, levels: int) -> int:
        """Return the places of a session."""
        return 1

    def build(self, facts: Facts) -> Tokens:
        """Make the part."""
        return SessionTokens(self, facts)


class SessionTokens(nn.Module):
    """A session is the weighted mean of its items; see the module and `ml.recommenders.generative.parts.Groups`.

    An item's weight follows from what it is and from its place, counted from the session's end.
    """

    per_item = 1

    def __init__(self, params: SessionTokensParams, facts: Facts) -> None:
        super().__init__()
        self.gap = round(params.gap * _MINUTE)
        self.types = TypeTable(facts) if params.types else None
        self.query = nn.Parameter(torch.zeros(facts.d))
        self.recency = nn.Parameter(torch.zeros(_RECENT))

    def sessions(self, sequences: Sequences) -> Tensor:
        """Return the session of each event, int64 [n, length], from 0; padding counts to the last one."""
        ended = (sequences.times.diff(dim=1) > self.gap) & sequences.real[:, 1:]
        return nn.functional.pad(ended.long().cumsum(dim=1), (1, 0))

    def groups(self, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Groups`; int64 [n] sessions."""
        return (self.sessions(sequences)[:, -1] + 1).masked_fill(sequences.lengths == 0, 0)

    def forward(self, table: CodeTable, sequences: Sequences) -> Tensor:
        """See `ml.recommenders.generative.parts.Tokens`; float [n, most sessions, 1, d]."""
        x = table.embed(table.rows(sequences.items)).sum(dim=2)
        if self.types is not None:
            x = x + self.types(sequences.types)
        place, real = self.sessions(sequences), sequences.real
        number = torch.arange(int(place.max()) + 1, device=place.device)
        member = (place[:, None, :] == number[:, None]) & real[:, None, :]
        together = (place[:, :, None] == place[:, None, :]) & real[:, None, :]
        later = together.triu(diagonal=1).sum(dim=2).clamp(max=_RECENT - 1)
        weight = (x @ self.query + self.recency[later])[:, None, :]
        # A session that a history lacks is padding: its mean may be of anything, but not of nothing.
        weight = weight.masked_fill(~member, torch.finfo(weight.dtype).min).softmax(dim=-1)
        return (weight @ x)[:, :, None]
