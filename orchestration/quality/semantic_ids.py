"""What semantic IDs promise before they go live: bounds on their report, as a suite of one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from ml.tokenizers.report import OVERLAP
from orchestration.quality.report import QualityReport
from orchestration.quality.rules import Rule, Severity, Suite, between
from orchestration.quality.thresholds import Bounds, SemanticIdThresholds
from orchestration.quality.validate import validate

NAME = "semantic_ids"
# Whether a measure may not be lower or not be higher, and what goes wrong where it is.
_MEASURES = {
    "distinct": (True, "items with equal codes are told apart by a number that means nothing"),
    "largest_collision": (False, "a tuple that many items share has collapsed"),
    "dead_codes": (False, "codes that no item has are lost to the model's vocabulary"),
    "reconstruction_error": (
        False,
        "codes that decode to nothing better than the mean say nothing of the item",
    ),
    "overlap": (
        True,
        "what a model learns of an item's codes is of use for its neighbours only if they share codes",
    ),
    "purity": (True, "codes that are as mixed in categories as shuffled ones do not know what items are"),
    "churn": (False, "what was trained or stored under the old IDs no longer fits"),
}


def measure(report: dict[str, Any]) -> dict[str, float | None]:
    """Return the measures that have bounds, of a version's ``report.json``; None where there is none to take."""
    unique, items = report["uniqueness"], max(report["uniqueness"]["items"], 1)
    overlaps = [found["codes"] / found["chance"] for found in report[OVERLAP].values() if found is not None]
    lifts = [
        scores["purity"] - scores["shuffled"]
        for by_category in (report["prefix_purity"] or {}).values()
        for scores in by_category.values()
    ]
    return {
        "distinct": unique["distinct"] / items,
        "largest_collision": unique["largest_collision"] / items,
        "dead_codes": max((level["dead"] / level["size"] for level in report["levels"]), default=None),
        "reconstruction_error": report["reconstruction_error"],
        "overlap": max(overlaps, default=None),
        "purity": max(lifts, default=None),
        "churn": report["churn"]["changed"] if report["churn"] and report["churn"]["kept"] else None,
    }


def semantic_ids_suite(limits: SemanticIdThresholds) -> Suite:
    """Return the bounds as rules."""
    rules = []
    for name, (at_least, why) in _MEASURES.items():
        bounds: Bounds = getattr(limits, name)
        levels: tuple[tuple[Severity, float | None], ...] = (
            ("error", bounds.error),
            ("warning", bounds.warning),
        )
        rules += [_rule(name, limit, level, at_least, why) for level, limit in levels if limit is not None]
    return Suite(NAME, tuple(_MEASURES), tuple(rules))


def check_report(
    report: dict[str, Any], limits: SemanticIdThresholds, docs: Path, batch: str
) -> QualityReport:
    """Hold a version's ``report.json`` against its bounds; the verdict is one of the data docs.

    Parameters
    ----------
    report
        As `ml.tokenizers.lifecycle.assign_semantic_ids` writes it.
    limits
        The bounds.
    docs, batch
        As in `orchestration.quality.validate.validate`.
    """
    found = measure(report)
    table = pa.table({name: pa.array([value], pa.float64()) for name, value in found.items()})
    skipped = [f"{name}: nothing to measure it by" for name, value in found.items() if value is None]
    return validate(table, semantic_ids_suite(limits), docs, batch, skipped=skipped)


def _rule(name: str, limit: float, level: Severity, at_least: bool, why: str) -> Rule:
    low, high = (limit, None) if at_least else (None, limit)
    return between(name, low, high, level, why)
