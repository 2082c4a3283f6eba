"""Every tokenizer by the same report: ``python -m benchmarks.tokenizers`` writes ``results/tokenizers-DATASET.json``.

On real logs, beside IDs that others published, on the same items and in the same spaces of vectors: text by the carried
encoder, behaviour by PPMI-SVD of leave-one-out training events, and both fused. ``--churn`` retrains a tokenizer after a
tenth of the items came new, cold and begun from the old one.
"""

from __future__ import annotations

import gzip
import json
import platform
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.logs import read_log
from benchmarks.record import RESULTS, machine
from ml.artifacts import hash_json, package_versions, read_json, write_json, write_text
from ml.evaluation.splits import split
from ml.tokenizers import build
from ml.tokenizers.items import ItemData, first_seen
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer
from ml.tokenizers.recipes import load_tokenizer_recipe, tokenizer_recipe_names
from ml.tokenizers.report import OVERLAP, describe, describe_tokenizer
from ml.vectors.behaviour import ppmi_svd, transition_counts
from ml.vectors.fused import fuse
from ml.vectors.text import CARRIED_ENCODER, encode_texts, item_text

DIM = 64
NEW_SHARE = 0.1
_PACKAGES = ("tessera", "numpy", "scipy", "torch", "sentence-transformers")
_LEGEND = """unique: share of items with codes of their own; largest: items of the fullest tuple; dead: share of the worst level's
codes that no item has; effective: perplexity as a share of the codes, mean of levels; error: share of variance that decoding
misses; text, behaviour: share of 10 neighbours in common, by codes and by decoded vectors; purity: in coarsest categories, above
shuffled ones, of the first code and of the first two (of the second alone where codes have no order)."""
_TABLE = (
    "codes",
    "distinct",
    "unique",
    "largest",
    "dead",
    "effective",
    "error",
    "text",
    "text decoded",
    "behaviour",
    "behaviour decoded",
    "purity 1",
    "purity 2",
    "train s",
    "items/s",
)


#: File of published IDs of a dataset, and who published them.
PUBLISHED = {
    "amazon-beauty-2014": ("sid_letter.json.gz", "published: LETTER"),
    "amazon-scientific": ("sid_cgr_rqvae_zcr.json.gz", "published: RQ-VAE, no collisions"),
}


def load_items(folder: Path, cache: Path, seed: int = 0) -> ItemData:
    """Return a dataset's items as the chain would know them after leave-one-out training events.

    Parameters
    ----------
    folder
        A dataset; its name is a key of `PUBLISHED`.
    cache
        Folder that keeps the text vectors, which take minutes.
    seed
        Of the factorisation.
    """
    log = read_log(folder)
    ids = [str(place) for place in range(len(log.items))]
    text = _text_vectors([item_text(item) for item in log.items], cache / f"{folder.name}-text.safetensors")
    train = split(log.histories, "leave_one_out").train
    pairs = transition_counts(train, np.ones(len(train.items), bool), len(ids))
    behaviour = ppmi_svd(pairs, DIM, seed)
    blocks = []
    for vectors in (behaviour, text):
        known = np.flatnonzero(vectors.any(axis=1))
        blocks.append(([ids[row] for row in known], vectors[known]))
    spaces = {"fused": fuse(ids, blocks), "text": text, "behaviour": behaviour}
    categories = [item["categories"] for item in log.items]
    return ItemData(ids, spaces, categories, pairs, first_seen(train.items, len(ids)))


def published_codes(folder: Path) -> tuple[str, NDArray[np.int32], tuple[int, ...]]:
    """Return who published IDs of a dataset, their codes int32 [n, levels], and the levels' sizes."""
    file, name = PUBLISHED[folder.name]
    with gzip.open(folder / file, "rt", encoding="utf-8") as opened:
        given = json.load(opened)
    rows = [
        [int(code.strip("<>").split("_")[1]) for code in given[str(place)]] for place in range(len(given))
    ]
    codes = np.array(rows, np.int32)
    # Their sizes are not told: powers of two that hold what is used.
    sizes = tuple(1 << int(largest).bit_length() for largest in codes.max(axis=0))
    return name, codes, sizes


def score(name: str, items: ItemData, seed: int, pages: Path | None = None) -> dict[str, Any]:
    """Fit the tokenizer of a recipe and describe what it gives; write its page into a folder if there is one."""
    recipe = load_tokenizer_recipe(name)
    tokenizer = build(recipe.kind, recipe.params)
    began, cpu = time.perf_counter(), _cpu_seconds()
    fit = tokenizer.fit(items, seed)
    trained, trained_cpu = time.perf_counter() - began, _cpu_seconds() - cpu
    began, cpu = time.perf_counter(), _cpu_seconds()
    codes = tokenizer.encode(items)
    encoded, encoded_cpu = time.perf_counter() - began, _cpu_seconds() - cpu
    speed = {
        "training_seconds": round(trained, 3),
        "training_cpu_seconds": round(trained_cpu, 3),
        "encoded_per_second": round(len(items) / max(encoded, 1e-9)),
        "encoded_per_cpu_second": round(len(items) / max(encoded_cpu, 1e-9)),
    }
    report = describe_tokenizer(tokenizer, items, codes)
    made = {"kind": recipe.kind, "params": recipe.params, "seed": seed}
    if pages is not None:
        write_page(pages, name, report, codes, {**recipe.tokenizer, "seed": seed, **speed})
    return {"case": name, **made, **speed, "fit": fit, "report": report}


def write_page(
    pages: Path, name: str, report: dict[str, Any], codes: NDArray[np.int32], made: dict[str, Any]
) -> None:
    """Write ``pages/NAME.html``."""
    from orchestration.semantic_id_page import page

    write_text(pages / f"{name}.html", page(report, codes, name, made))


def retrain(name: str, items: ItemData, seed: int) -> dict[str, Any]:
    """Retrain after a tenth of the items came new, cold and warm; return what changed for the others."""
    recipe = load_tokenizer_recipe(name)
    order = np.random.default_rng(seed).permutation(len(items))
    old = items.take(np.sort(order[: round(len(items) * (1 - NEW_SHARE))]))
    found: dict[str, Any] = {"case": name, "seed": seed, "old_items": len(old), "items": len(items)}
    with tempfile.TemporaryDirectory(prefix="tessera-churn-") as temporary:
        out = Path(temporary)

        def fit(known: ItemData, start: Path | None = None) -> Path:
            return fit_tokenizer(known, recipe.kind, recipe.params, seed, {}, out / "tokenizers", start)

        first = fit(old)
        before = assign_semantic_ids(first, old, None, out / "ids")
        for way, folder in (("frozen", first), ("cold", fit(items)), ("warm", fit(items, first))):
            report = read_json(assign_semantic_ids(folder, items, before, out / "ids") / "report.json")
            kept = ("churn", "reconstruction_error", "uniqueness", "training_seconds", OVERLAP)
            found[way] = {name: report[name] for name in kept}
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of reports as a Markdown table."""
    lines = ["| " + " | ".join(("tokenizer", *_TABLE)) + " |", "|---" + "|---:" * len(_TABLE) + "|"]
    lines += ["| " + " | ".join((row["case"], *_cells(row))) + " |" for row in rows]
    return "\n".join(lines)


def churn_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of `retrain` as a Markdown table."""
    head = (
        "tokenizer",
        "retrained",
        "ID changed",
        "first code",
        "neighbours",
        "error",
        "distinct",
        "train s",
    )
    lines = ["| " + " | ".join(head) + " |", "|---|---" + "|---:" * (len(head) - 2) + "|"]
    for row in rows:
        for way in ("frozen", "cold", "warm"):
            found = row[way]
            moved = [_number(found["churn"][name]) for name in ("changed", "first_code", "neighbourhood")]
            told = [_number(found["reconstruction_error"]), str(found["uniqueness"]["distinct"])]
            seconds = "" if way == "frozen" else f"{found['training_seconds']:.1f}"
            lines.append("| " + " | ".join((row["case"], way, *moved, *told, seconds)) + " |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    report = row["report"]
    unique, levels = report["uniqueness"], report["levels"]
    sizes = [level["size"] for level in levels]
    purity = list((report["prefix_purity"] or {}).values())[:2]
    overlaps = [
        (report[OVERLAP].get(space) or {}).get(by)
        for space in ("text", "behaviour")
        for by in ("codes", "decoded")
    ]
    # How much purer than had categories been dealt at random, in the coarsest category.
    lifts = [scores["category_1"]["purity"] - scores["category_1"]["shuffled"] for scores in purity]
    return [
        f"{len(sizes)}x{sizes[0]}" if len(set(sizes)) == 1 else "x".join(map(str, sizes)),
        str(unique["distinct"]),
        _number(unique["share_unique"]),
        str(unique["largest_collision"]),
        _number(max(level["dead"] / level["size"] for level in levels)),
        _number(float(np.mean([level["perplexity"] / level["size"] for level in levels]))),
        _number(report["reconstruction_error"]),
        *map(_number, overlaps),
        *map(_number, [*lifts, None, None][:2]),
        "" if row.get("training_seconds") is None else f"{row['training_seconds']:.1f}",
        "" if row.get("encoded_per_second") is None else f"{row['encoded_per_second']:,}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _text_vectors(texts: list[str], cache: Path) -> NDArray[np.float32]:
    told = hash_json([CARRIED_ENCODER, texts])
    if cache.is_file() and told in (found := load_file(cache)):
        return found[told]
    vectors = encode_texts(texts)
    vectors[[not text for text in texts]] = 0
    cache.parent.mkdir(parents=True, exist_ok=True)
    save_file({told: vectors}, cache)
    return vectors


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _attempt(
    names: Sequence[str], make: Callable[[str], dict[str, Any]], failed: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield what each name gives; one that fails is told, and loses no other."""
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        try:
            yield make(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            sys.stderr.write(f"{name} failed: {failed[name]}\n{traceback.format_exc()}")


def run(
    folder: Path,
    recipes: Sequence[str],
    churn_of: Sequence[str],
    seed: int,
    cache: Path,
    out: Path,
    pages: Path | None = None,
) -> dict[str, str]:
    """Score a dataset, print its tables and write its results; return what failed, and why."""
    name = folder.name
    items = load_items(folder, cache, seed)
    failed: dict[str, str] = {}
    who, codes, sizes = published_codes(folder)
    rows: list[dict[str, Any]] = [{"case": who, "report": describe(codes, sizes, items)}]
    if pages is not None:
        write_page(pages / name, "published", rows[0]["report"], codes, {"published": who})
        pages = pages / name
    told = {
        "benchmark": f"tokenizers-{name}",
        "machine": machine(),
        "versions": {"python": platform.python_version(), **package_versions(*_PACKAGES)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "items": len(items),
        "threads": torch.get_num_threads(),
        "known": {space: int(items.known(space).sum()) for space in items.spaces},
        "rows": rows,
        "failed": failed,
    }
    for row in _attempt(recipes, lambda recipe: score(recipe, items, seed, pages), failed):
        rows.append(row)
        # After each, so that a run that is cut short has measured something.
        write_json(out / f"tokenizers-{name}.json", told)
    sys.stdout.write(f"\n{name}, {len(items)} items\n\n{markdown(rows)}\n\n{_LEGEND}\n")
    if churn_of:
        moved: list[dict[str, Any]] = []
        told |= {"benchmark": f"tokenizer-churn-{name}", "rows": moved}
        for row in _attempt(churn_of, lambda recipe: retrain(recipe, items, seed), failed):
            moved.append(row)
            write_json(out / f"tokenizer-churn-{name}.json", told)
        sys.stdout.write(f"\n{NEW_SHARE:.0%} of the items new\n\n{churn_markdown(moved)}\n")
    for case, why in failed.items():
        sys.stdout.write(f"\n{case} failed: {why}\n")
    return failed


def main(
    datasets: Annotated[Path, typer.Option(envvar="TESSERA_DATASETS", help="folder of the datasets")],
    dataset: Annotated[list[str] | None, typer.Option(help="which of them; all that are known")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="which recipes; all; 'none' for none")] = None,
    churn: Annotated[list[str] | None, typer.Option(help="recipes to retrain, cold and warm")] = None,
    seed: Annotated[int, typer.Option(help="of every random choice")] = 0,
    cache: Annotated[Path, typer.Option(help="folder that keeps text vectors")] = Path(".tessera/benchmarks"),
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
    pages: Annotated[Path | None, typer.Option(help="folder for a page with plots of each")] = None,
) -> None:
    """Score every tokenizer recipe by the same report, print the tables and write the results."""
    known = ", ".join(PUBLISHED)
    for name in dataset or ():
        if name not in PUBLISHED:
            raise typer.BadParameter(f"unknown dataset {name!r}; known: {known}")
    recipes = [] if recipe == ["none"] else recipe or tokenizer_recipe_names()
    failed = [
        run(datasets / name, recipes, churn or (), seed, cache, out, pages) for name in dataset or PUBLISHED
    ]
    raise typer.Exit(1 if any(failed) else 0)


if __name__ == "__main__":
    typer.run(main)
