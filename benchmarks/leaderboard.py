"""A leaderboard from committed runs alone.

``python -m benchmarks.leaderboard run SNAPSHOT --dataset NAME --recipes a,b`` trains what is not there yet and writes
``results/leaderboard/NAME/RECIPE-seedN.json``; ``python -m benchmarks.leaderboard show NAME`` prints the page that those
files give and writes it as ``docs/leaderboard/NAME.md``.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.record import RESULTS
from ml.artifacts import ArtifactError, read_json, read_manifest, write_json, write_text
from ml.evaluation.leaderboard import (
    BASELINE,
    Run,
    Summary,
    file_name,
    left_out,
    read_runs,
    run_row,
    summarise,
)
from ml.evaluation.splits import PROTOCOLS
from ml.recipes import Recipe, RecipeError, load_recipe
from ml.train import train

LEADERBOARD = RESULTS / "leaderboard"
PAGES = Path(__file__).parents[1] / "docs" / "leaderboard"
_ACCURACY = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
_SHORT = {"recall@5": "R@5", "ndcg@5": "N@5", "recall@10": "R@10", "ndcg@10": "N@10"}
_LEGEND = """Written by `make leaderboard DATASET={dataset}` from `benchmarks/results/leaderboard/{dataset}/` alone; how it is
measured stands in [evaluation](../evaluation.md). Test queries only. A number is the mean over seeds, with the deviation of a
sample after ±; 'against' is the difference of NDCG@10 to `{baseline}` and its 95 % interval by paired bootstrap over
queries and seeds. 'ties' is what NDCG@10 would be, were items of equal score put in random order. 'published' is what the
paper, or whoever is named in the recipe, reports. Seconds are of training and evaluation, on the device that is named and on a
machine that may have had other work; those of CPU are the process's own."""


def record(
    folder: Path,
    recipe: Recipe,
    protocol: str,
    dataset: str,
    results: Path = LEADERBOARD,
    board: str | None = None,
) -> Path:
    """Write the leaderboard's file of a result that `ml.train` wrote; return its path.

    Parameters
    ----------
    folder
        The training.
    recipe
        What was trained.
    protocol
        Of which result.
    dataset
        Name of the data.
    results
        Folder of leaderboards.
    board
        Which of them; that of the dataset if not given.
    """
    about = {
        "title": recipe.title,
        "paper": recipe.paper,
        "published": recipe.published.get(dataset, {}),
        "recommender": recipe.recommender,
    }
    row = run_row(folder, protocol, dataset, about)
    path = results / (board or dataset) / file_name(recipe.name, row["seed"], protocol)
    write_json(path, row)
    return path


def run(
    snapshot: Path,
    dataset: str,
    recipes: Sequence[str],
    seeds: int,
    protocols: Sequence[str],
    models: Path,
    threads: int = 2,
    results: Path = LEADERBOARD,
    exclude_history: bool = True,
) -> list[str]:
    """Train and record what has no file of the same data and parameters; return what failed, and why.

    Each training has a process of its own, so that its peak of memory is its own. A recommender that only counts is
    run once: a seed changes nothing. One that ``cold_items`` refuses has no file, and has not failed.
    """
    data = read_manifest(snapshot, "snapshot").version
    failed = []
    for name in recipes:
        recipe = load_recipe(name)
        for seed in range(1 if recipe.training_free else seeds):
            for protocol in protocols:
                path = results / dataset / file_name(recipe.name, seed, protocol)
                if _is_of(path, data, recipe.hash):
                    continue
                sys.stderr.write(f"{path.stem} ...\n")
                try:
                    with ProcessPoolExecutor(1, get_context("spawn"), _show_progress) as pool:
                        folder = pool.submit(
                            train, snapshot, recipe, models, seed, (protocol,), threads, exclude_history
                        ).result()
                    record(folder, recipe, protocol, dataset, results)
                except ArtifactError as error:
                    sys.stderr.write(f"{path.stem}: {error}\n")
                    if protocol != "cold_items":
                        failed.append(f"{path.stem}: {error}")
    return failed


def page(dataset: str, runs: Sequence[Run]) -> str:
    """Return a dataset's leaderboard as Markdown."""
    parts = [f"# {dataset}", _LEGEND.format(dataset=dataset, baseline=BASELINE)]
    cold = {found.recipe: found for found in summarise(runs, "cold_items")}
    for protocol, title in (("leave_one_out", "Leave-one-out"), ("temporal", "Temporal")):
        if found := summarise(runs, protocol):
            parts += [f"## {title}", _table(found, cold if protocol == "leave_one_out" else {})]
    if cold:
        parts += ["## Cold items", _cold_table(list(cold.values()))]
    if stale := left_out(runs):
        parts.append("Of other data or parameters than the latest run, and not counted: " + ", ".join(stale))
    return "\n\n".join(parts) + "\n"


def _table(found: Sequence[Summary], cold: dict[str, Summary]) -> str:
    head = ["recipe", "seeds", *(_SHORT[name] for name in _ACCURACY), "ties"]
    head += ["published R@10", "N@10", f"N@10 against {BASELINE}"] + (["cold R@10"] if cold else [])
    head += ["seconds", "of CPU", "MB", "device"]
    rows = []
    for one in found:
        told = one.runs[-1].told.get("published", {})
        row = [one.recipe, str(len(one.runs)), *(_spread(one, name) for name in _ACCURACY)]
        row += [
            _number(one.expected.get("ndcg@10")),
            *(_number(told.get(m)) for m in ("recall@10", "ndcg@10")),
        ]
        row.append(_interval(one))
        if cold:
            row.append(_spread(cold[one.recipe], "recall@10") if one.recipe in cold else "-")
        rows.append([*row, *_cost(one)])
    return _markdown(head, rows, left=1)


def _cold_table(found: Sequence[Summary]) -> str:
    head = ["recipe", "seeds", "R@10", "N@10", "R@10, ties shuffled", "queries", f"N@10 against {BASELINE}"]
    rows = [
        [
            one.recipe,
            str(len(one.runs)),
            _spread(one, "recall@10"),
            _spread(one, "ndcg@10"),
            _number(one.expected.get("recall@10")),
            str(one.runs[0].told["checks"]["queries"]),
            _interval(one),
        ]
        for one in sorted(found, key=lambda one: (-one.mean["recall@10"], one.recipe))
    ]
    return _markdown(head, rows, left=1)


def _cost(one: Summary) -> list[str]:
    made = [run.told["provenance"] for run in one.runs]
    seconds = sum(told["seconds"] for told in made) / len(made)
    memory = max(told.get("peak_device_memory_mb", told["peak_memory_mb"]) for told in made)
    cpu = [told["cpu_seconds"] for told in made if "cpu_seconds" in told]
    of_cpu = f"{sum(cpu) / len(cpu):.0f}" if cpu else "-"
    return [f"{seconds:.0f}", of_cpu, f"{memory:.0f}", ", ".join(sorted({told["device"] for told in made}))]


def _interval(one: Summary) -> str:
    if one.difference is None:
        return "-"
    return f"{one.difference.mean:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}]"


def _spread(one: Summary, name: str) -> str:
    deviation = one.deviation[name]
    return _number(one.mean[name]) + ("" if math.isnan(deviation) else f" ±{_number(deviation)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".replace("0.", ".", 1)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = "|---" * left + "|---:" * (len(head) - left) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def _show_progress() -> None:
    """Let a process of training tell how it goes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


def _is_of(path: Path, data: str, recipe: str) -> bool:
    if not path.is_file():
        return False
    made = read_json(path)["provenance"]
    return bool((made["data_hash"], made["recipe_hash"]) == (data, recipe))


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if a training failed, 2 after a user's mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="train what is missing, and record it")
    runs.add_argument("snapshot", type=Path)
    runs.add_argument("--dataset", required=True, metavar="NAME")
    runs.add_argument("--recipes", required=True, metavar="A,B")
    runs.add_argument("--seeds", type=int, default=3)
    runs.add_argument(
        "--protocols",
        nargs="+",
        choices=[p for p in PROTOCOLS if p != "full"],
        default=["leave_one_out", "cold_items"],
    )
    runs.add_argument("--models", type=Path, default=Path(".tessera/leaderboard"), help="keeps the models")
    runs.add_argument("--threads", type=int, default=2)
    runs.add_argument(
        "--with-history",
        action="store_true",
        help="let items of the history be answers, as those that are bought were seen before",
    )
    shows = commands.add_parser("show", help="print a page, and write it")
    shows.add_argument("dataset")
    shows.add_argument("--pages", type=Path, default=PAGES)
    for command in (runs, shows):
        command.add_argument("--results", type=Path, default=LEADERBOARD, help="folder of the runs' files")
    options = parser.parse_args(argv)
    try:
        if options.command == "run":
            names = options.recipes.split(",")
            told = (options.seeds, options.protocols, options.models, options.threads, options.results)
            failed = run(options.snapshot, options.dataset, names, *told, not options.with_history)
            sys.stdout.write("".join(f"failed: {line}\n" for line in failed))
            return 1 if failed else 0
        found = read_runs(options.results / options.dataset)
        if not found:
            raise ArtifactError(f"{options.results / options.dataset} holds no run")
        text = page(options.dataset, found)
        write_text(options.pages / f"{options.dataset}.md", text)
        sys.stdout.write(text)
    except (ArtifactError, RecipeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
