"""A leaderboard from committed runs alone.

``python -m benchmarks.leaderboard run SNAPSHOT --dataset NAME --recipes a,b`` trains what is not there yet and writes
``results/leaderboard/NAME/RECIPE-seedN.json``; ``python -m benchmarks.leaderboard show NAME`` prints the page that those
files give and writes it as ``docs/leaderboard/NAME.md``; ``python -m benchmarks.leaderboard systems`` does so for all
generative systems on all logs, ``docs/leaderboard/systems.md``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.leaderboard_page import page, systems
from benchmarks.record import RESULTS
from benchmarks.snapshots import of_tokenizer
from ml.artifacts import ArtifactError, read_json, read_manifest, write_json, write_text
from ml.evaluation.leaderboard import Run, file_name, read_runs, run_row
from ml.evaluation.splits import PROTOCOLS
from ml.recipes import Recipe, RecipeError, load_recipe
from ml.train import train

LEADERBOARD = RESULTS / "leaderboard"
PAGES = Path(__file__).parents[1] / "docs" / "leaderboard"
SYSTEMS = "systems"


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
        "tokenizer": recipe.tokenizer,
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
    run once: a seed changes nothing. One that ``cold_items`` refuses has no file, and has not failed. A recipe that
    needs a tokenizer of its own is trained on the snapshot beside, ``SNAPSHOT@TOKENIZER``.
    """
    failed = []
    for name in recipes:
        recipe = load_recipe(name)
        folder = of_tokenizer(snapshot, recipe.tokenizer)
        data = read_manifest(folder, "snapshot").version
        for seed in range(1 if recipe.training_free else seeds):
            for protocol in protocols:
                path = results / dataset / file_name(recipe.name, seed, protocol)
                if _is_of(path, (data, recipe.hash, exclude_history)):
                    continue
                sys.stderr.write(f"{path.stem} ...\n")
                try:
                    with ProcessPoolExecutor(1, get_context("spawn"), _show_progress) as pool:
                        made = pool.submit(
                            train, folder, recipe, models, seed, (protocol,), threads, exclude_history
                        ).result()
                    record(made, recipe, protocol, dataset, results)
                except ArtifactError as error:
                    sys.stderr.write(f"{path.stem}: {error}\n")
                    if protocol != "cold_items":
                        failed.append(f"{path.stem}: {error}")
    return failed


def read_boards(results: Path = LEADERBOARD) -> dict[str, list[Run]]:
    """Read the runs of every log; what the demo measured of itself on some log is no board of its own."""
    folders = sorted(
        path for path in results.iterdir() if path.is_dir() and not path.name.startswith("demo-")
    )
    return {folder.name: read_runs(folder) for folder in folders}


def _show_progress() -> None:
    """Let a process of training tell how it goes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


def _is_of(path: Path, identity: tuple[str, str, bool]) -> bool:
    return path.is_file() and Run(read_json(path), None).identity == identity


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
    every = commands.add_parser("systems", help="print the page of all generative systems, and write it")
    for command in (shows, every):
        command.add_argument("--pages", type=Path, default=PAGES)
    for command in (runs, shows, every):
        command.add_argument("--results", type=Path, default=LEADERBOARD, help="folder of the runs' files")
    options = parser.parse_args(argv)
    try:
        if options.command == "run":
            names = options.recipes.split(",")
            told = (options.seeds, options.protocols, options.models, options.threads, options.results)
            failed = run(options.snapshot, options.dataset, names, *told, not options.with_history)
            sys.stdout.write("".join(f"failed: {line}\n" for line in failed))
            return 1 if failed else 0
        if options.command == "systems":
            name, text = SYSTEMS, systems(read_boards(options.results))
        else:
            name, found = options.dataset, read_runs(options.results / options.dataset)
            if not found:
                raise ArtifactError(f"{options.results / name} holds no run")
            text = page(name, found)
        write_text(options.pages / f"{name}.md", text)
        sys.stdout.write(text)
    except (ArtifactError, RecipeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
