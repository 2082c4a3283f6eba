"""Faults planted into semantic IDs, each of which one bound must catch, at either level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.tokenizers import build
from ml.tokenizers.items import ItemData
from ml.tokenizers.report import churn, describe
from orchestration.quality.semantic_ids import check_report, measure, semantic_ids_suite
from orchestration.quality.thresholds import Bounds, SemanticIdThresholds, load_thresholds
from tests.ml.tokenizers.samples import sample_items

N = 240


def catalogue() -> ItemData:
    items = sample_items(N)
    # The samples' categories follow the behaviour; here they are to follow what codes are made from.
    clusters = items.space("fused")[:, :3].argmax(axis=1)
    return ItemData(items.item_ids, items.spaces, [[f"c{c}"] for c in clusters])


ITEMS = catalogue()
TOKENIZER = build("residual_kmeans", {"levels": 2, "code_size": 16})
TOKENIZER.fit(ITEMS, seed=0)
CODES = TOKENIZER.encode(ITEMS)


def report(
    codes: np.ndarray, decode: Callable[[np.ndarray], np.ndarray] = TOKENIZER.decode, sizes: Any = (16, 16)
) -> dict[str, Any]:
    return {**describe(codes, sizes, ITEMS, True, "fused", decode), "churn": None}


def collapsed() -> dict[str, Any]:
    return report(np.repeat(CODES[:2], N // 2, axis=0))


def crowded() -> dict[str, Any]:
    codes = CODES.copy()
    codes[: int(N * 0.7)] = codes[0]
    return report(codes)


def dead() -> dict[str, Any]:
    return report(CODES, sizes=(16, 16 * 64))


def blind() -> dict[str, Any]:
    noise = np.random.default_rng(0).normal(size=(16, 16, 12)).astype(np.float32) * 9
    return report(CODES, decode=lambda codes: noise[codes[:, 0], codes[:, 1]])


def dealt() -> dict[str, Any]:
    return report(CODES[np.random.default_rng(0).permutation(N)])


def renamed() -> dict[str, Any]:
    full = np.concatenate([CODES, np.arange(N, dtype=np.int32)[:, None]], axis=1)
    moved = full.copy()
    moved[:, 0] = 15 - moved[:, 0]
    return report(CODES) | {"churn": churn(ITEMS.item_ids, full, ITEMS.item_ids, moved)}


FAULTS = {
    "distinct": collapsed,
    "largest_collision": crowded,
    "dead_codes": dead,
    "reconstruction_error": blind,
    "overlap": dealt,
    "purity": dealt,
    "churn": renamed,
}
# Where the defaults say nothing, or only warn.
STRICT = {"overlap": 1.5, "purity": 0.05, "churn": 0.9}


def limits(**bounds: Bounds) -> SemanticIdThresholds:
    nothing = Bounds(warning=None, error=None)
    return SemanticIdThresholds(**(dict.fromkeys(FAULTS, nothing) | bounds))


def test_every_measure_has_a_fault() -> None:
    assert FAULTS.keys() == SemanticIdThresholds.model_fields.keys()


def test_good_ids_keep_all_promises(tmp_path: Path) -> None:
    verdict = check_report(report(CODES), load_thresholds().semantic_ids, tmp_path, "good")
    assert (verdict.failures, verdict.passed) == ([], True)
    assert verdict.skipped == ["churn: nothing to measure it by"]
    assert "semantic_ids" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught_at_both_levels(name: str, tmp_path: Path) -> None:
    default = getattr(load_thresholds().semantic_ids, name)
    bound = default.error if default.error is not None else STRICT[name]
    fault = FAULTS[name]()
    stopped = check_report(fault, limits(**{name: Bounds(warning=None, error=bound)}), tmp_path, "a")
    assert [failure.rule.split()[0] for failure in stopped.errors] == [name]
    assert not stopped.passed
    warned = check_report(fault, limits(**{name: Bounds(warning=bound, error=None)}), tmp_path, "a")
    assert [failure.rule.split()[0] for failure in warned.warnings] == [name]
    assert warned.passed
    sound = report(CODES) | {"churn": None}
    assert (
        check_report(sound, limits(**{name: Bounds(warning=bound, error=bound)}), tmp_path, "b").failures
        == []
    )


def test_measures_by_hand() -> None:
    told = {
        "uniqueness": {"items": 10, "distinct": 4, "largest_collision": 5, "share_unique": 0.2},
        "levels": [{"size": 4, "used": 3, "dead": 1}, {"size": 4, "used": 2, "dead": 2}],
        "reconstruction_error": None,
        "neighbour_overlap@10": {
            "text": {"codes": 0.2, "decoded": None, "chance": 0.1},
            "behaviour": {"codes": 0.3, "decoded": None, "chance": 0.1},
        },
        "prefix_purity": {"prefix_1": {"category_1": {"purity": 1.0, "shuffled": 1.0}}},
        "churn": {"kept": 0, "changed": 0.0},
    }
    assert measure(told) == {
        "distinct": 0.4,
        "largest_collision": 0.5,
        "dead_codes": 0.5,
        "reconstruction_error": None,
        "overlap": pytest.approx(3),
        "purity": 0,
        "churn": None,
    }
    bare = told | {"neighbour_overlap@10": {"text": None}, "prefix_purity": None, "churn": None}
    assert (measure(bare)["overlap"], measure(bare)["purity"]) == (None, None)


def test_none_says_nothing() -> None:
    assert semantic_ids_suite(limits()).rules == ()
