"""What serving a recommender would cost: milliseconds for one user, and megabytes on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml.evaluation.evaluate import Answers
from ml.histories import Histories

if TYPE_CHECKING:
    from ml.snapshot import Catalogue

_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What was measured of one candidate.

    Parameters
    ----------
    latency_ms
        90th percentile of the time for one user's list.
    users
        Users that were asked for.
    size_mb
        Megabytes (10^6 bytes) of its files.
    uses_ids
        Whether it recommends by semantic IDs.
    churn
        Share of the items in common whose semantic ID differs from the live champion's; None where there is nothing
        to compare with.
    no_churn
        Why there is nothing to compare with.
    """

    latency_ms: float
    users: int
    size_mb: float
    uses_ids: bool = False
    churn: float | None = None
    no_churn: str = ""


def latency_ms(recommender: Answers, histories: Histories, users: int = 50, k: int = 20) -> float:
    """Ask for one user after the other, and return the 90th percentile of the milliseconds.

    Parameters
    ----------
    recommender
        Fitted.
    histories
        Users spread evenly over these are asked for; the first is asked for once more before the clock runs.
    users
        How many.
    k
        Length of the lists.
    """
    sample = np.linspace(0, len(histories) - 1, min(users, len(histories))).astype(np.int64)
    if not len(sample):
        return 0.0
    recommender.recommend(histories.rows(sample[:1]), k)
    took = np.zeros(len(sample))
    for place, user in enumerate(sample):
        one = histories.rows(np.array([user]))
        began = time.perf_counter()
        recommender.recommend(one, k)
        took[place] = time.perf_counter() - began
    return float(np.quantile(took, 0.9) * 1000)


def size_mb(folder: Path) -> float:
    """Return the megabytes (10^6 bytes) of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / _MEGABYTE


def changed_ids(before: Catalogue, now: Catalogue) -> float | None:
    """Return the share of the items in both catalogues whose semantic ID differs; None where there are none.

    IDs of another length all differ.
    """
    place = {item: row for row, item in enumerate(before.item_ids)}
    pairs = [(place[item], row) for row, item in enumerate(now.item_ids) if item in place]
    if not pairs:
        return None
    if before.codes.shape[1] != now.codes.shape[1]:
        return 1.0
    old, new = np.array(pairs).T
    return float((before.codes[old] != now.codes[new]).any(axis=1).mean())
