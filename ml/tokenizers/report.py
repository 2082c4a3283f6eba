"""What a semantic ID is worth: how it uses its codes, what it keeps of the vectors, and how it moved since last time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.tokenizers.collisions import group_ids
from ml.tokenizers.items import ItemData

if TYPE_CHECKING:
    from ml.tokenizers.base import Tokenizer

_CANDIDATES = 20_000
_DEPTHS = 3


def describe(tokenizer: Tokenizer, items: ItemData, codes: NDArray[np.int32]) -> dict[str, Any]:
    """Return every figure of a fitted tokenizer that needs no earlier version.

    Parameters
    ----------
    tokenizer
        Fitted.
    items
        The catalogue, with the spaces ``text`` and ``behaviour`` and categories where there are any.
    codes
        int32 [n, levels] of these items, before de-duplication.
    """
    space = getattr(tokenizer.params, "input", None)
    known = items.known(space) if space is not None else np.ones(len(items), bool)
    decoded = tokenizer.decode(codes) if tokenizer.decodes else None
    error = None
    if decoded is not None and space is not None:
        error = reconstruction_error(items.space(space)[known], decoded[known])
    return {
        "uniqueness": uniqueness(codes),
        "items_without_vector": int((~known).sum()),
        "levels": [
            code_usage(column, size)
            for column, size in zip(codes[known].T, tokenizer.code_sizes, strict=True)
        ],
        "reconstruction_error": error,
        "neighbour_overlap@10": {
            name: _overlap(items, name, decoded) for name in ("text", "behaviour") if name in items.spaces
        },
        "prefix_purity": prefix_purity(codes, items.categories, 0) if items.categories else None,
    }


def uniqueness(codes: NDArray[np.int32]) -> dict[str, Any]:
    """Count distinct tuples among codes [n, levels], before de-duplication.

    Returns
    -------
    dict[str, Any]
        ``items``, ``distinct``, ``largest_collision`` (items of the fullest tuple) and ``share_unique`` (items that
        have their tuple to themselves).
    """
    sizes = np.bincount(group_ids(codes))
    return {
        "items": len(codes),
        "distinct": len(sizes),
        "largest_collision": int(sizes.max(initial=0)),
        "share_unique": float((sizes == 1).sum() / max(len(codes), 1)),
    }


def code_usage(codes: NDArray[np.int32], code_size: int) -> dict[str, Any]:
    """Describe how one level's codes [n] are used.

    Returns
    -------
    dict[str, Any]
        ``used`` and ``dead`` codes, ``perplexity`` (2 to the entropy: the number of codes if all used ones were
        equally frequent) and ``gini`` (0 where all codes are equally frequent, near 1 where one has all items).
    """
    counts = np.bincount(codes, minlength=code_size).astype(np.float64)
    used = int((counts > 0).sum())
    share = counts[counts > 0] / max(counts.sum(), 1)
    ordered = np.sort(counts)
    places = np.arange(1, code_size + 1)
    gini = ((2 * places - code_size - 1) * ordered).sum() / max(code_size * ordered.sum(), 1)
    perplexity = 2 ** float(-(share * np.log2(share)).sum()) if used else 0.0
    return {"used": used, "dead": code_size - used, "perplexity": perplexity, "gini": float(gini)}


def reconstruction_error(vectors: NDArray[np.float32], decoded: NDArray[np.float32]) -> float:
    """Return the share of the vectors' variance that decoding misses; 0 is perfect, 1 no better than the mean."""
    if len(vectors) == 0:
        return 0.0
    variance = float(np.mean((vectors - vectors.mean(axis=0)) ** 2))
    missed = float(np.mean((vectors - decoded) ** 2))
    return missed / variance if variance > 0 else 0.0


def neighbour_overlap(
    left: NDArray[np.float32], right: NDArray[np.float32], seed: int, k: int = 10, sample: int = 500
) -> float | None:
    """Compare nearest neighbours by cosine in two spaces.

    Parameters
    ----------
    left, right
        Vectors of the same items, ``[n, d1]`` and ``[n, d2]``.
    seed
        Seed of the sample.
    k
        Neighbours compared.
    sample
        Items whose neighbours are compared; they are sought among at most 20,000 items.

    Returns
    -------
    float | None
        Mean share of neighbours in common, or None where there are no more than ``k`` items.
    """
    rng = np.random.default_rng(seed)
    if len(left) > _CANDIDATES:
        rows = np.sort(rng.choice(len(left), _CANDIDATES, replace=False))
        left, right = left[rows], right[rows]
    if len(left) <= k:
        return None
    queries = np.sort(rng.choice(len(left), min(sample, len(left)), replace=False))
    near_left, near_right = _neighbours(left, queries, k), _neighbours(right, queries, k)
    common = (near_left[:, :, None] == near_right[:, None, :]).any(axis=2)
    return float(common.mean())


def prefix_purity(
    codes: NDArray[np.int32], categories: Sequence[Sequence[str]], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Tell how far items of one prefix are of one category.

    Parameters
    ----------
    codes
        int32 [n, levels].
    categories
        Coarse to fine, of each item; items without a category at a depth take no part there.
    seed
        Seed of the shuffle.

    Returns
    -------
    dict[str, dict[str, dict[str, float]]]
        By prefix length and category depth: ``purity``, the share of items whose category is the commonest of
        their prefix, and ``shuffled``, the same with categories dealt at random: small groups are pure by chance.
    """
    rng = np.random.default_rng(seed)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for depth in range(_DEPTHS):
        known = np.array([len(names) > depth for names in categories], bool)
        if not known.any():
            break
        labels = np.unique([names[depth] for names in categories if len(names) > depth], return_inverse=True)[
            1
        ]
        shuffled = rng.permutation(labels)
        for length in range(1, codes.shape[1] + 1):
            groups = group_ids(codes[known, :length])
            scores = {"purity": _purity(groups, labels), "shuffled": _purity(groups, shuffled)}
            report.setdefault(f"prefix_{length}", {})[f"category_{depth + 1}"] = scores
    return report


def churn(
    old_ids: Sequence[str], old: NDArray[np.int32], new_ids: Sequence[str], new: NDArray[np.int32]
) -> dict[str, Any]:
    """Compare an item's codes with those it had.

    Parameters
    ----------
    old_ids, new_ids
        Items of the rows.
    old, new
        int32 [n, levels + 1], with the de-duplicating code.

    Returns
    -------
    dict[str, Any]
        ``kept`` items, ``added``, ``removed``; and of the kept, the share whose ID ``changed``.
    """
    place = {item: row for row, item in enumerate(old_ids)}
    pairs = [(place[item], row) for row, item in enumerate(new_ids) if item in place]
    changed = 0.0
    if pairs:
        before, after = np.array(pairs).T
        same = old.shape[1] == new.shape[1] and (old[before] == new[after]).all(axis=1)
        changed = 1.0 - float(np.mean(same))
    kept = len(pairs)
    return {"kept": kept, "added": len(new_ids) - kept, "removed": len(old_ids) - kept, "changed": changed}


def _overlap(items: ItemData, space: str, decoded: NDArray[np.float32] | None) -> float | None:
    if decoded is None:
        return None
    known = items.known(space)
    return neighbour_overlap(items.space(space)[known], decoded[known], seed=0)


def _neighbours(vectors: NDArray[np.float32], queries: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit[queries] @ unit.T
    similarity[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def _purity(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    pairs, counts = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    largest = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(largest, pairs[0], counts)
    return float(largest.sum() / len(groups))
