"""Memory for what lives for a moment, where no gradient is wanted."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

#: Numbers that a room holds at most, 16 MB: what is larger is made anew.
_ROOMY = 2**22


class Room(threading.local):
    """Memory for what lives for a moment, used again and again: on a CPU, asking for it anew costs as much as filling it."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Return memory of this shape and of the type and device of another tensor, until the name is taken again."""
        size = math.prod(shape)
        if like.device.type != "cpu" or size > _ROOMY:
            return like.new_empty(shape)
        held = self.held.get(name)
        if held is None or len(held) < size or held.dtype != like.dtype:
            with torch.inference_mode(False):
                held = self.held[name] = torch.empty(size, dtype=like.dtype)
        return held[:size].view(shape)


ROOM = Room()
