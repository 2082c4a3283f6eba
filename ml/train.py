"""Train a recipe on a snapshot and evaluate it: ``python -m ml.train --snapshot DIR --recipe NAME --out DIR``.

A run that was killed goes on where it stood when it is started again. ``torchrun --nproc-per-node N -m ml.train ...``
shares the rows of every training batch among N processes.

Needs torch, lightning, numpy, pyarrow, safetensors, pydantic and pyyaml, and nothing else of Tessera but ``ml``.
"""

from __future__ import annotations

import argparse
import logging
import platform
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ml.artifacts import (
    ArtifactError,
    Manifest,
    hash_file,
    hash_json,
    is_complete,
    package_versions,
    publish,
    read_manifest,
    write_manifest,
)
from ml.evaluation.evaluate import evaluate
from ml.evaluation.results import Result, read_result, write_result
from ml.evaluation.splits import PROTOCOLS, split
from ml.recipes import Recipe, RecipeError, load_recipe, recipe_names
from ml.recommenders import build
from ml.recommenders.training import is_main_process, wait_for_all
from ml.snapshot import Snapshot, load_snapshot, without_behaviour

log = logging.getLogger("ml.train")

MODEL_KIND = "model"
TRAINING_KIND = "training"
_PACKAGES = ("torch", "lightning", "numpy", "pyarrow", "safetensors", "pydantic")
_SOURCES = ("train.py", "histories.py", "snapshot.py", "evaluation", "recommenders")


def train(
    snapshot_dir: Path,
    recipe: str | Path | Recipe,
    out: Path,
    seed: int = 0,
    protocols: Sequence[str] = ("leave_one_out", "temporal"),
    threads: int = 2,
    exclude_history: bool = True,
) -> Path:
    """Fit, evaluate and save a recipe under each protocol; what is complete is reused as it is.

    Parameters
    ----------
    snapshot_dir
        A snapshot (`ml.snapshot`).
    recipe
        A recipe, its name, or a YAML file.
    out
        Folder of models.
    seed
        Of every random choice.
    protocols
        Of `ml.evaluation.splits.PROTOCOLS`. ``full`` is trained on everything and not evaluated. It has no
        validation, so it brings ``temporal`` with it and takes the parameters that the fit there names in
        ``refit``. Under ``cold_items`` a recommender knows of the catalogue only what no user's doing went into
        (`ml.snapshot.without_behaviour`): one that needs codes is refused unless they were made from text alone.
    threads
        Of torch on CPU; the same number gives the same bytes.
    exclude_history
        Whether evaluation asks for lists without the items of the history.

    Returns
    -------
    ``out/RECIPE/HASH``, HASH being that of snapshot, recipe, seed, code, threads and ``exclude_history``. It holds a folder with the model,
    ``result-PROTOCOL.json`` and ``ranks-PROTOCOL.safetensors`` for each protocol, and ``manifest.json``.

    Raises
    ------
    ArtifactError
        If the snapshot cannot be read, or if the recipe cannot be trained on it.
    RecipeError
        If the recipe does not exist or is not valid.
    ValueError
        If a protocol is unknown.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    data = read_manifest(snapshot_dir, "snapshot").version
    code = code_version()
    target = folder_of(snapshot_dir, recipe, out, seed, threads, exclude_history)
    asked = {*protocols, "temporal"} if "full" in protocols else set(protocols)
    wanted = [p for p in PROTOCOLS if p in asked and not is_complete(target / p)]
    if wanted:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            snapshot = load_snapshot(snapshot_dir)
            for protocol in wanted:
                _train_one(snapshot, recipe, target, protocol, seed, code, exclude_history)
        finally:
            torch.set_num_threads(before)
    done = [p for p in PROTOCOLS if is_complete(target / p)]
    stated = read_manifest(target).metrics.get("protocols") if is_complete(target) else None
    if stated != done and is_main_process():
        manifest = _manifest(TRAINING_KIND, target.name, data, recipe.recommender, seed, code)
        manifest.metrics = {"recipe": recipe.name, "recipe_hash": recipe.hash, "protocols": done}
        write_manifest(target, manifest)
    return target


def folder_of(
    snapshot_dir: Path,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    threads: int = 2,
    exclude_history: bool = True,
) -> Path:
    """Return where :func:`train` puts what these make, whether it is there or not."""
    data = read_manifest(snapshot_dir, "snapshot").version
    made_of = [data, recipe.hash, recipe.name, seed, code_version(), threads, exclude_history]
    return out / recipe.name / hash_json(made_of)


def code_version() -> str:
    """Name the code that training depends on: the package version and a hash of its sources."""
    root = Path(__file__).parent
    files = [
        path
        for name in _SOURCES
        for path in ([root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py")))
    ]
    sources = hash_json([(path.relative_to(root).as_posix(), hash_file(path)) for path in files])
    return f"{package_versions('tessera')['tessera']}+{sources[:8]}"


def _train_one(
    snapshot: Snapshot,
    recipe: Recipe,
    target: Path,
    protocol: str,
    seed: int,
    code: str,
    exclude_history: bool,
) -> None:
    """Fit under one protocol; the model's folder appears last, so it means that the result is there too."""
    started, cpu = time.perf_counter(), time.process_time()
    config = dict(recipe.recommender)
    if protocol == "full":
        config |= read_result(target, "temporal").fit.get("refit", {})
    recommender = build(config)
    parts = replace(split(snapshot.histories, protocol), exclude_history=exclude_history)  # type: ignore[arg-type]
    catalogue = without_behaviour(snapshot) if protocol == "cold_items" else snapshot.catalogue
    checkpoints = target / f"checkpoints-{protocol}"
    try:
        fit = recommender.fit(parts, catalogue, seed, checkpoints / "last")
    except ValueError as error:
        hidden = catalogue.codes.shape != snapshot.catalogue.codes.shape
        why = " (those of the snapshot were made with a knowledge of behaviour)" if hidden else ""
        message = f"{snapshot.folder} cannot train {recipe.name} ({protocol}): {error}{why}"
        raise ArtifactError(message) from None
    if not is_main_process():
        wait_for_all()
        return
    manifest = _manifest(MODEL_KIND, target.name, snapshot.manifest.version, config, seed, code)
    manifest.metrics = {"recipe": recipe.name, "protocol": protocol, "fit": fit}
    target.mkdir(parents=True, exist_ok=True)
    if protocol != "full":
        test, valid = (
            evaluate(
                recommender,
                queries,
                parts.train,
                len(catalogue),
                exclude_history=exclude_history,
                event_types=snapshot.event_type_names,
            )
            for queries in (parts.test, parts.valid)
        )
        manifest.metrics["test"] = test.metrics
        seconds = time.perf_counter() - started
        provenance = _provenance(snapshot, recipe, code, str(fit.get("device", "cpu")), seconds)
        provenance["cpu_seconds"] = round(time.process_time() - cpu, 3)
        write_result(
            target,
            Result(protocol, recipe.name, seed, recommender.training_free, test, valid, fit, provenance),
        )
        log.info(
            "%s %s: test ndcg@10 %.4f in %.1f s", recipe.name, protocol, test.metrics["ndcg@10"], seconds
        )
    with publish(target / protocol) as folder:
        recommender.save(folder)
        write_manifest(folder, manifest)
    shutil.rmtree(checkpoints, ignore_errors=True)
    wait_for_all()


def _manifest(
    kind: str, version: str, data: str, recommender: dict[str, Any], seed: int, code: str
) -> Manifest:
    return Manifest(
        kind=kind,
        version=version,
        inputs={"snapshot": data},
        recipe=recommender,
        seed=seed,
        code=code,
        packages=package_versions(*_PACKAGES),
    )


def _provenance(snapshot: Snapshot, recipe: Recipe, code: str, device: str, seconds: float) -> dict[str, Any]:
    told = {
        "data_hash": snapshot.manifest.version,
        "recipe_hash": recipe.hash,
        "code": code,
        "versions": {"python": platform.python_version(), **package_versions(*_PACKAGES)},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "device": device,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.startswith("cuda"):
        told["device"] = torch.cuda.get_device_name(device)
        told["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; print the folder. Returns 2 after a user's mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="python -m ml.train", description="Train and evaluate a recipe.")
    parser.add_argument("--snapshot", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help=f"{', '.join(recipe_names())}, or a file"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["leave_one_out", "temporal"])
    parser.add_argument("--threads", type=int, default=2, help="of torch on CPU")
    parser.add_argument(
        "--with-history", action="store_true", help="let evaluation ask for items of the history too"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder = train(
            options.snapshot,
            options.recipe,
            options.out,
            options.seed,
            options.protocol,
            options.threads,
            not options.with_history,
        )
    except (ArtifactError, RecipeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
