from __future__ import annotations

import numpy as np
import pytest

from ml.tokenizers import report


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
    assert even == {"used": 8, "dead": 0, "perplexity": pytest.approx(8), "gini": pytest.approx(0)}
    one = report.code_usage(np.full(10, 3), 8)
    assert one == {"used": 1, "dead": 7, "perplexity": pytest.approx(1), "gini": pytest.approx(7 / 8)}
    uneven = report.code_usage(np.array([0, 0, 0, 1]), 2)
    assert uneven["perplexity"] == pytest.approx(2**0.811278, rel=1e-5)
    assert uneven["gini"] == pytest.approx(0.25)


def test_reconstruction_error_is_a_share_of_variance() -> None:
    vectors = np.random.default_rng(0).normal(3, 2, (100, 4)).astype(np.float32)
    assert report.reconstruction_error(vectors, vectors) == 0
    mean = np.broadcast_to(vectors.mean(axis=0), vectors.shape)
    assert report.reconstruction_error(vectors, mean) == pytest.approx(1)


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
    }
    assert report.churn(["a"], old[:1], ["a"], np.zeros((1, 3), np.int32))["changed"] == 1
