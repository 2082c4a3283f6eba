"""Score every item, prefix by prefix: for catalogues whose prefixes are few enough.

Items share prefixes, and the network is asked about each prefix once. Prefixes of one length are taken in groups, and a
group's continuations before the next group, so that memory does not grow with the catalogue.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn.functional import pad

from ml.recommenders.generative.beam import Decoder, Normalise, code_scores, distinct_leaves, ranked
from ml.recommenders.generative.trie import Trie


def exact_search(
    decoder: Decoder,
    trie: Trie,
    n: int,
    k: int,
    excluded: Tensor | None = None,
    normalise: Normalise = "vocabulary",
    at_once: int = 2048,
) -> tuple[Tensor, Tensor]:
    """Find the most likely items of ``n`` users, as a beam of all items would.

    Parameters
    ----------
    decoder
        Scores codes; a shallow copy of it must be a decoder that goes its own way.
    trie, n, k, excluded, normalise
        See `ml.recommenders.generative.beam.beam_search`.
    at_once
        Hypotheses of all users that are extended together.

    Returns
    -------
    items, scores
        See `ml.recommenders.generative.beam.beam_search`.
    """
    scores = exact_scores(decoder, trie, n, normalise, at_once)
    if excluded is not None:
        leaves = distinct_leaves(trie, excluded)
        # One place more, for what pads the list of leaves.
        scores = pad(scores, (0, 1)).scatter_(1, leaves, -torch.inf)[:, :-1]
    scores, best = scores.topk(min(k, len(trie)), dim=1)
    return ranked(trie.items[best], scores, k)


def exact_scores(
    decoder: Decoder, trie: Trie, n: int, normalise: Normalise = "vocabulary", at_once: int = 2048
) -> Tensor:
    """Return the log-probability of every leaf of the trie, float [n, leaves]; see `exact_search`."""
    logits = decoder.start()
    found = logits.new_empty(n, len(trie))
    root = torch.zeros(1, dtype=torch.int64, device=logits.device)
    group = max(1, at_once // n)

    def walk(decoder: Decoder, depth: int, nodes: Tensor, logits: Tensor, scores: Tensor) -> None:
        children, codes, exists = trie.children(depth, nodes)
        total = scores[:, :, None] + code_scores(logits, codes.expand(n, -1, -1), exists, normalise)
        total, nodes, codes = total[:, exists], children[exists], codes[exists]
        parents = exists.nonzero()[:, 0]
        certain = trie.below(depth + 1, nodes) == 1
        done = certain if normalise == "trie" or depth + 1 == trie.levels else torch.zeros_like(certain)
        found[:, trie.leaves[depth + 1][nodes[done]]] = total[:, done]
        rest = (~done).nonzero()[:, 0]
        for some in rest.split(group) if len(rest) else ():
            fork = copy.copy(decoder)
            logits = fork.step(codes[some].expand(n, -1), parents[some].expand(n, -1))
            walk(fork, depth + 1, nodes[some], logits, total[:, some])

    walk(decoder, 0, root, logits, logits.new_zeros(n, 1))
    return found
