from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ml.tokenizers import build
from ml.tokenizers.setrec import SETRec, set_scores
from tests.ml.tokenizers.samples import sample_items

_PARAMS: dict[str, Any] = {
    "levels": 4,
    "code_size": 8,
    "hidden": [32],
    "latent": 6,
    "epochs": 30,
    "batch": 64,
    "lr": 0.01,
}


@pytest.fixture(scope="module")
def fitted() -> SETRec:
    tokenizer = build("setrec", _PARAMS)
    tokenizer.fit(sample_items(300), 0)
    assert isinstance(tokenizer, SETRec)
    return tokenizer


def test_the_order_of_tokens_makes_no_difference_to_scores(fitted: SETRec) -> None:
    vectors = fitted.token_vectors(sample_items(50))
    assert vectors.shape == (50, 4, 6)
    assert vectors.dtype == np.float32
    queries = np.random.default_rng(0).normal(size=(7, 4, 6)).astype(np.float32)
    by_hand = sum(queries[:, token] @ vectors[:, token].T for token in range(4))
    scores = set_scores(queries, vectors)
    np.testing.assert_allclose(scores, by_hand, rtol=1e-4, atol=1e-4)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(set_scores(queries[:, order], vectors[:, order]), scores, rtol=1e-4, atol=1e-4)
    assert np.abs(set_scores(queries[:, order], vectors) - scores).max() > 0.1
    assert not fitted.ordered


def test_each_token_is_rounded_to_its_own_code_book(fitted: SETRec, tmp_path: Any) -> None:
    items = sample_items(80, seed=4)
    fitted.save(tmp_path)
    books = load_file(tmp_path / "tokenizer.safetensors")["network.books"]
    vectors = fitted.token_vectors(items)
    for token in range(4):
        squares = ((vectors[:, token, None] - books[None, token]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(fitted.encode(items)[:, token], squares.argmin(axis=1))
    codes = fitted.encode(items)
    looked_up = np.stack([books[token][codes[:, token]] for token in range(4)], axis=1)
    np.testing.assert_array_equal(fitted.code_vectors(codes), looked_up.reshape(80, 24))


def test_only_the_first_token_is_of_behaviour(fitted: SETRec) -> None:
    items = sample_items(80)
    moved = replace(items, spaces=items.spaces | {"behaviour": items.spaces["behaviour"][::-1].copy()})
    before, after = fitted.token_vectors(items), fitted.token_vectors(moved)
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])
    np.testing.assert_array_equal(before[::-1, 0], after[:, 0])
    reworded = replace(items, spaces=items.spaces | {"text": items.spaces["text"][::-1].copy()})
    np.testing.assert_array_equal(fitted.token_vectors(reworded)[:, 0], before[:, 0])


def test_items_without_history_get_the_behaviour_that_their_text_foretells(fitted: SETRec) -> None:
    new = sample_items(100, seed=3)
    blind = replace(new, spaces=new.spaces | {"behaviour": np.zeros_like(new.spaces["behaviour"])})
    truth, guess = fitted.token_vectors(new)[:, 0], fitted.token_vectors(blind)[:, 0]
    assert ((truth - guess) ** 2).mean() < 0.5 * truth.var(axis=0).mean()


def test_the_report_says_what_is_lost() -> None:
    report = build("setrec", _PARAMS).fit(sample_items(300), 0)
    assert len(report["rounding"]) == 4
    assert all(0 < share < 0.6 for share in report["rounding"])
    assert 0 < report["residual"] < 0.3
    assert 0 < report["residual_behaviour"] < 0.3
    assert 0 < report["expected_behaviour"] < 0.6


def test_a_warm_start_keeps_codes() -> None:
    items, later = sample_items(200), sample_items(220)
    first, warm, cold = (build("setrec", _PARAMS) for _ in range(3))
    first.fit(items, 0)
    old = first.encode(items)
    warm.fit(later, 1, start=first)
    cold.fit(later, 1)
    kept, lost = ((tokenizer.encode(items) == old).mean() for tokenizer in (warm, cold))
    assert kept > 0.6
    assert kept > 2 * lost
