from __future__ import annotations

import numpy as np
import pytest

from ml.tokenizers import report
from ml.tokenizers.items import ItemData


def test_uniqueness_by_hand() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 1], [2, 2], [3, 0]], np.int32)
    assert report.uniqueness(codes) == {
        "items": 5,
        "distinct": 3,
        "largest_collision": 3,
        "share_unique": 0.4,
    }
    assert report.uniqueness(codes[:0])["distinct"] == 0


def test_code_usage_by_hand() -> None:
    even = report.code_usage(np.arange(8).repeat(3), 8)
    assert even == {"size": 8, "used": 8, "dead": 0, "perplexity": pytest.approx(8), "gini": pytest.approx(0)}
    one = report.code_usage(np.full(10, 3), 8)
    assert one == {
        "size": 8,
        "used": 1,
        "dead": 7,
        "perplexity": pytest.approx(1),
        "gini": pytest.approx(7 / 8),
    }
    uneven = report.code_usage(np.array([0, 0, 0, 1]), 2)
    assert uneven["perplexity"] == pytest.approx(2**0.811278, rel=1e-5)
    assert uneven["gini"] == pytest.approx(0.25)


def test_reconstruction_error_is_a_share_of_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(3, 2, (100, 4)).astype(np.float32)
    codes = np.arange(100, dtype=np.int32)[:, None]
    mean = vectors.mean(axis=0)

    def halfway(codes: np.ndarray) -> np.ndarray:
        return (vectors[codes[:, 0]] + mean) / 2

    assert report.reconstruction_error(vectors, codes, lambda some: vectors[some[:, 0]]) == 0
    assert report.reconstruction_error(vectors, codes, halfway) == pytest.approx(0.25, rel=1e-5)
    monkeypatch.setattr(report, "_BLOCK", 7)
    assert report.reconstruction_error(vectors, codes, halfway) == pytest.approx(0.25, rel=1e-5)
    assert report.reconstruction_error(vectors, codes, lambda some: vectors[some[:, 0], :3]) is None
    assert report.reconstruction_error(vectors[:0], codes[:0], halfway) is None


def _grid() -> tuple[ItemData, np.ndarray]:
    """Return 64 items whose vectors are given by two codes of 8, the first the coarser one."""
    codes = np.array([(a, b) for a in range(8) for b in range(8)], np.int32)
    angle = codes[:, 0] + codes[:, 1] / 100
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    categories = [[f"c{a}"] for a, _ in codes]
    return ItemData(
        [str(n) for n in range(64)], {"text": vectors.copy(), "behaviour": vectors}, categories
    ), codes


def test_published_codes_are_described_without_a_decoder() -> None:
    items, codes = _grid()
    found = report.describe(codes, (8, 16), items)
    assert found["uniqueness"]["share_unique"] == 1
    assert [(level["used"], level["dead"]) for level in found["levels"]] == [(8, 0), (8, 8)]
    assert found["reconstruction_error"] is None
    assert found["items_without_vector"] == 0
    overlap = found["neighbour_overlap@10"]["text"]
    assert overlap["decoded"] is None
    assert overlap["chance"] == pytest.approx(10 / 63)
    # The seven of the same first code are the nearest seven; three of the other 56 are left to chance.
    assert overlap["codes"] == pytest.approx((7 + 3 * 3 / 56) / 10, abs=0.01)
    assert found["prefix_purity"]["prefix_1"]["category_1"]["purity"] == 1
    assert found["prefix_purity"]["prefix_1"]["category_1"]["shuffled"] < 0.5


def test_a_decoder_tells_what_codes_alone_cannot() -> None:
    items, codes = _grid()
    vectors = items.spaces["text"]
    found = report.describe(
        codes, (8, 8), items, space="text", decode=lambda some: vectors[some[:, 0] * 8 + some[:, 1]]
    )
    assert found["reconstruction_error"] == 0
    assert found["neighbour_overlap@10"]["behaviour"]["decoded"] == pytest.approx(1, abs=0.01)


def test_codes_without_order_count_one_by_one() -> None:
    items, codes = _grid()
    found = report.describe(codes[:, ::-1], (8, 8), items, ordered=False)
    assert list(found["prefix_purity"]) == ["code_1", "code_2"]
    assert found["prefix_purity"]["code_2"]["category_1"]["purity"] == 1
    assert found["prefix_purity"]["code_1"]["category_1"]["purity"] == pytest.approx(1 / 8)
    # Seven share the first code and seven the other: half of the neighbours come from each.
    assert found["neighbour_overlap@10"]["text"]["codes"] == pytest.approx(7 * 10 / 14 / 10, abs=0.02)


def test_items_that_a_space_does_not_know_are_no_neighbours() -> None:
    items, codes = _grid()
    items.spaces["text"][8:] = 0
    found = report.describe(codes, (8, 8), items, space="text")
    assert found["items_without_vector"] == 56
    assert found["levels"][0]["used"] == 1
    assert found["neighbour_overlap@10"]["text"] is None
    assert found["neighbour_overlap@10"]["behaviour"]["codes"] > 0.5


def test_neighbour_overlap_between_none_and_all() -> None:
    rng = np.random.default_rng(0)
    left = rng.normal(size=(400, 6)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    assert report.neighbour_overlap(left, 3 * left @ rotation, seed=0) == pytest.approx(1, abs=0.01)
    chance = report.neighbour_overlap(left, rng.normal(size=(400, 6)).astype(np.float32), seed=0)
    assert chance == pytest.approx(10 / 399, abs=0.02)
    assert report.neighbour_overlap(left[:10], left[:10], seed=0) is None


def test_purity_by_hand_and_by_chance() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]] * 25, np.int32)
    categories = [["x"], ["x", "fine"], ["y"], ["x"]] * 25
    purity = report.prefix_purity(codes, categories, seed=0)
    assert purity["prefix_1"]["category_1"]["purity"] == 0.75
    assert purity["prefix_2"]["category_1"]["purity"] == 0.75
    assert purity["prefix_2"]["category_2"] == {"purity": 1, "shuffled": 1}
    assert report.prefix_purity(codes, [[]] * 100, seed=0) == {}
    sorted_categories = [[str(code)] for code in codes[:, 0]]
    scores = report.prefix_purity(codes, sorted_categories, seed=0)["prefix_1"]["category_1"]
    assert scores["purity"] == 1
    assert scores["shuffled"] < 0.65


def test_churn_by_hand() -> None:
    old = np.array([[0, 0], [1, 0], [2, 0]], np.int32)
    new = np.array([[1, 0], [2, 1], [9, 9]], np.int32)
    assert report.churn(["a", "b", "c"], old, ["b", "c", "d"], new) == {
        "kept": 2,
        "added": 1,
        "removed": 1,
        "changed": 0.5,
        "first_code": 0,
        "neighbourhood": None,
    }
    wider = report.churn(["a"], old[:1], ["a"], np.zeros((1, 3), np.int32))
    assert (wider["changed"], wider["first_code"]) == (1, 0)


def test_churn_of_names_is_not_churn_of_neighbourhoods() -> None:
    _, codes = _grid()
    full = np.concatenate([codes, np.zeros((64, 1), np.int32)], axis=1)
    ids = [str(n) for n in range(64)]
    assert report.churn(ids, full, ids, full)["neighbourhood"] == 0
    renamed = full.copy()
    renamed[:, 0] = 7 - renamed[:, 0]
    found = report.churn(ids, full, ids, renamed)
    assert (found["changed"], found["first_code"]) == (1, 1)
    assert found["neighbourhood"] == 0
    dealt = full[np.random.default_rng(0).permutation(64)]
    assert report.churn(ids, full, ids, dealt)["neighbourhood"] > 0.5
