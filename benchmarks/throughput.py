"""How fast networks train, and what share of this machine's arithmetic they use: ``python -m benchmarks.throughput``.

One epoch of each recipe over some users of a snapshot, of its own batches and precision, without looks at validation:
once timed, and once more, from the same seed, with torch counting the operations. The limit is a product of large
matrices of the same precision in the same process. Writes ``results/throughput.json``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import RESULTS, Row, write
from ml.evaluation.splits import Split, split
from ml.recipes import load_recipe
from ml.recommenders import build
from ml.snapshot import Catalogue, load_snapshot

_SIDE = 2048
_PRODUCT_FLOPS = 2 * _SIDE**3
_TYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def main(
    snapshot: Annotated[Path, typer.Argument(help="Of a real log.")],
    dataset: Annotated[str, typer.Option(help="Its name.")],
    recipe: Annotated[list[str], typer.Option(help="NAME or NAME:USERS; may be given more than once.")],
    threads: Annotated[int, typer.Option(help="Of torch on CPU.")] = 2,
    results: Annotated[Path, typer.Option(help="Where the record goes.")] = RESULTS,
    seed: int = 0,
) -> None:
    """Measure every recipe and write the record."""
    torch.set_num_threads(threads)
    cut = load_snapshot(snapshot)
    parts = split(cut.histories, "leave_one_out")
    rows = []
    for asked in recipe:
        name, _, users = asked.partition(":")
        found = measure(
            load_recipe(name).recommender,
            few(parts, int(users or len(parts.train)), seed),
            cut.catalogue,
            seed,
        )
        row = Row(
            f"{name}: training on {dataset}, share of what the machine can do",
            round(found["gflops"] / found["seconds"], 2),
            round(peak(found["precision"]), 2),
            f"product of two matrices of {_SIDE} x {_SIDE}, {found['precision']}",
            "GFLOP/s",
            "higher",
            {"threads": threads, **found},
        )
        rows.append(row)
        sys.stdout.write(f"{row.case}: {row.ratio}; {found['targets_per_second']} targets/s\n")
        sys.stdout.flush()
    sys.stdout.write(f"{write('throughput', rows, seed, results)}\n")


def few(parts: Split, users: int, seed: int) -> Split:
    """Take so many training histories at random, and nothing that training would look at."""
    some = np.random.default_rng(seed).permutation(len(parts.train))[:users]
    nothing = parts.valid.take(np.zeros(0, np.int64))
    return Split(parts.protocol, parts.train.rows(np.sort(some)), nothing, nothing)


def measure(recommender: dict[str, Any], parts: Split, catalogue: Catalogue, seed: int) -> dict[str, Any]:
    """Train one epoch, twice from the same seed; return seconds and targets a second, and the operations.

    Parameters
    ----------
    recommender
        As a recipe has it, of those that `ml.recommenders.training` trains.
    parts, catalogue, seed
        As `ml.recommenders.base.Recommender.fit` takes them.

    Returns
    -------
    ``gflops`` are those of the whole epoch as torch counts them: products of matrices and attention, no more.
    """
    told = build(recommender | {"epochs": 1}).fit(parts, catalogue, seed)
    with FlopCounterMode(display=False) as counter:
        build(recommender | {"epochs": 1}).fit(parts, catalogue, seed)
    return {
        "precision": recommender["precision"],
        "device": told["device"],
        "users": len(parts.train),
        "seconds": told["seconds"],
        "targets_per_second": told["targets_per_second"],
        "gflops": counter.get_total_flops() / 1e9,
    }


def peak(precision: str, seconds: float = 2.0) -> float:
    """Return the most GFLOP/s that a product of large matrices came to, of as many as fit into so many seconds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one = torch.ones(_SIDE, _SIDE, dtype=_TYPES[precision], device=device)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        # Read back, so that a device has finished.
        float((one @ one)[0, 0])
        best = max(best, _PRODUCT_FLOPS / (time.perf_counter() - began) / 1e9)
    return best


if __name__ == "__main__":
    typer.run(main)
