from __future__ import annotations

import numpy as np
import pytest

from ml.artifacts import ArtifactError
from ml.tokenizers import build, tokenizer_class
from ml.tokenizers.items import ItemData, only_vectors
from ml.tokenizers.product_quantization import ProductQuantization, _spread_rotation
from ml.tokenizers.report import reconstruction_error


def _low_dimensional(n: int = 800, width: int = 24, seed: int = 0) -> ItemData:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(42).normal(size=(width, 6)))[0].T
    latent = rng.normal(size=(n, 6)) * np.linspace(6, 2, 6)
    return only_vectors((latent @ axes + rng.normal(size=(n, width)) * 0.1).astype(np.float32))


def _fitted(items: ItemData, **params: object) -> ProductQuantization:
    tokenizer = build("product_quantization", {"levels": 3, "code_size": 16, **params})
    tokenizer.fit(items, 0)
    assert isinstance(tokenizer, ProductQuantization)
    return tokenizer


def test_each_block_is_quantised_on_its_own_to_the_nearest_of_its_book() -> None:
    items = _low_dimensional(width=23)
    tokenizer = _fitted(items)
    vectors = tokenizer._fitted().apply(items.space("fused"))
    blocks = tokenizer._blocks(23)
    assert [(block.start, block.stop) for block in blocks] == [(0, 7), (7, 15), (15, 23)]
    codes = tokenizer.encode(items)
    for place, block in enumerate(blocks):
        squares = ((vectors[:, None, block] - tokenizer._books[None, :, block]) ** 2).sum(axis=2)
        chosen = squares[np.arange(len(items)), codes[:, place]]
        np.testing.assert_allclose(chosen, squares.min(axis=1), rtol=1e-3, atol=1e-4)


def test_the_rotation_is_orthogonal_and_loses_less() -> None:
    items = _low_dimensional()
    vectors = items.space("fused")
    plain, turned = _fitted(items), _fitted(items, rotation=True)
    np.testing.assert_allclose(turned._rotation @ turned._rotation.T, np.eye(24), atol=1e-5)
    errors = [reconstruction_error(vectors, one.encode(items), one.decode) for one in (plain, turned)]
    assert errors[1] < 0.6 * errors[0]


def test_rounds_of_rotation_improve_on_their_start() -> None:
    items = _low_dimensional()
    vectors = items.space("fused")
    once, often = _fitted(items, rotation=True, rotations=1), _fitted(items, rotation=True, rotations=30)
    errors = [reconstruction_error(vectors, one.encode(items), one.decode) for one in (once, often)]
    assert errors[1] < errors[0]


def test_what_is_reported_is_what_decoding_misses() -> None:
    items = _low_dimensional()
    tokenizer = build("product_quantization", {"levels": 4, "code_size": 8, "rotation": True})
    report = tokenizer.fit(items, 0)
    missed = reconstruction_error(items.space("fused"), tokenizer.encode(items), tokenizer.decode)
    assert report["residual"] == pytest.approx(missed, rel=1e-3)
    assert sum(report["blocks"]) / 24 == pytest.approx(report["residual"])


def test_axes_are_dealt_so_that_blocks_have_like_products_of_variances() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([8, 4, 4, 2], np.float32)
    vectors = (rng.normal(size=(4000, 4)) * scales).astype(np.float32)
    rotation = _spread_rotation(vectors, [2, 2])
    # 8 with 2, and 4 with 4.
    spread = (vectors @ rotation).std(axis=0)
    np.testing.assert_allclose(spread, [8, 2, 4, 4], rtol=0.1)


def test_a_warm_start_changes_few_codes() -> None:
    items = _low_dimensional()
    old = _fitted(items, rotation=True)
    more = only_vectors(np.concatenate([items.space("fused"), _low_dimensional(20, seed=3).space("fused")]))
    params = {"levels": 3, "code_size": 16, "rotation": True}
    changed = []
    for start in (old, None):
        new = build("product_quantization", params)
        new.fit(more, 1, start)
        changed.append((new.encode(items) != old.encode(items)).mean())
    assert changed[0] < 0.2 < 0.8 < changed[1]
    with pytest.raises(ArtifactError, match="with a rotation cannot begin from codes without"):
        build("product_quantization", params).fit(items, 0, _fitted(items))


def test_codes_are_unordered_and_need_a_column_each() -> None:
    assert not tokenizer_class("product_quantization").ordered
    with pytest.raises(ArtifactError, match="24 columns cannot be cut into 25 blocks"):
        _fitted(_low_dimensional(), levels=25)
