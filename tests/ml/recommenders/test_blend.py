from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.evaluation.evaluate import evaluate
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders import build, load_recommender
from ml.recommenders.blend import Blend, BlendParams, Lists, best, unite
from ml.snapshot import Catalogue

POPULAR = {"kind": "popularity"}
FOLLOWS = {"kind": "transitions"}

lists_of_items = st.lists(st.lists(st.integers(0, 7), max_size=4, unique=True), min_size=3, max_size=3)


def blend(*parts: dict[str, Any], **params: Any) -> Blend:
    return Blend(BlendParams.model_validate({"parts": parts, **params}))


def lists(rows: list[list[int]], seed: int) -> Lists:
    rng = np.random.default_rng(seed)
    items = np.full((len(rows), 4), -1, np.int32)
    for n, row in enumerate(rows):
        items[n, : len(row)] = row
    scores = -np.sort(-rng.integers(1, 5, items.shape).astype(np.float32), axis=1)
    return Lists(items, np.where(items == -1, -np.inf, scores))


@given(lists_of_items, lists_of_items, lists_of_items, st.integers(1, 15))
def test_a_blend_equals_a_table_of_sums(a: Any, b: Any, c: Any, k: int) -> None:
    weights = np.array([1.0, 0.5, 0.25], np.float32)
    each = [lists(rows, seed) for seed, rows in enumerate((a, b, c))]
    items, scores = best(*(lambda named, of_part: (named, of_part @ weights))(*unite(each)), k)
    assert items.shape == scores.shape == (3, k)
    for row in range(3):
        table: dict[int, float] = {}
        for weight, part in zip(weights, each, strict=True):
            for item, score in zip(part.items[row].tolist(), part.scores[row].tolist(), strict=True):
                if item >= 0:
                    table[item] = table.get(item, 0.0) + float(weight) * score
        order = sorted(table, key=lambda item: (-table[item], item))[:k]
        assert items[row].tolist() == order + [-1] * (k - len(order))
        assert scores[row, : len(order)].tolist() == pytest.approx([table[item] for item in order])
        assert (scores[row, len(order) :] == -np.inf).all()


@pytest.mark.parametrize("scale", ["range", "deviation", "rank"])
def test_one_part_alone_ranks_as_itself(histories: Histories, catalogue: Catalogue, scale: str) -> None:
    parts = split(histories, "leave_one_out")
    alone = build(FOLLOWS)
    alone.fit(parts, catalogue, 0)
    for made in (blend(FOLLOWS, scale=scale), blend(FOLLOWS, POPULAR, scale=scale, weights=(1, 0))):
        made.fit(parts, catalogue, 0)
        items, _ = made.recommend(parts.test.histories, 5)
        np.testing.assert_array_equal(items, alone.recommend(parts.test.histories, 5)[0])


def test_weights_are_chosen_on_validation(histories: Histories, catalogue: Catalogue) -> None:
    """Order says all on the ring: the part that knows it decides, and the blend is no worse than it."""
    parts = split(histories, "leave_one_out")
    made = blend(POPULAR, FOLLOWS)
    told = made.fit(parts, catalogue, 0)
    assert told["weights"][1] == 1
    assert told["weights"][0] < 0.5
    alone = told["valid_ndcg@10_of_parts"]
    assert told["valid_ndcg@10"] >= max(alone) > min(alone)
    assert told["valid_ndcg@10"] == max(told["valid_ndcg@10_by_scale"].values())
    seen = evaluate(made, parts.valid, parts.train, len(catalogue))
    assert seen.metrics["ndcg@10"] == pytest.approx(told["valid_ndcg@10"])


def test_refit_needs_no_validation(histories: Histories, catalogue: Catalogue) -> None:
    chosen = blend(POPULAR, FOLLOWS).fit(split(histories, "leave_one_out"), catalogue, 0)
    again = build({"kind": "blend", **{**blend(POPULAR, FOLLOWS).params.model_dump(), **chosen["refit"]}})
    full = again.fit(split(histories, "full"), catalogue, 0)
    assert (full["scale"], full["weights"]) == (chosen["scale"], chosen["weights"])
    assert "valid_ndcg@10" not in full
    # With nothing to choose by and nothing given, all parts weigh the same.
    plain = blend(POPULAR, FOLLOWS)
    assert plain.fit(split(histories, "full"), catalogue, 0)["weights"] == (1.0, 1.0)


def test_what_parts_found_goes_into_their_refit(histories: Histories, catalogue: Catalogue) -> None:
    sequential = {
        "kind": "sequential",
        "d": 16,
        "max_length": 6,
        "epochs": 2,
        "batch_tokens": 64,
        "learning_rate": 0.01,
    }
    told = blend(sequential, POPULAR).fit(split(histories, "leave_one_out"), catalogue, 0)
    found = told["parts"][0]["refit"]
    assert found
    assert told["refit"]["parts"][0].items() >= found.items()


def test_a_blend_of_blends_is_saved_and_read(
    histories: Histories, catalogue: Catalogue, tmp_path: Path
) -> None:
    made = blend({"kind": "blend", "parts": [POPULAR, FOLLOWS]}, {"kind": "item_knn"})
    made.fit(split(histories, "leave_one_out"), catalogue, 0)
    made.save(tmp_path)
    read = load_recommender(tmp_path, catalogue)
    for got, expected in zip(read.recommend(histories, 7), made.recommend(histories, 7), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_not_fitted() -> None:
    with pytest.raises(ValueError, match="must be fitted"):
        blend(POPULAR).recommend(Histories.of([[1]]), 1)


def test_a_thousand_users_cost_little() -> None:
    rng = np.random.default_rng(0)
    each = [
        Lists(
            np.argsort(rng.random((1000, 2000)), axis=1)[:, :200].astype(np.int32),
            -np.sort(-rng.random((1000, 200)).astype(np.float32), axis=1),
        )
        for _ in range(3)
    ]
    began = time.process_time()
    items, _ = best(*(lambda named, of_part: (named, of_part @ np.ones(3, np.float32)))(*unite(each)), 50)
    assert time.process_time() - began < 1
    assert (items >= 0).all()
