"""Copy what a home measured into ``benchmarks/results``: its demo summary, and a leaderboard file for each recipe.

Run ``python -m benchmarks.export_results`` after a demo; ``TESSERA_HOME`` names the home.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import psutil

from ml.artifacts import ArtifactError, current, package_versions, read_json, write_json
from orchestration.models import PROTOCOLS
from orchestration.settings import Settings, get_settings

RESULTS = Path(__file__).parent / "results"
_KEPT = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "mrr@10", "coverage@10")


def leaderboard_row(told: dict[str, Any], dataset: str) -> dict[str, Any]:
    """Bring a candidate's result file into the form of the leaderboard: test numbers, validation under its own key."""
    return {
        "dataset": dataset,
        "protocol": told["protocol"],
        "recipe": told["recipe"],
        "seed": told["seed"],
        "metrics": {name: told["metrics"][name] for name in _KEPT},
        "validation": {name: told["validation"][name] for name in ("ndcg@10", "recall@10")},
        "slices": {
            name: {"ndcg@10": found["ndcg@10"]}
            for name, found in told["slices"].items()
            if "ndcg@10" in found
        },
        "provenance": told["provenance"],
    }


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
            row = leaderboard_row(read_json(folder / f"result-{protocol}.json"), dataset)
            suffix = "" if protocol == "leave_one_out" else f"-{protocol}"
            written.append(results / "leaderboard" / dataset / f"{recipe}-seed{row['seed']}{suffix}.json")
            write_json(written[-1], row)
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
