"""Beam search over the trie: every hypothesis is the prefix of an item, so no invalid ID can be produced.

History items are taken out on the way: a prefix whose items are all excluded is dropped where it would enter the beam.
So every prefix in the beam leads to an item that may be shown, and a beam of at least ``k`` always ends in ``k`` items
(or in all that there are), however long the history.

Where a code's probability is over the codes that exist after its prefix, a prefix of one item is settled: what follows
is certain. Such hypotheses wait beside the beam, and the network is not asked about them.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from ml.recommenders.generative.trie import Trie

Normalise = Literal["trie", "vocabulary", "table"]


class Decoder(Protocol):
    """What the search asks for scores; it keeps its own state of the hypotheses."""

    def start(self) -> Tensor:
        """Return the logits of the first code, float [n, 1, size of level 0]."""
        ...

    def step(self, codes: Tensor, parents: Tensor) -> Tensor:
        """Extend the hypotheses, of which there may be more or fewer from step to step.

        Parameters
        ----------
        codes
            int64 [n, beams], the code that each new hypothesis adds.
        parents
            int64 [n, beams], the old hypothesis that it extends; what is returned for one that is settled does not
            matter, and its parent need not be its own.

        Returns
        -------
        Tensor
            Logits of the next code, float [n, beams, size of its level].
        """
        ...


def beam_search(
    decoder: Decoder,
    trie: Trie,
    n: int,
    width: int,
    k: int,
    excluded: Tensor | None = None,
    normalise: Normalise = "vocabulary",
) -> tuple[Tensor, Tensor]:
    """Find the most likely items of ``n`` users.

    Parameters
    ----------
    decoder
        Scores codes.
    trie
        The IDs that exist.
    n
        Users.
    width
        Hypotheses kept after each code but the last; at least ``k`` are. With as many as there are items the result
        is exact.
    k
        Items to return.
    excluded
        int64 [n, any], items never to return, padded with -1.
    normalise
        Whether a code's probability is over those that exist after the prefix, which makes probabilities of items
        sum to 1; over all codes of its level; or over everything in the table of codes, as a language model's over
        its vocabulary, for a decoder whose logits are such log-probabilities already.

    Returns
    -------
    items, scores
        int64 and float [n, k], best first, equal scores by lower item index; -1 and -inf where there are fewer. Scores
        are log-probabilities. (Of equal scores at the border of the beam, any may be kept.)
    """
    logits = decoder.start()
    nodes = torch.zeros(n, 1, dtype=torch.int64, device=logits.device)
    scores = torch.zeros(n, 1, dtype=logits.dtype, device=logits.device)
    dead = None if excluded is None else distinct_leaves(trie, excluded)
    asked = 1
    for depth in range(trie.levels):
        # The first hypotheses were asked about; the others wait, each with one child, which is certain.
        children, total = _children(logits, trie, depth, nodes[:, :asked], scores[:, :asked], dead, normalise)
        children = torch.cat([children, trie.first[depth][nodes[:, asked:]]], dim=1)
        total = torch.cat([total, scores[:, asked:]], dim=1)
        keep = k if depth == trie.levels - 1 else max(width, k)
        scores, best = total.topk(min(keep, total.shape[1]), dim=1)
        nodes = children.gather(1, best)
        if depth == trie.levels - 1:
            break
        asked = nodes.shape[1]
        if normalise == "trie":
            settled = (trie.below(depth + 1, nodes) == 1) | (scores == -torch.inf)
            order = settled.to(torch.int8).argsort(dim=1, stable=True)
            scores, best, nodes = (tensor.gather(1, order) for tensor in (scores, best, nodes))
            # The one number that a GPU is waited for, once a step: most of a step is what it saves.
            asked = int((~settled).sum(dim=1).max())
        parents = best[:, :asked].div(trie.degrees[depth], rounding_mode="floor")
        if asked:
            codes_taken = trie.codes[depth][nodes[:, :asked]]
            logits = decoder.step(codes_taken, parents.clamp(max=logits.shape[1] - 1))
        else:
            logits = logits[:, :0]
    return ranked(trie.items[nodes], scores, k)


def prefix_search(
    decoder: Decoder,
    trie: Trie,
    n: int,
    width: int,
    depth: int,
    dead: Tensor | None = None,
    normalise: Normalise = "vocabulary",
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the most likely prefixes of ``depth`` codes; the decoder has then read all of them.

    Parameters
    ----------
    decoder, trie, n, width, normalise
        As in `beam_search`.
    depth
        Below ``trie.levels``.
    dead
        Leaves never to lead to, as `distinct_leaves` gives them.

    Returns
    -------
    nodes, scores, logits
        int64 and float [n, beams], best first, log-probabilities of nodes of ``depth``; -inf where there is none. And
        the logits of the code after each, float [n, beams, size].
    """
    logits = decoder.start()
    nodes = torch.zeros(n, 1, dtype=torch.int64, device=logits.device)
    scores = torch.zeros(n, 1, dtype=logits.dtype, device=logits.device)
    for level in range(depth):
        children, total = _children(logits, trie, level, nodes, scores, dead, normalise)
        scores, best = total.topk(min(width, total.shape[1]), dim=1)
        nodes = children.gather(1, best)
        parents = best.div(trie.degrees[level], rounding_mode="floor")
        logits = decoder.step(trie.codes[level][nodes], parents)
    return nodes, scores, logits


def _children(
    logits: Tensor,
    trie: Trie,
    depth: int,
    nodes: Tensor,
    scores: Tensor,
    dead: Tensor | None,
    normalise: Normalise,
) -> tuple[Tensor, Tensor]:
    """Return the children of a beam and their scores, int64 and float [n, beams * degree]; -inf where there is none."""
    children, codes, exists = trie.children(depth, nodes)
    total = scores[:, :, None] + code_scores(logits, codes, exists, normalise)
    if dead is not None:
        alive = scores > -torch.inf
        return children.flatten(1), _without_dead(total, trie, depth, nodes.where(alive, -2), dead)
    return children.flatten(1), total.flatten(1)


def code_scores(logits: Tensor, codes: Tensor, exists: Tensor, normalise: Normalise) -> Tensor:
    """Return the log-probability of each child, -inf where it does not exist.

    Parameters
    ----------
    logits
        float [..., size].
    codes, exists
        int64 and bool [..., degree], as `Trie.children` gives them.
    normalise
        As in `beam_search`.
    """
    of_children = logits.gather(-1, codes).masked_fill(~exists, -torch.inf)
    if normalise == "table":
        return of_children
    over = of_children if normalise == "trie" else logits
    return of_children - over.logsumexp(-1, keepdim=True)


def distinct_leaves(trie: Trie, items: Tensor) -> Tensor:
    """Return the leaves of items [n, h], distinct and sorted, int64 [n, h]; padded with ``len(trie)`` at the end."""
    leaves = torch.where(items >= 0, trie.place[items.clamp(min=0)], -1)
    leaves = torch.where(leaves < 0, len(trie), leaves).sort(dim=1).values
    repeated = torch.zeros_like(leaves, dtype=torch.bool)
    repeated[:, 1:] = leaves[:, 1:] == leaves[:, :-1]
    return leaves.masked_fill(repeated, len(trie)).sort(dim=1).values


def dead_nodes(trie: Trie, depth: int, leaves: Tensor) -> Tensor:
    """Return the nodes of ``depth`` all of whose leaves are given.

    Parameters
    ----------
    trie
        The tree.
    depth
        From 1.
    leaves
        int64 [n, h], as `distinct_leaves` gives them.

    Returns
    -------
    Tensor
        int64 [n, h], each dead node once; -1 elsewhere.
    """
    width = leaves.shape[1]
    real = leaves < len(trie)
    nodes = trie.above(depth, torch.where(real, leaves, 0))
    begin, end = trie.leaves[depth][nodes], trie.leaves[depth][nodes + 1]
    # Distinct and sorted: if a node's first leaf is in column i, all of it is there if its last is in i + size - 1.
    last = torch.arange(width, device=leaves.device) + (end - begin) - 1
    full = leaves.gather(1, last.clamp(max=width - 1)) == end - 1
    return torch.where(real & (leaves == begin) & (last < width) & full, nodes, -1)


def _without_dead(total: Tensor, trie: Trie, depth: int, nodes: Tensor, leaves: Tensor) -> Tensor:
    """Return scores [n, beams, degree] as [n, beams * degree], those of children without a permitted item -inf.

    Nodes are distinct, and below -1 where a hypothesis is none. What to change is never counted: on a GPU, a count would
    be waited for.
    """
    dead = dead_nodes(trie, depth + 1, leaves)
    parents = torch.where(dead >= 0, trie.parents(depth + 1, dead.clamp(min=0)), -1)
    met = nodes[:, :, None] == parents[:, None, :]
    child = dead - trie.first[depth][parents.clamp(min=0)]
    beam = (met * torch.arange(nodes.shape[1], device=nodes.device)[:, None]).sum(dim=1)
    place = beam * total.shape[2] + child
    total = total.flatten(1)
    # One place more, for those that are not in the beam.
    place = place.where(met.any(dim=1), total.shape[1])
    return torch.nn.functional.pad(total, (0, 1)).scatter_(1, place, -torch.inf)[:, :-1]


def ranked(items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Order by falling score, then by item, and pad to ``k``."""
    items, by_item = items.sort(dim=1)
    scores, by_score = scores.gather(1, by_item).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, by_score).masked_fill(scores == -torch.inf, -1)
    missing = k - items.shape[1]
    if missing > 0:
        items = torch.nn.functional.pad(items, (0, missing), value=-1)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return items, scores
