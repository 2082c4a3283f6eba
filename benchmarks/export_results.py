"""Copy what a home measured into ``benchmarks/results``: its demo summary, and a leaderboard file for each recipe.

Run ``python -m benchmarks.export_results`` after a demo; ``TESSERA_HOME`` names the home.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import psutil

from benchmarks.leaderboard import record
from benchmarks.record import RESULTS
from ml.artifacts import ArtifactError, current, package_versions, read_json, write_json
from ml.recipes import load_recipe
from orchestration.models import PROTOCOLS
from orchestration.settings import Settings, get_settings


def export(settings: Settings, results: Path) -> list[Path]:
    """Write the files of one home and return their paths.

    Raises
    ------
    ArtifactError
        If the home has no finished demo.
    """
    summary = read_json(settings.home / "summary.json")
    dataset = summary["source"]
    machine = {
        "system": platform.platform(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }
    versions = {
        "python": platform.python_version(),
        **package_versions("tessera", "torch", "duckdb", "dagster"),
    }
    written = [results / "demo" / f"{dataset}.json"]
    gates = read_json(settings.evaluation / "champion.json")["gates"]
    about = {"machine": machine, "versions": versions, "seed": settings.seed, "gates": gates}
    write_json(written[0], about | {"summary": summary})
    for recipe in summary["recommenders"]:
        folder = current(settings.models / recipe)
        for protocol in PROTOCOLS:
            written.append(record(folder, load_recipe(recipe), protocol, dataset, results / "leaderboard"))
    return written


def main() -> int:
    """Export the home of this environment; return the exit code."""
    try:
        written = export(get_settings(), RESULTS)
    except ArtifactError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
