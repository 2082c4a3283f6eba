"""How far a distribution has moved: the population stability index and the Jensen-Shannon distance.

Both compare counts over the same buckets. They are symmetric, and 0 for equal shares.

- **PSI**, the sum of ``(p - q) ln(p / q)``: 0.1 to 0.25 is usually called a moderate shift, more a large one (Siddiqi,
  *Credit Risk Scorecards*, 2006). It has no bound, and an empty bucket would make it infinite: half a count is added
  to every bucket on both sides (the Jeffreys prior).
- **Jensen-Shannon distance**, the square root of the divergence to base 2 (Lin, *Divergence measures based on the
  Shannon entropy*, 1991; Endres and Schindelin, 2003): between 0 and 1, and no bucket needs smoothing, which suits
  categories that come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PSEUDO_COUNT = 0.5


def psi(counts: ArrayLike, reference: ArrayLike) -> float:
    """Return the population stability index of two histograms.

    Parameters
    ----------
    counts, reference
        Counts by bucket, [buckets], of what is looked at and of what it is held against. Half a count is added to
        each.
    """
    p, q = (_shares(np.asarray(side, dtype=float) + _PSEUDO_COUNT) for side in (counts, reference))
    return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon(counts: ArrayLike, reference: ArrayLike) -> float:
    """Return the Jensen-Shannon distance of two histograms, base 2, between 0 and 1.

    Parameters
    ----------
    counts, reference
        Counts by bucket, [buckets]; neither may be empty.
    """
    p, q = (_shares(np.asarray(side, dtype=float)) for side in (counts, reference))
    middle = (p + q) / 2
    divergence = (_entropy(middle) - (_entropy(p) + _entropy(q)) / 2) / np.log(2)
    return float(np.sqrt(max(divergence, 0.0)))


def psi_by_chance(buckets: int, rows: float, reference_rows: float, probability: float) -> float:
    """Return the PSI that two samples of one distribution exceed with this probability.

    Over ``B`` buckets, PSI divided by ``1 / rows + 1 / reference_rows`` is close to a chi-square variable of ``B - 1``
    degrees of freedom (Yurdakul and Naranjo, *Statistical properties of the population stability index*, 2020). Rows
    are taken as independent, which events of one session are not.
    """
    from scipy.special import chdtri

    if buckets < 2:
        return 0.0
    return float((1 / rows + 1 / reference_rows) * chdtri(buckets - 1, probability))


def jensen_shannon_by_chance(buckets: int, rows: float, reference_rows: float, probability: float) -> float:
    """Return the distance that two samples of one distribution exceed with this probability.

    Close to equality the divergence in nats is an eighth of PSI: both are sums of squared differences there.
    """
    return float(np.sqrt(psi_by_chance(buckets, rows, reference_rows, probability) / (8 * np.log(2))))


def quantile_groups(reference: Mapping[int, float], groups: int) -> list[int]:
    """Join fine buckets to groups of about equal weight.

    Parameters
    ----------
    reference
        Weight by fine bucket, whose numbers rise with the values in them.
    groups
        How many groups there may be; a bucket that is heavier than its share makes fewer.

    Returns
    -------
    list of int
        The last bucket of every group but the last, rising. What lies beyond the reference falls into the outer groups.
    """
    buckets = sorted(reference)
    upto = np.cumsum([reference[bucket] for bucket in buckets])
    ends: list[int] = []
    begun = 0.0
    for bucket, weight in zip(buckets[:-1], upto[:-1].tolist(), strict=True):
        if weight - begun >= upto[-1] / groups:
            ends.append(bucket)
            begun = weight
    return ends


def grouped(counts: Mapping[int, float], ends: Sequence[int]) -> NDArray[np.float64]:
    """Return the counts of fine buckets by group, [len(ends) + 1]."""
    places = np.searchsorted(ends, list(counts), side="left") if counts else np.empty(0, dtype=np.int64)
    return np.bincount(places, weights=list(counts.values()), minlength=len(ends) + 1).astype(np.float64)


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts / counts.sum()


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-np.sum(positive * np.log(positive)))
