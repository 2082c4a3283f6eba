"""What every side of a comparison reads and writes."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOTHING = -1


@dataclass
class Task:
    """Train on every history but its last two events, then answer each history but its last event.

    Parameters
    ----------
    offsets
        int64 [n_users + 1]; user ``u`` did ``items[offsets[u]:offsets[u + 1]]``, oldest first.
    items
        int32 [n_events], below ``n_items``.
    n_items
        Size of the catalogue.
    setting
        What to train, in this project's words: ``loss``, ``negatives``, ``d``, ``blocks``, ``heads``, ``max_length``,
        ``batch``, ``dropout``, ``learning_rate``, ``epochs``, ``seed``, ``k``.
    out
        File to write.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    n_items: int
    setting: dict[str, Any]
    out: Path
    told: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Task:
        """Read what the command line names: a file of histories, a setting as JSON, a file to write."""
        data, setting, out = sys.argv[1:]
        with np.load(data) as arrays:
            return cls(
                arrays["offsets"],
                arrays["items"],
                int(arrays["n_items"]),
                json.loads(setting),
                Path(out).absolute(),
            )

    def without_last(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return user and item of every event but the last ``n`` of each user, in order."""
        lengths = np.diff(self.offsets)
        users = np.repeat(np.arange(len(lengths)), lengths)
        kept = np.arange(len(self.items)) < (self.offsets[1:] - n)[users]
        return users[kept], self.items[kept]

    def trained(self, epochs: list[float], cpu: float, steps: int) -> None:
        """Note seconds of every epoch, CPU seconds of all, and steps of one; the peak of memory is taken now."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.told |= {"epoch_seconds": epochs, "cpu_seconds": cpu, "steps": steps, "peak_mb": peak}

    def write(self, items: NDArray[Any], scores: NDArray[Any], seconds: float, *packages: str) -> None:
        """Write the answers, items and scores [n_users, k], best first, how long they took, and versions of packages."""
        self.told |= {"score_seconds": seconds, "versions": {name: version(name) for name in packages}}
        np.savez(
            self.out,
            items=items.astype(np.int32),
            scores=scores.astype(np.float32),
            told=json.dumps(self.told),
        )


class Clock:
    """Seconds and CPU seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return both."""
        return time.perf_counter() - self.wall, time.process_time() - self.cpu
