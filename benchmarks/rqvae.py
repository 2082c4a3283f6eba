"""RQ-VAE on vectors of a folder: seconds, what it misses against training four times as long, items encoded a second.

``python -m benchmarks.rqvae --vectors FOLDER [--recipe NAME] [--name NAME]`` writes ``benchmarks/results/NAME.json``;
``--synthetic`` in place of ``--vectors`` takes vectors of Beauty's size in clusters.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import record
from ml.artifacts import current, is_complete
from ml.tokenizers import build
from ml.tokenizers.items import ItemData, only_vectors
from ml.tokenizers.recipes import load_tokenizer_recipe
from ml.vectors.store import load_vectors

_BEAUTY = (12_101, 448)
_ENCODED = 100_000


def clustered(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Return vectors [rows, width] in clusters of clusters, most of whose variance lies in 64 directions."""
    rng = np.random.default_rng(seed)
    groups, kinds = rng.integers(30, size=rows), rng.integers(600, size=rows)
    hidden = (
        rng.normal(size=(30, 64))[groups] + rng.normal(size=(600, 64))[kinds] + rng.normal(size=(rows, 64))
    )
    vectors = hidden @ rng.normal(size=(64, width)) / 8 + 0.3 * rng.normal(size=(rows, width))
    return vectors.astype(np.float32)


def measure(items: ItemData, recipe: str, longer: int, seed: int) -> list[record.Row]:
    """Fit a recipe on items, then once more with more epochs; return the cases.

    Parameters
    ----------
    items
        With the recipe's input space.
    recipe
        Of the kind ``rqvae``.
    longer
        Times the epochs of the run to compare with.
    seed
        Of both.
    """
    chosen = load_tokenizer_recipe(recipe)
    runs = {}
    for times in (1, longer):
        tokenizer = build(chosen.kind, chosen.params | {"epochs": times * chosen.params["epochs"]})
        began, cpu = time.perf_counter(), time.process_time()
        report = tokenizer.fit(items, seed)
        runs[times] = {
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "epochs": tokenizer.params.epochs,
            **report,
        }
        if times == 1:
            rate = _encoding_rate(tokenizer, items)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    extra: dict[str, Any] = {
        "items": len(items),
        "width": int(items.space(chosen.params["input"]).shape[1]),
        "device": device,
        "threads": torch.get_num_threads(),
        "params": chosen.params,
    }
    same = f"the same, {longer} times the epochs"
    short, long = runs[1], runs[longer]
    return [
        record.Row(f"{recipe}: training", short["seconds"], long["seconds"], same, "seconds", "lower", extra),
        record.Row(
            f"{recipe}: share of the variance missed",
            short["residual"],
            long["residual"],
            same,
            "share",
            "lower",
            {"ours": short, "peer": long},
        ),
        record.Row(f"{recipe}: encoding on CPU", rate, None, "", "items/s", "higher"),
    ]


def _encoding_rate(tokenizer: Any, items: ItemData) -> float:
    rows = np.arange(_ENCODED) % len(items)
    many = only_vectors(items.space(tokenizer.params.input)[rows], tokenizer.params.input)
    tokenizer.encode(many)
    began = time.perf_counter()
    tokenizer.encode(many)
    return round(_ENCODED / (time.perf_counter() - began))


def main() -> None:
    """Read the command line, measure, write and print the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--vectors", type=Path, help="folder of a vectors artefact, or of its versions")
    source.add_argument("--synthetic", action="store_true")
    parser.add_argument("--recipe", default="rqvae")
    parser.add_argument("--longer", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="rqvae")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = load_tokenizer_recipe(args.recipe).params["input"]
    if args.synthetic:
        items = only_vectors(clustered(*_BEAUTY), space)
    else:
        folder = args.vectors if is_complete(args.vectors) else current(args.vectors)
        ids, vectors = load_vectors(folder)
        items = ItemData(ids, {space: vectors})
    path = record.write(args.name, measure(items, args.recipe, args.longer, args.seed), args.seed, args.out)
    print(path.read_text(encoding="utf-8"))  # noqa: T201


if __name__ == "__main__":
    main()
