"""Zero-shot transfer: train a recipe on one log, answer the queries of another that it never saw.

``python -m benchmarks.transfer SOURCE TARGET`` takes two snapshots with text vectors. RecGPT (arXiv:2506.06270) claims it:
codes are made from text alone, by a tokenizer that is fitted to the source's items and then frozen, so they mean the same
in the target's catalogue, and only the trie is new. Beside it stand what needs no training (text similarity), what counts
the target's own training events (popularity, which is not zero-shot), and chance.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml.artifacts import ArtifactError, hash_json, write_json
from ml.evaluation.evaluate import evaluate
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recipes import RecipeError, load_recipe
from ml.recommenders import build, load_recommender
from ml.snapshot import Catalogue, load_snapshot
from ml.tokenizers import build as build_tokenizer
from ml.tokenizers.collisions import deduplicate
from ml.tokenizers.items import only_vectors
from ml.tokenizers.recipes import load_tokenizer_recipe

_BESIDE = ("text-similarity", "popularity")
_METRICS = ("recall@10", "ndcg@10")

#: What is known of a log: its histories and its items.
Log = tuple[Histories, Catalogue]


def same_codes(
    source: Catalogue, target: Catalogue, kind: str, params: dict[str, Any], seed: int
) -> tuple[Catalogue, Catalogue]:
    """Give both catalogues the codes of one tokenizer, fitted to the text of the source's items.

    Raises
    ------
    ArtifactError
        If there are no text vectors, or those of the two are not of one width.
    """
    if not source.text.shape[1] or source.text.shape[1] != target.text.shape[1]:
        raise ArtifactError(
            f"text vectors of one width are needed, not {source.text.shape[1]} and {target.text.shape[1]}"
        )
    known = [np.flatnonzero((one.text != 0).any(axis=1)) for one in (source, target)]
    tokenizer = build_tokenizer(kind, params)
    tokenizer.fit(only_vectors(source.text[known[0]], "text"), seed)
    codes = []
    for one, rows in zip((source, target), known, strict=True):
        own = deduplicate(tokenizer.encode(only_vectors(one.text[rows], "text")))
        every = np.full((len(one), own.shape[1]), -1, np.int32)
        every[rows] = own
        codes.append(every)
    # The last level tells twins apart: both catalogues' twins must be sayable.
    sizes = (*tokenizer.code_sizes, int(max(own[:, -1].max() for own in codes)) + 1)
    version = hash_json([kind, params, seed, source.item_ids])
    first, second = (
        replace(one, codes=own, code_sizes=sizes, tokenizer=version)
        for one, own in zip((source, target), codes, strict=True)
    )
    return first, second


def transfer(
    source: Log, target: Log, recommender: dict[str, Any], kind: str, params: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train on the source, ask the target's leave-one-out test queries; return what came of it, JSON-able."""
    began = time.process_time()
    catalogue, there = same_codes(source[1], target[1], kind, params, seed)
    made = build(recommender)
    fit = made.fit(split(source[0], "leave_one_out"), catalogue, seed)
    parts = split(target[0], "leave_one_out")
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder))
        moved = load_recommender(Path(folder), there)
    rows = {"transferred": moved}
    for name in _BESIDE:
        rows[name] = build(load_recipe(name).recommender)
        rows[name].fit(parts, there, seed)
    found = {name: evaluate(one, parts.test, parts.train, len(there)) for name, one in rows.items()}
    if found["transferred"].invalid:
        raise AssertionError(f"invalid answers: {found['transferred'].checks}")
    met = {tuple(row) for row in catalogue.codes[:, :-1].tolist()}
    shared = np.mean([tuple(row) in met for row in there.codes[:, :-1].tolist()])
    used = [np.isin(there.codes[:, level], catalogue.codes[:, level]).mean() for level in range(len(there.code_sizes) - 1)]  # fmt: skip
    return {
        "seed": seed,
        "recommender": recommender,
        "tokenizer": {"kind": kind, "params": params},
        "source_valid_ndcg@10": fit.get("valid_ndcg@10"),
        "target_items": len(there),
        "target_queries": len(parts.test),
        "target_items_with_an_id_of_the_source": round(float(shared), 4),
        "target_codes_met_in_the_source": [round(float(share), 4) for share in used],
        "chance_recall@10": round(10 / len(there), 6),
        "rows": {name: {metric: one.metrics[metric] for metric in _METRICS} for name, one in found.items()},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 after a user's mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("source", type=Path, help="snapshot to train on")
    parser.add_argument("target", type=Path, help="snapshot to answer for")
    parser.add_argument("--recipe", default="recgpt")
    parser.add_argument(
        "--levels", type=int, nargs="+", help="levels of the numbers of a code, instead of the tokenizer's"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        recipe = load_recipe(options.recipe)
        tokenizer = load_tokenizer_recipe(recipe.tokenizer or "fsq")
        params = {**tokenizer.params, **({"levels": options.levels} if options.levels else {})}
        logs = [
            (one.histories, one.catalogue) for one in map(load_snapshot, (options.source, options.target))
        ]
        found = transfer(logs[0], logs[1], recipe.recommender, tokenizer.kind, params, options.seed)
    except (ArtifactError, RecipeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    told = {"source": options.source.name, "target": options.target.name, "recipe": recipe.name, **found}
    if options.out:
        write_json(options.out, told)
    for name, row in told["rows"].items():
        sys.stdout.write(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in row.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
