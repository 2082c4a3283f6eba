"""The item index beside raw FAISS: ``python -m benchmarks.index`` (``make bench-index``) writes ``results/index-SIZE.json``.

Vectors lie near a random subspace of 16 dimensions in 64, so that neighbours are hard to find and the effort that
recall@100 of .99 takes is known to mean something. For each type of index both sides build with one thread, by the same
factory and effort, and answer the same queries in turns, by one thread: a batch at once, and one query at a time. Filters
let a random share of the items through. Raw FAISS is asked as its own documentation does it, with an ``IDSelectorBitmap``
that was made before the clock starts; in one case both sides get a new filter with every query.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.record import RESULTS, Row, write
from ml.index import IndexSpec, ItemSearch, build_index, exact_search, recall_against_exact, set_effort
from ml.index.tune import FLAT, families

D, INTRINSIC, NOISE = 64, 16, 0.05
K, TARGET = 100, 0.99
SHARES = (0.5, 0.1, 0.01)
BATCH = 100
_HARDER = 8
Ask = Callable[[NDArray[np.float32]], Any]


@dataclass(frozen=True)
class Bench:
    """Vectors, queries, the k-th best score of each query, and how often each is asked."""

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    bounds: NDArray[np.float32]
    rounds: int

    def case(self, spec: IndexSpec, what: str) -> str:
        """Return what was done, in words."""
        return f"{len(self.vectors):,} x {D}, {spec}: {what}"


def main(
    sizes: Annotated[list[int] | None, typer.Option(help="Numbers of vectors.")] = None,
    queries: int = 500,
    rounds: Annotated[int, typer.Option(help="How often each query is asked; the best time counts.")] = 5,
    seed: int = 0,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
) -> None:
    """Run every case of every size, and write a record of each size."""
    faiss.omp_set_num_threads(1)
    for n in sizes or [100_000, 1_000_000]:
        rng = np.random.default_rng(seed)
        made = points(n + queries, rng)
        bounds = exact_search(made[:n], made[n:], K)[:, -1]
        bench = Bench(made[:n], made[n:], bounds, rounds)
        rows: list[Row] = []
        for settings in [[FLAT], *families(n, D)]:
            if settings[0].factory != "HNSW16":
                for row in of_one_type(bench, settings, rng):
                    sys.stdout.write(
                        f"{row.case}: {row.ours:.4g} {row.unit}, raw {row.peer:.4g}, ratio {row.ratio}\n"
                    )
                    sys.stdout.flush()
                    rows.append(row)
        sys.stdout.write(f"{write(f'index-{n}', rows, seed, results)}\n")


def points(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return ``[n, D]`` float32 near a random subspace."""
    subspace = rng.normal(size=(INTRINSIC, D)).astype(np.float32)
    found = rng.normal(size=(n, INTRINSIC)).astype(np.float32) @ subspace
    found += NOISE * rng.standard_normal(size=(n, D), dtype=np.float32)
    return np.asarray(found, np.float32)


def of_one_type(bench: Bench, settings: list[IndexSpec], rng: np.random.Generator) -> Iterator[Row]:
    """Yield the rows of one type of index, at the least effort that reaches the target, or else at the most."""
    began = time.perf_counter()
    index = build_index(bench.vectors, settings[0])
    ours = time.perf_counter() - began
    spec, recall = settings[-1], 0.0
    for spec in settings:
        set_effort(index, spec)
        recall = recall_against_exact(index, bench.vectors, bench.queries, K, bench.bounds)
        if recall >= TARGET:
            break
    began = time.perf_counter()
    raw = faiss.index_factory(D, spec.factory, faiss.METRIC_INNER_PRODUCT)
    raw.train(bench.vectors)
    raw.add(bench.vectors)
    theirs = time.perf_counter() - began
    set_effort(raw, spec)
    theirs_recall = recall_against_exact(raw, bench.vectors, bench.queries, K, bench.bounds)
    peer = "raw FAISS: index_factory, train, add"
    yield Row(bench.case(spec, "build"), ours, theirs, peer, "seconds", "lower")
    yield Row(bench.case(spec, f"recall@{K}"), recall, theirs_recall, peer, "share", "higher")
    search = ItemSearch(index)
    peer = "raw FAISS: index.search"
    yield from timed(
        bench, spec, "all items", lambda q: search.search(q, K), lambda q: raw.search(q, K), peer
    )
    for share in SHARES:
        yield from filtered(bench, spec, search, raw, round(share * len(bench.vectors)), rng)
    if spec != FLAT and search.scanned_below() < len(bench.vectors):
        yield from filtered(bench, spec, search, raw, search.scanned_below(), rng, border=True)
    yield from new_filters(bench, spec, search, raw, rng)


def timed(
    bench: Bench, spec: IndexSpec, what: str, ours: Ask, theirs: Ask, peer: str, **extra: Any
) -> Iterator[Row]:
    """Yield queries a second of both sides, in one batch and one at a time."""
    for how, size in ((f"batches of {BATCH}", BATCH), ("one query at a time", 1)):
        asked = np.split(bench.queries, range(size, len(bench.queries), size))
        spent = in_turns(ours, theirs, asked, bench.rounds)
        mine, other = (len(bench.queries) / float(side.min(axis=0).sum()) for side in spent)
        yield Row(bench.case(spec, f"{what}, {how}"), mine, other, peer, "queries/s", "higher", extra)


def in_turns(
    ours: Ask, theirs: Ask, asked: list[NDArray[np.float32]], rounds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return seconds [rounds, n] of either side; who goes first changes with every query and round."""
    spent = np.zeros((2, rounds, len(asked)))
    sides = (ours, theirs)
    for side in sides:
        side(asked[0])
    for number in range(rounds):
        for place, query in enumerate(asked):
            for turn in (0, 1) if (number + place) % 2 else (1, 0):
                began = time.perf_counter()
                sides[turn](query)
                spent[turn, number, place] = time.perf_counter() - began
    return spent[0], spent[1]


def filtered(
    bench: Bench,
    spec: IndexSpec,
    search: ItemSearch,
    raw: Any,
    count: int,
    rng: np.random.Generator,
    border: bool = False,
) -> Iterator[Row]:
    """Yield the rows of a filter that is made before the clock starts.

    Raw FAISS searches as hard as ours does where ours uses a selector too, and at the border, which is where ours
    begins to scan the allowed items instead. Where ours scans, raw FAISS searches as hard as it must to find the
    target share, by doublings of what it does without a filter, three at most: more takes it seconds a query. What both
    find is told.
    """
    mask = masked(len(bench.vectors), count, rng)
    ready = search.prepare(mask)
    least = float(mask.mean())
    selector = by_bits(mask)
    params = search.filtered_by(selector, least)
    if ready.scans and not border:
        params = hard_enough(bench, raw, mask, lambda share: search.filtered_by(selector, share), least)
    yield from timed(
        bench,
        spec,
        f"{count:,} allowed" + (", the border" if border else ""),
        lambda q: search.search(q, K, ready),
        lambda q: raw.search(q, K, params=params),
        "raw FAISS: the same bitmap as IDSelectorBitmap, made before",
        recall=filtered_recall(bench, mask, search.search(bench.queries, K, ready)[0]),
        peer_recall=filtered_recall(bench, mask, raw.search(bench.queries, K, params=params)[1]),
        ours_is="a scan of the allowed" if ready.scans else "the index with a selector",
    )


def hard_enough(
    bench: Bench, raw: Any, mask: NDArray[np.bool_], params_for: Callable[[float], Any], least: float
) -> Any:
    """Return parameters of the least effort by which raw FAISS finds the target share of the allowed, or of the most."""
    least = max(least, 1 / _HARDER)
    share, params = 1.0, params_for(1.0)
    while share > least:
        _, items = raw.search(bench.queries[:100], K, params=params)
        if filtered_recall(bench, mask, items) >= TARGET:
            break
        share = max(share / 2, least)
        params = params_for(share)
    return params


def new_filters(
    bench: Bench, spec: IndexSpec, search: ItemSearch, raw: Any, rng: np.random.Generator
) -> Iterator[Row]:
    """Yield a row of filters that neither side has seen before: bool [n_items] comes with the query."""
    mask = masked(len(bench.vectors), len(bench.vectors) // 2, rng)

    def theirs(query: NDArray[np.float32]) -> Any:
        selector = by_bits(mask)
        return raw.search(query, K, params=search.filtered_by(selector, 0.5))

    asked = [query[None] for query in bench.queries]
    spent = in_turns(lambda q: search.search(q, K, mask), theirs, asked, bench.rounds)
    mine, other = (len(asked) / float(side.min(axis=0).sum()) for side in spent)
    what = f"{len(mask) // 2:,} allowed by a filter made with each query"
    yield Row(
        bench.case(spec, what), mine, other, "raw FAISS: packbits, IDSelectorBitmap", "queries/s", "higher"
    )


def by_bits(mask: NDArray[np.bool_]) -> Any:
    """Return what FAISS takes as a filter; its stubs do not know that it takes an array."""
    made: Any = faiss.IDSelectorBitmap
    return made(np.packbits(mask, bitorder="little"))


def masked(n: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return bool [n] with so many set at random."""
    mask = np.zeros(n, bool)
    mask[rng.choice(n, count, replace=False)] = True
    return mask


def filtered_recall(bench: Bench, mask: NDArray[np.bool_], items: NDArray[np.int64]) -> float:
    """Return the share of the best allowed items that were found, of the first hundred queries."""
    asked, rows = bench.queries[:100], np.flatnonzero(mask)
    bounds = exact_search(bench.vectors[rows], asked, K)[:, -1]
    # Two sums of the same products differ by rounding, in proportion to the products and not to what they come to.
    longest = float(np.linalg.norm(bench.vectors[rows], axis=1).max())
    found = 0
    for query, chosen, bound in zip(asked, items, bounds, strict=False):
        allowed = np.unique(chosen[chosen >= 0])
        slack = 1e-6 * longest * float(np.linalg.norm(query))
        found += int(np.sum(mask[allowed] & (bench.vectors[allowed] @ query >= bound - slack)))
    return round(min(1.0, found / (len(asked) * min(K, len(rows)))), 4)


if __name__ == "__main__":
    typer.run(main)
