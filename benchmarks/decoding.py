"""Constrained beam search beside Hugging Face's ``generate``: the same weights, the same users, the same lists.

``python -m benchmarks.decoding SNAPSHOT`` (``make bench-decoding``) draws a T5 with random weights, reads it by
`ml.recommenders.generative.t5`, and lets both sides answer for the same users of a snapshot, by turns. Lists that differ
end the run. Beside that: all users of the snapshot, the latency of one, the trie's share of the time, exact search, one
pass, and a trie of a million items. ``results/decoding.json`` is what it came to, and ``results/decoding-cuda.json`` on a
GPU. Seconds are those of the clock; ``cpu`` figures are of all cores' work, which tells more where a machine is shared.

Lists of random weights are worth nothing. What decoding costs they do not change where a code's probability is over the
whole vocabulary. Over the codes that exist after a prefix they do: nearly even scores favour prefixes of few children, and
about one with a single item left the network is not asked. Such rows tell the share that it is asked about.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoding_peer import Asked, Peer, agreement
from benchmarks.record import RESULTS, Row, write
from benchmarks.throughput import peak
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recipes import load_recipe
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Decoding
from ml.recommenders.generative.t5 import from_t5
from ml.recommenders.generative.trie import Trie, build_trie
from ml.snapshot import load_snapshot

LENGTH = 20
#: TIGER's paper (arXiv:2305.05065), its best independent reproduction, and the recipe `tiger`, each as a T5.
SIZES: dict[str, dict[str, int]] = {
    "T5 of TIGER's paper, 4+4 layers, d 128": {
        "d_model": 128,
        "d_kv": 64,
        "num_heads": 6,
        "d_ff": 1024,
        "num_layers": 4,
        "num_decoder_layers": 4,
    },
    "T5 of recipe tiger's size, 1+1 layers, d 64": {
        "d_model": 64,
        "d_kv": 32,
        "num_heads": 2,
        "d_ff": 128,
        "num_layers": 1,
        "num_decoder_layers": 1,
    },
}
#: Recipes that answer for everyone, and how.
RECIPES: dict[str, dict[str, Any]] = {
    "tiger, beam search": {},
    "tiger-paper, beam search": {},
    "tiger, exact search": {"search": "exact"},
    "rpg, one pass": {},
}
#: What a code's probability is over, and what tells ``generate`` the same.
OVER = {
    "trie": ("codes that exist after the prefix", {"renormalize_logits": True}),
    "table": ("the whole vocabulary", {}),
}
PEER = "transformers' generate with prefix_allowed_tokens_fn{}, best of batches of {}"
PEER_BATCHES = {"cpu": [1, 4, 8, 16, 32], "cuda": [32, 128]}
T = TypeVar("T")


@dataclass
class Record:
    """The rows so far, written whenever there is one more; told only, where there is no folder."""

    name: str
    seed: int
    folder: Path | None
    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Take one more."""
        self.rows.append(replace(row, extra=self.about | row.extra))
        sys.stdout.write(f"{row.case}: {row.ours:.4g} {row.unit}, peer {row.peer}, ratio {row.ratio}\n")
        sys.stdout.flush()
        if self.folder is not None:
            write(self.name, self.rows, self.seed, self.folder)


def main(
    snapshot: Annotated[Path, typer.Argument(help="Folder of a snapshot with semantic IDs.")],
    users: Annotated[int, typer.Option(help="For whom the peer answers, too.")] = 128,
    sample: Annotated[int, typer.Option(help="Of all users, take so many and extrapolate.")] = 2000,
    whole: Annotated[bool, typer.Option("--whole", help="Take all users.")] = False,
    beam: int = 50,
    k: int = 50,
    batch: Annotated[list[int] | None, typer.Option(help="The peer's batches.")] = None,
    rounds: Annotated[int, typer.Option(help="By turns, for both sides; the best counts.")] = 3,
    trained: Annotated[
        list[Path] | None,
        typer.Option(help="A training of `ml.train` on this snapshot; may be given more than once."),
    ] = None,
    calls: Annotated[int, typer.Option(help="For the latency of one user.")] = 200,
    items: Annotated[int, typer.Option(help="Of the large trie.")] = 1_000_000,
    threads: int = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="Few of everything, in a minute; recorded only if told where.")
    ] = False,
    results: Annotated[Path | None, typer.Option(help="Where the record goes.")] = None,
    seed: int = 0,
) -> None:
    """Run every case, and write the record as it grows."""
    torch.set_num_threads(threads)
    if quick:
        users, sample, calls, items, rounds = (
            min(users, 16),
            min(sample, 100),
            min(calls, 20),
            min(items, 100_000),
            1,
        )
    told = load_snapshot(snapshot)
    test = split(told.histories, "leave_one_out").test.histories.tail(LENGTH)
    some = Asked(told.catalogue, drawn(test, users, seed), beam, k, device)
    everyone = test if whole else drawn(test, sample, seed)
    about = {"snapshot": told.manifest.version, "threads": threads, "device": device, "weights": "random"}
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    record = Record(
        "decoding" if device == "cpu" else f"decoding-{device}",
        seed,
        results or (None if quick else RESULTS),
        about,
    )
    record.add(large_trie(items, seed))
    for size, shape in SIZES.items():
        torch.manual_seed(seed)
        model = t5(sum(told.catalogue.code_sizes), shape).to(device)
        for normalise in OVER:
            record.add(beside(size, normalise, model, some, batch or PEER_BATCHES[device], rounds))
        ours = recommender(model, some, normalise="trie")
        full = drawn(test, users if device == "cpu" else 2048, seed)
        record.add(trie_share(size, ours, replace(some, histories=full)))
        record.add(latency(size, recommender(model, replace(some, beam=10), normalise="table"), some, calls))
        for normalise in OVER:
            title = f"{size}, beam {beam}, probabilities over {OVER[normalise][0]}"
            record.add(all_users(title, recommender(model, some, normalise), everyone, len(test), k))
    for title, changes in RECIPES.items():
        made = untrained(title.partition(",")[0], some, changes, seed)
        few = drawn(test, users, seed) if changes else everyone
        record.add(all_users(f"recipe {title}", made, few, len(test), k))
    for folder in trained or []:
        made = Generative.load(folder / "leave_one_out", told.catalogue)
        made.fitted().to(device)
        title = f"recipe {folder.parent.name} after its training"
        record.add(all_users(title, made, everyone, len(test), k, weights="trained"))


def drawn(histories: Histories, n: int, seed: int) -> Histories:
    """Return so many histories, shortest first."""
    users = np.random.default_rng(seed).choice(len(histories), min(n, len(histories)), replace=False)
    return histories.rows(users[np.argsort(histories.lengths[users], kind="stable")])


def t5(codes: int, shape: dict[str, int]) -> Any:
    """Return a T5 with random weights whose tokens are the start, 0, and the codes after it."""
    from transformers import T5Config, T5ForConditionalGeneration

    told: Any = {"vocab_size": 1 + codes, "decoder_start_token_id": 0, "eos_token_id": None} | shape
    return T5ForConditionalGeneration(T5Config(**told)).eval()


def recommender(model: Any, asked: Asked, normalise: str) -> Generative:
    """Return the same network as a recommender of ours."""
    objective = {"kind": "autoregressive", "normalise": normalise, "beam": asked.beam}
    made = from_t5(model, asked.catalogue, LENGTH, objective=objective)
    made.fitted().to(asked.device)
    return made


def untrained(name: str, asked: Asked, changes: dict[str, Any], seed: int) -> Generative:
    """Return a recipe's recommender with random weights."""
    told = {key: value for key, value in load_recipe(name).recommender.items() if key != "kind"}
    if "beam" in told["objective"]:
        changes = changes | {"beam": asked.beam}
    params = GenerativeParams.model_validate(told | {"objective": told["objective"] | changes})
    torch.manual_seed(seed)
    network = params.build(params.facts(asked.catalogue, asked.catalogue.code_sizes))
    return Generative.of(params, network.to(asked.device), asked.catalogue)


def beside(size: str, normalise: str, model: Any, asked: Asked, batches: list[int], rounds: int) -> Row:
    """Let both sides answer by turns, compare the lists, and return the time of a user: of the best round of each."""
    over, arguments = OVER[normalise]
    ours, n = recommender(model, asked, normalise), len(asked.histories)
    answer = partial(ours.recommend, asked.histories, asked.k, exclude_history=False)
    peer = Peer(model, asked, arguments)
    peer.answer(asked.histories.rows(slice(0, max(batches))), max(batches))
    with FlopCounterMode(display=False) as counter:
        lists = answer()
    took: list[Took] = []
    peers: dict[int, list[Took]] = {batch: [] for batch in batches}
    told = []
    for _ in range(rounds):
        took.append(timed(answer)[1])
        for batch in batches:
            theirs, more = timed(partial(peer.answer, asked.histories, batch))
            peers[batch].append(more)
            told.append(agreement(lists, theirs))
    mine = Took.best(took)
    fastest = {batch: Took.best(each) for batch, each in peers.items()}
    best = min(fastest, key=lambda batch: fastest[batch].seconds)
    mflops = counter.get_total_flops() / n / 1e6
    extra = {
        "users": n,
        "rounds": rounds,
        "k": asked.k,
        "together": ours.params.together(asked.k, torch.device(asked.device)),
        "agreement": {
            "same_items": round(float(np.mean([each["same_items"] for each in told])), 6),
            "largest_score_difference": max(each["largest_score_difference"] for each in told),
        },
        "peer_batch": best,
        "peer_ms_by_batch": {str(batch): each.per(n)[0] for batch, each in fastest.items()},
        "cpu_ms": mine.per(n)[1],
        "peer_cpu_ms_by_batch": {str(batch): each.per(n)[1] for batch, each in fastest.items()},
        "cpu_ratio": round(mine.cpu / min(each.cpu for each in fastest.values()), 4),
        "mflops": round(mflops, 4),
        "ms_at_peak": round(mflops / peak("32-true"), 4),
    } | asked_about(ours, answer)
    how = " and renormalize_logits" if arguments else ""
    name = PEER.format(how, ", ".join(map(str, batches)))
    title = f"{size}, beam {asked.beam}, probabilities over {over}: a user"
    return Row(title, mine.per(n)[0], fastest[best].per(n)[0], name, "ms a user", "lower", extra)


@dataclass(frozen=True)
class Took:
    """Seconds of a call: on the clock, and of all cores' work, which tells more where they are shared."""

    seconds: float = 0.0
    cpu: float = 0.0

    @classmethod
    def best(cls, rounds: list[Took]) -> Took:
        """Return the least of each kind: what disturbs a round only adds."""
        return cls(min(each.seconds for each in rounds), min(each.cpu for each in rounds))

    def per(self, n: int) -> tuple[float, float]:
        """Return milliseconds for each of ``n``, both kinds."""
        return round(self.seconds / n * 1000, 3), round(self.cpu / n * 1000, 3)


def timed(run: Callable[[], T]) -> tuple[T, Took]:
    """Return what a call gives and what it takes."""
    start, before = time.perf_counter(), time.process_time()
    found = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, Took(time.perf_counter() - start, time.process_time() - before)


def asked_about(made: Generative, answer: Callable[[], object]) -> dict[str, float]:
    """Return the share of hypotheses that the network is asked about, where a beam need not ask about all of them.

    Users who are answered together count as much as the one of them with most.
    """
    counts = {"step": 0, "below": 0}

    def counted(of: type, name: str, place: int) -> Any:
        real = getattr(of, name)

        def call(self: Any, *given: Any) -> Any:
            counts[name] += given[place].numel()
            return real(self, *given)

        return patch.object(of, name, call)

    objective = made.params.objective
    if getattr(objective, "normalise", None) != "trie" or getattr(objective, "search", None) != "beam":
        return {}
    with counted(Decoding, "step", 0), counted(Trie, "below", 1):
        answer()
    return {"asked_about": round(counts["step"] / counts["below"], 4)}


def all_users(title: str, made: Generative, some: Histories, n: int, k: int, **about: str) -> Row:
    """Answer for all ``n`` users, or for some of them."""
    few = drawn(some, 64, 0)
    made.recommend(few, k)
    asked = asked_about(made, partial(made.recommend, few, k))
    _, took = timed(partial(made.recommend, some, k))
    title = f"{title}: top {k} of {n:,} users"
    if len(some) < n:
        title += f", extrapolated from {len(some):,}"
    share = n / len(some)
    extra = {"users": len(some), "cpu_seconds": round(took.cpu * share, 2)} | asked | about
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


def trie_share(size: str, made: Generative, asked: Asked, repeats: int = 5) -> Row:
    """Measure the part of the time that goes into finding children: the same questions asked of the trie alone."""
    questions: list[tuple[Trie, int, torch.Tensor]] = []
    find = Trie.children

    def children(
        self: Trie, depth: int, nodes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        questions.append((self, depth, nodes))
        return find(self, depth, nodes)

    def ask() -> None:
        for trie, depth, nodes in questions:
            trie.children(depth, nodes)

    Trie.children = children  # type: ignore[method-assign]
    try:
        made.recommend(asked.histories, asked.k)
    finally:
        Trie.children = find  # type: ignore[method-assign]
    answer = partial(made.recommend, asked.histories, asked.k)
    took = [[timed(run)[1].seconds for run in (ask, answer)] for _ in range(repeats)]
    spent, whole = np.min(took, axis=0)
    title = f"{size}, beam {asked.beam}: children found in the trie, share of the time"
    return Row(title, round(float(spent / whole), 5), None, "", "share", "lower")


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
