"""What a semantic ID is worth: how it uses its codes, what it keeps of the vectors, and how it moved since last time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.tokenizers import neighbours
from ml.tokenizers.collisions import group_ids
from ml.tokenizers.items import ItemData

if TYPE_CHECKING:
    from ml.tokenizers.base import Tokenizer

Decode = Callable[[NDArray[np.int32]], NDArray[np.float32]]
OVERLAP = "neighbour_overlap@10"
_K = 10
_SPACES = ("text", "behaviour")
_DEPTHS = 3
_BLOCK = 1 << 16


def describe(
    codes: NDArray[np.int32],
    code_sizes: Sequence[int],
    items: ItemData,
    ordered: bool = True,
    space: str | None = None,
    decode: Decode | None = None,
) -> dict[str, Any]:
    """Return every figure of codes that needs no earlier version; codes that someone else published will do.

    Parameters
    ----------
    codes
        int32 [n, levels] of these items, before de-duplication.
    code_sizes
        Exclusive upper bound of each level.
    items
        The catalogue, with the spaces ``text`` and ``behaviour`` and categories where there are any.
    ordered
        Whether a code refines the codes before it.
    space
        The space that the codes were made from, where it is one; only its known items count for the use of codes.
    decode
        Codes to vectors, of ``space`` where that is given.

    Returns
    -------
    dict[str, Any]
        JSON-able. `uniqueness`; ``levels``, one `code_usage` each; ``reconstruction_error``, None without a decoder;
        ``neighbour_overlap@10`` by space, see `overlaps`; ``prefix_purity``, None without categories.
    """
    known = items.known(space) if space is not None else np.ones(len(items), bool)
    error = None
    if decode is not None and space is not None:
        error = reconstruction_error(items.space(space)[known], codes[known], decode)
    return {
        "ordered": ordered,
        "uniqueness": uniqueness(codes),
        "items_without_vector": int((~known).sum()),
        "levels": [code_usage(column, size) for column, size in zip(codes[known].T, code_sizes, strict=True)],
        "reconstruction_error": error,
        OVERLAP: {
            name: overlaps(codes, items, name, ordered, decode) for name in _SPACES if name in items.spaces
        },
        "prefix_purity": prefix_purity(codes, items.categories, 0, ordered) if items.categories else None,
    }


def describe_tokenizer(tokenizer: Tokenizer, items: ItemData, codes: NDArray[np.int32]) -> dict[str, Any]:
    """Return `describe` of the codes [n, levels] that a fitted tokenizer gave these items."""
    space = getattr(tokenizer.params, "input", None)
    decode = tokenizer.decode if tokenizer.decodes else None
    return describe(codes, tokenizer.code_sizes, items, tokenizer.ordered, space, decode)


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
        ``size``, ``used`` and ``dead`` codes, ``perplexity`` (2 to the entropy: the number of codes if all used ones were
        equally frequent) and ``gini`` (0 where all codes are equally frequent, near 1 where one has all items).
    """
    counts = np.bincount(codes, minlength=code_size).astype(np.float64)
    used = int((counts > 0).sum())
    share = counts[counts > 0] / max(counts.sum(), 1)
    ordered = np.sort(counts)
    places = np.arange(1, code_size + 1)
    gini = ((2 * places - code_size - 1) * ordered).sum() / max(code_size * ordered.sum(), 1)
    perplexity = 2 ** float(-(share * np.log2(share)).sum()) if used else 0.0
    return {
        "size": code_size,
        "used": used,
        "dead": code_size - used,
        "perplexity": perplexity,
        "gini": float(gini),
    }


def reconstruction_error(
    vectors: NDArray[np.float32], codes: NDArray[np.int32], decode: Decode
) -> float | None:
    """Return the share of the vectors' variance that decoding their codes misses.

    0 is perfect, 1 no better than the mean; None where the decoder speaks of another space.
    """
    if len(vectors) == 0:
        return None
    mean = vectors.mean(axis=0, dtype=np.float64)
    missed = variance = 0.0
    for start in range(0, len(vectors), _BLOCK):
        block, decoded = vectors[start : start + _BLOCK], decode(codes[start : start + _BLOCK])
        if decoded.shape != block.shape:
            return None
        missed += float(((block - decoded).astype(np.float64) ** 2).sum())
        variance += float(((block - mean) ** 2).sum())
    return missed / variance if variance > 0 else 0.0


def overlaps(
    codes: NDArray[np.int32], items: ItemData, space: str, ordered: bool, decode: Decode | None, k: int = _K
) -> dict[str, float | None] | None:
    """Compare an item's neighbours by its codes with those by its vector.

    The same items are asked about whatever gave the codes: 500 drawn from those that the space knows, among at most
    20,000 of them. Ties on either side count as what a random order would give on average.

    Returns
    -------
    dict[str, float | None] | None
        Mean share of ``k`` neighbours in common with those by cosine in the space: of the neighbours by ``codes``
        (`neighbours.code_similarity`), of those by cosine of the ``decoded`` vectors (None without a decoder), and by
        ``chance``. None where the space knows no more than ``k`` items.
    """
    rows = np.flatnonzero(items.known(space))
    if len(rows) <= k:
        return None
    candidates, queries = neighbours.sample_rows(len(rows), seed=0)
    rows = rows[candidates]
    wanted = neighbours.cosine(items.space(space)[rows], queries)
    by_codes = neighbours.code_similarity(codes[rows], queries, ordered)
    decoded = None
    if decode is not None:
        decoded = neighbours.overlap(wanted, neighbours.cosine(decode(codes[rows]), queries), k)
    return {
        "codes": neighbours.overlap(wanted, by_codes, k),
        "decoded": decoded,
        "chance": k / (len(rows) - 1),
    }


def neighbour_overlap(
    left: NDArray[np.float32], right: NDArray[np.float32], seed: int, k: int = _K
) -> float | None:
    """Compare nearest neighbours by cosine in two spaces, of 500 items drawn by seed; see `overlaps`.

    Parameters
    ----------
    left, right
        Vectors of the same items, ``[n, d1]`` and ``[n, d2]``.
    seed
        Seed of the sample.
    k
        Neighbours compared.

    Returns
    -------
    float | None
        Mean share of neighbours in common, or None where there are no more than ``k`` items.
    """
    if len(left) <= k:
        return None
    rows, queries = neighbours.sample_rows(len(left), seed)
    return neighbours.overlap(
        neighbours.cosine(left[rows], queries), neighbours.cosine(right[rows], queries), k
    )


def prefix_purity(
    codes: NDArray[np.int32], categories: Sequence[Sequence[str]], seed: int, ordered: bool = True
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
    ordered
        Where a prefix means nothing, each code stands alone.

    Returns
    -------
    dict[str, dict[str, dict[str, float]]]
        By prefix length (``prefix_1`` and so on; ``code_1`` where not ordered) and category depth (``category_1`` is
        the coarsest): ``purity``, the share of items whose category is the commonest of their prefix, and ``shuffled``, the same with categories dealt at random: small groups are pure by chance.
    """
    rng = np.random.default_rng(seed)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for depth in range(_DEPTHS):
        known = np.array([len(names) > depth for names in categories], bool)
        if not known.any():
            break
        named = [names[depth] for names in categories if len(names) > depth]
        labels = np.unique(named, return_inverse=True)[1]
        shuffled = rng.permutation(labels)
        for level in range(codes.shape[1]):
            groups = group_ids(codes[known, (0 if ordered else level) : level + 1])
            scores = {"purity": _purity(groups, labels), "shuffled": _purity(groups, shuffled)}
            report.setdefault(f"{'prefix' if ordered else 'code'}_{level + 1}", {})[
                f"category_{depth + 1}"
            ] = scores
    return report


def churn(
    old_ids: Sequence[str],
    old: NDArray[np.int32],
    new_ids: Sequence[str],
    new: NDArray[np.int32],
    ordered: tuple[bool, bool] = (True, True),
) -> dict[str, Any]:
    """Compare an item's codes with those it had.

    Parameters
    ----------
    old_ids, new_ids
        Items of the rows.
    old, new
        int32 [n, levels + 1], with the de-duplicating code.
    ordered
        Of the tokenizer before and of the one now.

    Returns
    -------
    dict[str, Any]
        ``kept`` items, ``added``, ``removed``; and of the kept, the share whose ID ``changed``, whose ``first_code``
        did, and the share of their 10 neighbours by codes that did (``neighbourhood``, the de-duplicating code left
        out; of equally near ones, the same come first before and after; None for ten kept items or fewer).
    """
    place = {item: row for row, item in enumerate(old_ids)}
    pairs = [(place[item], row) for row, item in enumerate(new_ids) if item in place]
    kept = len(pairs)
    moved: dict[str, float | None] = {"changed": 0.0, "first_code": 0.0, "neighbourhood": None}
    if pairs:
        rows = np.array(pairs).T
        before, after = old[rows[0]], new[rows[1]]
        same = before.shape[1] == after.shape[1] and (before == after).all(axis=1)
        moved["changed"] = 1.0 - float(np.mean(same))
        moved["first_code"] = float(np.mean(before[:, 0] != after[:, 0]))
        moved["neighbourhood"] = _moved_neighbours(before[:, :-1], after[:, :-1], ordered)
    return {"kept": kept, "added": len(new_ids) - kept, "removed": len(old_ids) - kept, **moved}


def _moved_neighbours(
    before: NDArray[np.int32], after: NDArray[np.int32], ordered: tuple[bool, bool]
) -> float | None:
    if len(before) <= _K:
        return None
    rows, queries = neighbours.sample_rows(len(before), seed=0)
    left, right = (
        neighbours.break_ties(neighbours.code_similarity(codes[rows], queries, prefix), seed=0)
        for codes, prefix in zip((before, after), ordered, strict=True)
    )
    return 1.0 - neighbours.overlap(left, right, _K)


def _purity(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    width = int(labels.max()) + 1
    pairs, counts = np.unique(groups * width + labels, return_counts=True)
    largest = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(largest, pairs // width, counts)
    return float(largest.sum() / len(groups))
