"""Items found under several conditions: what each condition gives is weighed by its probability and summed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ml.recommenders.generative.beam import Decoder, beam_search
from ml.recommenders.generative.objectives.autoregressive import AutoregressiveParams
from ml.recommenders.generative.parts import Facts, PathLoss
from ml.recommenders.generative.trie import Trie


def search_mixture(
    branches: Iterable[tuple[Decoder, Tensor]],
    trie: Trie,
    params: AutoregressiveParams,
    k: int,
    excluded: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Search under each condition, and rank items by what they get from all of them together.

    Parameters
    ----------
    branches
        A decoder under each condition, and its log-probability float [n].
    trie, params, k, excluded
        As of `ml.recommenders.generative.beam.beam_search`.

    Returns
    -------
    int64 and float [n, k], as of `ml.recommenders.generative.parts.Objective.rank`. With a beam as wide as the
    catalogue, and ``k`` items or more under each condition, it is exact.
    """
    items, scores = [], []
    for decoder, weight in branches:
        width = max(params.beam, k)
        found = beam_search(decoder, trie, len(weight), width, width, excluded, params.normalise)
        items.append(found[0])
        scores.append(found[1] + weight[:, None])
    return summed(torch.cat(items, dim=1), torch.cat(scores, dim=1), k)


def plain_loss(params: AutoregressiveParams, facts: Facts) -> PathLoss:
    """Make the path loss of an objective that draws no rivals.

    Raises
    ------
    ValueError
        If it asks for rivals.
    """
    made = params.loss.build(facts)
    if made.rivals:
        raise ValueError(f"objective {params.kind} draws no rivals, which loss {params.loss.kind} asks for")
    return made


def summed(items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Add up the probabilities of equal items, and take the ``k`` best.

    Parameters
    ----------
    items
        int64 [n, m], -1 for none.
    scores
        float [n, m], log-probabilities; -inf for none.

    Returns
    -------
    int64 and float [n, k], best first, equal scores by lower item; -1 and -inf where there are fewer.
    """
    items, order = items.sort(dim=1)
    scores = scores.gather(1, order)
    fresh = torch.ones_like(items, dtype=torch.bool)
    fresh[:, 1:] = items[:, 1:] != items[:, :-1]
    group = fresh.long().cumsum(dim=1) - 1
    best = torch.full_like(scores, -torch.inf).scatter_reduce(1, group, scores, "amax")
    shifted = (scores - best.gather(1, group)).exp().masked_fill(scores == -torch.inf, 0)
    total = best + torch.zeros_like(scores).scatter_add(1, group, shifted).log()
    distinct = torch.full_like(items, -1).scatter(1, group, items)
    total = total.masked_fill(distinct < 0, -torch.inf)
    # Groups stand in the order of items, and the sort is stable.
    total, order = total.sort(dim=1, descending=True, stable=True)
    missing = (0, max(0, k - total.shape[1]))
    found = distinct.gather(1, order).masked_fill(total == -torch.inf, -1)
    return pad(found, missing, value=-1)[:, :k], pad(total, missing, value=-torch.inf)[:, :k]
