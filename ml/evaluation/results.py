"""Results on disk: the numbers as JSON, the rank of every query as safetensors for paired tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ml.artifacts import ArtifactError, read_json, write_json
from ml.evaluation.evaluate import Evaluation

_PARTS = ("test", "validation")


@dataclass(frozen=True)
class Result:
    """Evaluation of one trained recipe under one protocol.

    Parameters
    ----------
    protocol, recipe, seed
        What was run.
    training_free
        Whether the recommender only counts.
    test, validation
        Kept apart everywhere; validation may have chosen parameters and epochs.
    fit
        The recommender's own report.
    provenance
        ``data_hash, recipe_hash, code, versions, machine, device, seconds, peak_memory_mb, date``.
    """

    protocol: str
    recipe: str
    seed: int
    training_free: bool
    test: Evaluation
    validation: Evaluation
    fit: dict[str, Any]
    provenance: dict[str, Any]


def write_result(folder: Path, result: Result) -> None:
    """Write ``result-PROTOCOL.json`` and ``ranks-PROTOCOL.safetensors``.

    In the JSON ``metrics``, ``expected_over_ties``, ``slices`` and ``checks`` are of the test queries; those of the
    validation queries stand under ``validation`` and ``validation_...``.
    """
    arrays: dict[str, np.ndarray] = {}
    for part, evaluation in zip(_PARTS, (result.test, result.validation), strict=True):
        arrays |= {f"{part}/users": evaluation.users, f"{part}/ranks": evaluation.ranks}
        arrays |= {f"{part}/slice/{name}": mask for name, mask in evaluation.slices.items()}
    save_file(arrays, folder / f"ranks-{result.protocol}.safetensors")
    write_json(
        folder / f"result-{result.protocol}.json",
        {
            "protocol": result.protocol,
            "recipe": result.recipe,
            "seed": result.seed,
            "training_free": result.training_free,
            "k": result.test.k,
            "exclude_history": result.test.exclude_history,
            "metrics": result.test.metrics,
            "expected_over_ties": result.test.expected,
            "slices": result.test.slice_metrics,
            "checks": result.test.checks,
            "validation": result.validation.metrics,
            "validation_expected_over_ties": result.validation.expected,
            "validation_slices": result.validation.slice_metrics,
            "validation_checks": result.validation.checks,
            "fit": result.fit,
            "provenance": result.provenance,
        },
    )


def read_result(folder: Path, protocol: str) -> Result:
    """Read what `write_result` wrote.

    Raises
    ------
    ArtifactError
        If there is no such result.
    """
    path = folder / f"result-{protocol}.json"
    told = read_json(path)
    try:
        arrays = load_file(folder / f"ranks-{protocol}.safetensors")
        evaluations = [
            Evaluation(
                arrays[f"{part}/users"],
                arrays[f"{part}/ranks"],
                {
                    name.removeprefix(f"{part}/slice/"): mask.astype(np.bool_)
                    for name, mask in arrays.items()
                    if name.startswith(f"{part}/slice/")
                },
                told[metrics],
                told[checks],
                told["k"],
                told[expected],
                told["exclude_history"],
            )
            for part, metrics, checks, expected in (
                ("test", "metrics", "checks", "expected_over_ties"),
                ("validation", "validation", "validation_checks", "validation_expected_over_ties"),
            )
        ]
        return Result(
            told["protocol"],
            told["recipe"],
            told["seed"],
            told["training_free"],
            evaluations[0],
            evaluations[1],
            told["fit"],
            told["provenance"],
        )
    except (KeyError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} is not a complete result: {error}") from None
