from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.heuristics.text_knn import TextKNN, TextKNNParams, bags_of_words, neighbours
from ml.recommenders.heuristics.text_similarity import whitened
from ml.snapshot import Catalogue
from tests.ml.recommenders.test_heuristics import N_ITEMS, small_catalogue

TITLES = ["red soap", "Red soaps", "blue soap", "green comb", "comb", "", "wood comb", "red"]
TRAIN = Histories.of([[0, 1, 4], [5, 6, 5], [2, 3]])


def titled(vectors: np.ndarray | None = None) -> Catalogue:
    given = np.zeros((N_ITEMS, 3), np.float32) if vectors is None else vectors
    return replace(small_catalogue(given), titles=TITLES[:N_ITEMS])


def test_words_weigh_by_rarity_and_a_plural_is_its_singular() -> None:
    bags = bags_of_words(TITLES).to_dense().numpy()
    cosine = bags @ bags.T
    assert cosine[0, 1] == pytest.approx(1)
    red, soap = np.log(8 / 3), np.log(8 / 3)
    assert cosine[0, 7] == pytest.approx(red / np.hypot(red, soap))
    # "blue" and "green" stand in one title each: nothing is lost by them.
    assert cosine[2, 0] == pytest.approx(soap / np.hypot(red, soap))
    assert cosine[3, 4] == pytest.approx(1)
    assert (bags[5] == 0).all()


def test_edges_are_those_of_a_plain_computation() -> None:
    vectors = np.random.default_rng(4).standard_normal((N_ITEMS, 3)).astype(np.float32)
    params = TextKNNParams(whiten=0.5, words=0.7, sharpness=4.0, neighbours=3)
    graph = neighbours(titled(vectors), params)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sense = whitened(unit, 0.5)
    bags = bags_of_words(TITLES[:N_ITEMS]).to_dense().numpy()
    alike = sense @ sense.T + 0.7 * bags @ bags.T
    np.fill_diagonal(alike, -1)
    for item in range(N_ITEMS):
        best = [other for other in np.argsort(-alike[item], kind="stable")[:3] if alike[item, other] > 0]
        edges = slice(graph.offsets[item], graph.offsets[item + 1])
        assert graph.targets[edges].tolist() == best
        np.testing.assert_allclose(graph.weights[edges], np.exp(4 * (alike[item, best] / 1.7 - 1)), rtol=1e-4)


def test_what_nobody_has_met_is_found_by_its_words() -> None:
    model = TextKNN(TextKNNParams())
    model.fit(split(TRAIN, "full"), titled(), 0)
    assert 7 not in TRAIN.items
    items, scores = model.recommend(Histories.of([[1]]), 3)
    assert items[0].tolist() == [0, 2, 7]
    assert scores[0, 0] == pytest.approx(1, abs=1e-3)


def test_one_near_neighbour_says_more_than_several_far_ones() -> None:
    angles = np.deg2rad([0, 8, 120, 150, 180, 240, 130, 75])[:N_ITEMS]
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def first(sharpness: float) -> int:
        model = TextKNN(TextKNNParams(whiten=0.0, words=0.0, sharpness=sharpness, recency_decay=1.0))
        model.fit(split(TRAIN, "full"), small_catalogue(vectors), 0)
        items, _ = model.recommend(Histories.of([[0, 2, 3]]), 1)
        return int(items[0, 0])

    assert (first(0.1), first(30.0)) == (6, 1)


def test_popularity_speaks_where_nothing_is_said() -> None:
    model = TextKNN(TextKNNParams())
    model.fit(split(TRAIN, "full"), titled(), 0)
    items, _ = model.recommend(Histories.of([[]]), 1)
    assert items[0, 0] == 5


def test_an_advance_shows_more_of_what_nobody_has_met() -> None:
    history = Histories.of([[1]])

    def scores(advance: float) -> dict[int, float]:
        model = TextKNN(TextKNNParams(advance=advance, popularity=0.0))
        model.fit(split(TRAIN, "full"), titled(), 0)
        items, values = model.recommend(history, 3)
        return dict(zip(items[0].tolist(), values[0].tolist(), strict=True))

    plain, ahead = scores(1.0), scores(1.5)
    assert list(plain) == [0, 2, 7]
    assert ahead == {**plain, 7: pytest.approx(1.5 * plain[7])}
