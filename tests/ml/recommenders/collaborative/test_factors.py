from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recommenders.collaborative.als import ALS, ALSParams, factorise
from ml.recommenders.collaborative.factors import FactorRecommender, FoldInParams, known_items
from ml.snapshot import Catalogue

N_ITEMS, D = 7, 3
TRAIN = Histories.of([[0, 1, 2, 2], [1, 3], [4, 2], [], [2, 5]])
KNOWN = torch.arange(6)
TABLE = torch.randn(6, D, generator=torch.Generator().manual_seed(0))
SENT = torch.randn(6, D, generator=torch.Generator().manual_seed(1))
ASKED = Histories.of([[0, 3, 2], [6, 4], [1, 1], [6], []])


class Served(FactorRecommender):
    kind, Params = "served", FoldInParams


def served(**params: object) -> Served:
    model = Served(FoldInParams(**params))
    model.serve(TABLE, SENT, KNOWN, TRAIN, N_ITEMS)
    return model


def catalogue(n: int) -> Catalogue:
    nothing = np.zeros((n, 0), np.float32)
    return Catalogue([str(i) for i in range(n)], [""] * n, [[]] * n, nothing, nothing.astype(np.int32), ())


def weighted(params: FoldInParams, history: list[int]) -> list[tuple[float, np.ndarray]]:
    """Return the weight and vector of each item that is read; two users met item 1, three item 2."""
    counts = np.array([1, 2, 3, 1, 1, 1, 0])
    table = SENT if params.fold_in == "propagate" else TABLE
    recent = history[::-1][: params.recent]
    return [
        (params.recency_decay**age / counts[item] ** params.source_norm, table[item].double().numpy())
        for age, item in enumerate(recent)
        if counts[item]
    ]


MEAN = {"recency_decay": 0.5, "source_norm": 0.5, "recent": 2}
SOLVE = {"fold_in": "solve", "recency_decay": 0.5, "source_norm": 0.3, "confidence": 8.0, "l2": 0.2}


@pytest.mark.parametrize("fold_in", ["mean", "propagate"])
def test_mean_by_hand(fold_in: str) -> None:
    model = served(**MEAN, fold_in=fold_in)
    queries = model.query_vectors(ASKED)
    for row, history in enumerate([[0, 3, 2], [6, 4], [1, 1]]):
        pairs = weighted(model.params, history)
        expected = sum(w * v for w, v in pairs) / sum(w for w, _ in pairs)
        np.testing.assert_allclose(queries[row], [*expected, 1], atol=1e-6)


def test_solved_by_hand() -> None:
    model = served(**SOLVE)
    queries = model.query_vectors(ASKED)
    table = TABLE.double().numpy()
    for row, history in enumerate([[0, 3, 2], [6, 4], [1, 1]]):
        pairs = weighted(model.params, history)
        normal = table.T @ table + 0.2 * np.eye(D) + sum(7 * w * np.outer(v, v) for w, v in pairs)
        expected = np.linalg.solve(normal, sum(8 * w * v for w, v in pairs))
        np.testing.assert_allclose(queries[row], [*expected, 1], atol=1e-5)


@pytest.mark.parametrize("params", [MEAN, SOLVE])
def test_nothing_known_is_answered_by_the_mean_user(params: dict[str, object]) -> None:
    model = served(**params)
    users = model.query_vectors(TRAIN.rows(np.array([0, 1, 2, 4]))).mean(axis=0)
    for query in model.query_vectors(ASKED)[3:]:
        np.testing.assert_allclose(query, users, atol=1e-6)


@pytest.mark.parametrize("params", [MEAN, SOLVE])
def test_an_item_without_training_is_below_all(params: dict[str, object]) -> None:
    items, _ = served(**params).recommend(ASKED, N_ITEMS, exclude_history=False)
    assert (items[:, -1] == 6).all()


def test_another_catalogue_is_refused(tmp_path: object) -> None:
    served().save(tmp_path)
    with pytest.raises(ArtifactError, match="was trained on 7 items, not 8"):
        Served.load(tmp_path, catalogue(8))


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        known_items(Histories.of([[], []]), 3)


def test_als_solves_for_users_as_implicit_does() -> None:
    pytest.importorskip("implicit", reason="ALS needs the extra 'als'")
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    rows = [rng.permutation(12)[:4].tolist() for _ in range(30)]
    model = ALS(ALSParams(d=4, iterations=5, confidence=10, l2=0.3))
    model.fit(split(Histories.of(rows), "full"), catalogue(13), 0)
    peer = AlternatingLeastSquares(factors=4, regularization=0.3, alpha=10.0)
    peer.item_factors = model.item_vectors()[:, :-1].copy()
    peer.user_factors = np.zeros((1, 4), np.float32)
    for row in rows[:5]:
        met = csr_matrix((np.ones(4, np.float32), ([0] * 4, row)), (1, 13))
        # It solves by a few steps of conjugate gradients unless told otherwise.
        peer.use_cg = False
        theirs = peer.recalculate_user(0, met)
        ours = model.query_vectors(Histories.of([row]))[0, :-1]
        np.testing.assert_allclose(ours, np.ravel(theirs), rtol=1e-3, atol=1e-4)


def test_als_finds_blocks() -> None:
    pytest.importorskip("implicit", reason="ALS needs the extra 'als'")
    rng = np.random.default_rng(0)
    blocks = rng.integers(4, size=200)
    rows = [(10 * block + rng.permutation(10)[:5]).tolist() for block in blocks]
    model = ALS(ALSParams(d=4, iterations=5))
    model.fit(split(Histories.of(rows), "full"), catalogue(40), 0)
    items, _ = model.recommend(Histories.of(rows), 5)
    assert (items // 10 == blocks[:, None]).mean() > 0.99


def test_als_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ArtifactError, match=r"needs the package 'implicit'.*pip install 'tessera\[als\]'"):
        factorise(TRAIN, N_ITEMS, D, 0, 1, 0.1, 1.0)
