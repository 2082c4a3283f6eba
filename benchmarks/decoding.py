"""Constrained beam search beside Hugging Face's ``generate``: the same weights, the same users, the same lists.

``python -m benchmarks.decoding SNAPSHOT`` (``make bench-decoding``) draws a T5 with random weights (which does not
change what decoding costs, but its lists are worth nothing), reads it by `ml.recommenders.generative.t5`, and lets both
sides answer for the same users of a snapshot. Lists that differ end the run. Beside that: all users of the snapshot,
the latency of one, the trie's share of the time, exact search, and a trie of a million items.
``results/decoding.json`` is what it came to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.record import RESULTS, Row, write
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recipes import load_recipe
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.t5 import from_t5
from ml.recommenders.generative.trie import Trie, build_trie
from ml.snapshot import Catalogue, load_snapshot

LENGTH = 20
#: Sizes of T5: TIGER's paper's encoder and decoder at the width of its best reproduction, and one for two cores.
SIZES: dict[str, dict[str, int]] = {
    "T5 of 6+6 layers, d 128": {
        "d_model": 128,
        "d_kv": 64,
        "num_heads": 6,
        "d_ff": 1024,
        "num_layers": 6,
        "num_decoder_layers": 6,
    },
    "T5 of 1+1 layers, d 64": {
        "d_model": 64,
        "d_kv": 32,
        "num_heads": 2,
        "d_ff": 128,
        "num_layers": 1,
        "num_decoder_layers": 1,
    },
}
#: What a code's probability is over, and what tells ``generate`` the same.
OVER = {
    "trie": ("codes that exist after the prefix", {"renormalize_logits": True}),
    "table": ("the whole vocabulary", {}),
}
PEER = "transformers' generate with prefix_allowed_tokens_fn{}, best of batches of {}"
#: Users that ours takes together: what they write fits the cores' caches.
TOGETHER = 8
Lists = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Asked:
    """What is asked of both sides."""

    catalogue: Catalogue
    histories: Histories
    beam: int
    k: int


def main(
    snapshot: Annotated[Path, typer.Argument(help="Folder of a snapshot with semantic IDs.")],
    users: Annotated[int, typer.Option(help="For whom the peer answers, too.")] = 64,
    sample: Annotated[int | None, typer.Option(help="Of all users, take so many and extrapolate.")] = None,
    beam: int = 50,
    k: int = 50,
    batch: Annotated[list[int] | None, typer.Option(help="The peer's batches.")] = None,
    calls: Annotated[int, typer.Option(help="For the latency of one user.")] = 200,
    items: Annotated[int, typer.Option(help="Of the large trie.")] = 1_000_000,
    threads: int = 2,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
    seed: int = 0,
) -> None:
    """Run every case and write the record."""
    torch.set_num_threads(threads)
    told = load_snapshot(snapshot)
    test = split(told.histories, "leave_one_out").test.histories.tail(LENGTH)
    some = Asked(told.catalogue, drawn(test, users, seed), beam, k)
    rows = []
    for size, shape in SIZES.items():
        torch.manual_seed(seed)
        model = t5(sum(told.catalogue.code_sizes), shape)
        for normalise in OVER:
            rows += beside(size, normalise, model, some, batch or [1, 8])
        ours = recommender(model, told.catalogue, beam, normalise="trie")
        rows.append(everyone(size, ours, test, sample, seed, k))
        rows.append(latency(size, recommender(model, told.catalogue, 10, normalise="table"), some, calls))
        rows.append(trie_share(size, ours, some))
    for name, search in (("tiger", "beam"), ("tiger", "exact")):
        made = untrained(name, told.catalogue, beam, search, seed)
        rows.append(
            everyone(
                f"recipe {name}, {search} search", made, test, users if search == "exact" else sample, seed, k
            )
        )
    rows.append(large_trie(items, seed))
    for row in rows:
        sys.stdout.write(f"{row.case}: {row.ours:.4g} {row.unit}, peer {row.peer}, ratio {row.ratio}\n")
    provenance = {"snapshot": told.manifest.version, "threads": threads, "weights": "random"}
    rows = [Row(**{**vars(row), "extra": provenance | row.extra}) for row in rows]
    sys.stdout.write(f"{write('decoding', rows, seed, results)}\n")


def drawn(histories: Histories, n: int, seed: int) -> Histories:
    """Return so many histories, shortest first."""
    users = np.random.default_rng(seed).choice(len(histories), min(n, len(histories)), replace=False)
    return histories.rows(users[np.argsort(histories.lengths[users], kind="stable")])


def t5(codes: int, shape: dict[str, int]) -> Any:
    """Return a T5 with random weights whose tokens are the start, 0, and the codes after it."""
    from transformers import T5Config, T5ForConditionalGeneration

    told: Any = {"vocab_size": 1 + codes, "decoder_start_token_id": 0, "eos_token_id": None} | shape
    return T5ForConditionalGeneration(T5Config(**told)).eval()


def recommender(model: Any, catalogue: Catalogue, beam: int, normalise: str) -> Generative:
    """Return the same network as a recommender of ours."""
    objective = {"kind": "autoregressive", "normalise": normalise, "beam": beam}
    return from_t5(model, catalogue, LENGTH, objective=objective, users_at_once=TOGETHER)


def untrained(name: str, catalogue: Catalogue, beam: int, search: str, seed: int) -> Generative:
    """Return a recipe's recommender with random weights."""
    told = {key: value for key, value in load_recipe(name).recommender.items() if key != "kind"}
    objective = told["objective"] | {"beam": beam, "search": search}
    params = GenerativeParams.model_validate(told | {"objective": objective, "users_at_once": TOGETHER})
    torch.manual_seed(seed)
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    return Generative.of(params, network, catalogue)


def beside(size: str, normalise: str, model: Any, asked: Asked, batches: list[int]) -> list[Row]:
    """Let both sides answer, compare the lists, and return the time of a user."""
    over, arguments = OVER[normalise]
    ours = recommender(model, asked.catalogue, asked.beam, normalise)
    n = len(asked.histories)
    ours.recommend(asked.histories.rows(slice(0, TOGETHER)), asked.k, exclude_history=False)
    lists, took = timed(lambda: ours.recommend(asked.histories, asked.k, exclude_history=False))
    peers = {}
    for batch in batches:
        theirs, peers[batch] = timed(partial(generate, model, asked, batch, arguments))
        told = agreement(lists, theirs)
    best = min(peers, key=lambda batch: peers[batch].seconds)
    extra = {
        "users": n,
        "k": asked.k,
        "agreement": told,
        "peer_batch": best,
        "peer_ms_by_batch": {str(batch): round(each.seconds / n * 1000, 2) for batch, each in peers.items()},
        "cpu_ms": round(took.cpu / n * 1000, 2),
        "peer_cpu_ms_by_batch": {str(batch): round(each.cpu / n * 1000, 2) for batch, each in peers.items()},
    }
    how = " and renormalize_logits" if arguments else ""
    name = PEER.format(how, ", ".join(map(str, batches)))
    title = f"{size}, beam {asked.beam}, probabilities over {over}"
    each = [round(value.seconds / n * 1000, 3) for value in (took, peers[best])]
    return [Row(title, each[0], each[1], name, "ms a user", "lower", extra)]


@dataclass(frozen=True)
class Took:
    """Seconds of a call: on the clock, and of all cores' work, which tells more where they are shared."""

    seconds: float
    cpu: float


def timed(run: Callable[[], Lists]) -> tuple[Lists, Took]:
    """Return what a call gives and what it takes."""
    start, before = time.perf_counter(), time.process_time()
    found = run()
    return found, Took(time.perf_counter() - start, time.process_time() - before)


def agreement(ours: Lists, theirs: Lists, tolerance: float = 1e-3) -> dict[str, float]:
    """Return how alike lists are.

    Raises
    ------
    SystemExit
        If scores differ by more than the tolerance, or items where scores are further apart than it.
    """
    apart = np.abs(ours[1] - theirs[1])
    differ = ours[0] != theirs[0]
    # Scores as near as rounding are a tie, whose order is anyone's; a list's last may be tied with what comes after.
    near = np.abs(np.diff(ours[1], axis=1)) < tolerance
    tied = np.pad(near, ((0, 0), (0, 1)), constant_values=True) | np.pad(near, ((0, 0), (1, 0)))
    if (apart > tolerance).any() or (differ & ~tied).any():
        raise SystemExit(f"the lists differ: {differ.mean():.4%} of items, scores by {apart.max():.2g}")
    return {"same_items": round(float(1 - differ.mean()), 6), "largest_score_difference": float(apart.max())}


def generate(model: Any, asked: Asked, batch: int, arguments: dict[str, Any]) -> Lists:
    """Let Hugging Face answer."""
    sizes = asked.catalogue.code_sizes
    codes = asked.catalogue.codes + np.cumsum([1, *sizes[:-1]])
    after: dict[tuple[int, ...], set[int]] = {}
    for row in codes.tolist():
        for level, code in enumerate(row):
            after.setdefault(tuple(row[:level]), set()).add(code)
    allowed = {prefix: sorted(following) for prefix, following in after.items()}
    item = {tuple(row): place for place, row in enumerate(codes.tolist())}
    items, scores = [], []
    for start in range(0, len(asked.histories), batch):
        rows = asked.histories.rows(slice(start, start + batch))
        inputs = np.zeros((len(rows), 1 + int(rows.lengths.max(initial=1)) * len(sizes)), np.int64)
        mask = np.arange(inputs.shape[1]) <= rows.lengths[:, None] * len(sizes)
        inputs[:, 1:][mask[:, 1:]] = codes[rows.items].ravel()
        found = model.generate(
            input_ids=torch.from_numpy(inputs),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            max_new_tokens=len(sizes),
            num_beams=asked.beam,
            num_return_sequences=asked.k,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, prefix: allowed[tuple(prefix[1:].tolist())],
            return_dict_in_generate=True,
            output_scores=True,
            **arguments,
        )
        items += [item[tuple(row)] for row in found.sequences[:, 1:].tolist()]
        scores.append(found.sequences_scores.numpy())
    shape = (len(asked.histories), asked.k)
    return np.array(items, np.int32).reshape(shape), np.concatenate(scores).reshape(shape)


def everyone(size: str, made: Generative, test: Histories, sample: int | None, seed: int, k: int) -> Row:
    """Answer for all users, or for a sample."""
    some = test if sample is None else drawn(test, sample, seed)
    made.recommend(some.rows(slice(0, TOGETHER)), k)
    _, took = timed(lambda: made.recommend(some, k))
    title = f"{size}: top {k} of {len(test):,} users"
    if len(some) < len(test):
        title += f", extrapolated from {len(some):,}"
    share = len(test) / len(some)
    extra = {"users": len(some), "cpu_seconds": round(took.cpu * share, 2)}
    return Row(title, round(took.seconds * share, 2), None, "", "seconds", "lower", extra)


def latency(size: str, made: Generative, asked: Asked, calls: int) -> Row:
    """Answer for one user after the other."""
    took = []
    for call in range(calls + 10):
        row = asked.histories.rows(np.array([call % len(asked.histories)]))
        took.append(timed(partial(made.recommend, row, 10))[1])
    p50, p99 = np.percentile([each.seconds * 1000 for each in took[10:]], [50, 99])
    cpu = float(np.median([each.cpu * 1000 for each in took[10:]]))
    extra = {"calls": calls, "p99": round(float(p99), 2), "cpu_ms": round(cpu, 2)}
    return Row(f"{size}: one user, beam 10, median", round(float(p50), 2), None, "", "ms", "lower", extra)


def trie_share(size: str, made: Generative, asked: Asked) -> Row:
    """Measure the part of the time that goes into finding children."""
    spent = 0.0
    find = Trie.children

    def children(
        self: Trie, depth: int, nodes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        nonlocal spent
        start = time.perf_counter()
        found = find(self, depth, nodes)
        spent += time.perf_counter() - start
        return found

    Trie.children = children  # type: ignore[method-assign]
    try:
        _, took = timed(lambda: made.recommend(asked.histories, asked.k))
    finally:
        Trie.children = find  # type: ignore[method-assign]
    title = f"{size}, beam {asked.beam}: children found in the trie, share of the time, on a CPU"
    return Row(title, round(spent / took.seconds, 5), None, "", "share", "lower")


def large_trie(items: int, seed: int) -> Row:
    """Build a trie of random IDs."""
    rng = np.random.default_rng(seed)
    distinct = np.unique(rng.integers(0, 1 << 32, items + items // 100, dtype=np.uint32))
    numbers = rng.permutation(distinct)[:items]
    codes = numbers.astype("<u4").view(np.uint8).reshape(-1, 4).astype(np.int32)
    start = time.perf_counter()
    trie = build_trie(codes, (256,) * 4)
    seconds = time.perf_counter() - start
    extra = {"prefixes": [len(level) for level in trie.codes]}
    return Row(f"trie of {len(trie):,} items built", round(seconds, 3), None, "", "seconds", "lower", extra)


if __name__ == "__main__":
    typer.run(main)
