"""What every tokenizer promises, asked of each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.artifacts import ArtifactError, hash_folder, read_json
from ml.tokenizers import build, kinds, tokenizer_class
from ml.tokenizers.base import CONFIG, Tokenizer
from ml.tokenizers.items import ItemData
from ml.tokenizers.lifecycle import fit_tokenizer, load_tokenizer
from ml.tokenizers.recipes import load_tokenizer_recipe, tokenizer_recipe_names
from tests.ml.tokenizers.samples import sample_items

_PAIRED = {"levels": 3, "code_size": 8, "hidden": [16], "latent": 8}
_PAIRED |= {"epochs": 20, "warm_up": 10, "batch": 64, "lr": 0.01}
# Small enough to fit in a second; every kind has its line.
_PARAMS: dict[str, dict[str, Any]] = {
    "category_index": {},
    "collaborative_index": {"levels": 3, "code_size": 3, "leaf": 5},
    "random_index": {"levels": 3, "code_size": 8},
    "sequential_index": {"code_size": 8},
    "composite": {
        "parts": [
            {"kind": "residual_kmeans", "params": {"input": "text", "levels": 2, "code_size": 8}},
            {"kind": "residual_kmeans", "params": {"input": "behaviour", "levels": 2, "code_size": 4}},
        ]
    },
    "fsq": {"codes": 2, "levels": [4, 3], "hidden": [16], "epochs": 120, "batch": 32, "lr": 0.01},
    "product_quantization": {"levels": 3, "code_size": 8, "rotation": True, "rotations": 5},
    "prism": _PAIRED,
    "prorec": _PAIRED,
    "residual_kmeans": {"levels": 3, "code_size": 8},
    "rqvae": {
        "levels": 3,
        "code_size": 8,
        "hidden": [16],
        "latent": 8,
        "epochs": 120,
        "warm_up": 20,
        "batch": 32,
        "lr": 0.01,
    },
    "setrec": {
        "levels": 3,
        "code_size": 8,
        "hidden": [16],
        "latent": 8,
        "epochs": 30,
        "batch": 64,
        "lr": 0.01,
    },
}
# Kinds whose codes come from no vectors.
_WITHOUT_VECTORS = {"category_index", "collaborative_index", "random_index", "sequential_index"}
# Kinds without code books to fill, so that any number of items will do.
_WITHOUT_BOOKS = {"composite", "fsq"} | _WITHOUT_VECTORS
# Kinds that leave nothing to chance.
_WITHOUT_CHANCE = {"category_index", "sequential_index"}
# Kinds that need to know nothing of an item but its ID.
_WITHOUT_NEEDS = {"random_index"}


@pytest.fixture(scope="module", params=kinds())
def fitted(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = build(request.param, _PARAMS[request.param])
    tokenizer.fit(sample_items(), seed=1)
    return tokenizer


def _spaces(tokenizer: Tokenizer) -> list[str]:
    parts = getattr(tokenizer, "parts", [tokenizer])
    return [part.params.input for part in parts]


def _with_vectors(tokenizer: Tokenizer) -> Tokenizer:
    if tokenizer.kind in _WITHOUT_VECTORS:
        pytest.skip("reads no vectors")
    return tokenizer


def test_same_seed_same_bytes_other_seed_other_bytes(fitted: Tokenizer, tmp_path: Path) -> None:
    def saved(seed: int, name: str) -> str:
        again = build(fitted.kind, _PARAMS[fitted.kind])
        again.fit(sample_items(), seed)
        (tmp_path / name).mkdir()
        again.save(tmp_path / name)
        return hash_folder(tmp_path / name)

    assert saved(1, "first") == saved(1, "again")
    if fitted.kind not in _WITHOUT_CHANCE:
        assert saved(1, "once more") != saved(2, "other")


def test_codes_stay_within_their_sizes(fitted: Tokenizer) -> None:
    codes = fitted.encode(sample_items())
    assert codes.shape == (200, len(fitted.code_sizes))
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert (codes.max(axis=0) < fitted.code_sizes).all()
    # All codes of an item say more than one of them.
    assert len(np.unique(codes, axis=0)) > max(len(np.unique(column)) for column in codes.T[:-1]) > 1


def test_codes_keep_most_of_the_vector(fitted: Tokenizer) -> None:
    items = sample_items()
    codes = fitted.encode(items)
    if not fitted.decodes:
        with pytest.raises(ArtifactError, match="stand for no vector"):
            fitted.decode(codes)
        return
    vectors = np.concatenate([items.space(name) for name in _spaces(fitted)], axis=1)
    decoded = fitted.decode(codes)
    assert decoded.shape == vectors.shape
    assert decoded.dtype == np.float32
    assert ((decoded - vectors) ** 2).mean() < 0.5 * vectors.var(axis=0).mean()


def test_saved_and_loaded_is_the_same(fitted: Tokenizer, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    assert read_json(tmp_path / CONFIG)["kind"] == fitted.kind
    loaded = tokenizer_class(fitted.kind).load(tmp_path)
    unseen = sample_items(50, seed=7)
    codes = fitted.encode(unseen)
    np.testing.assert_array_equal(loaded.encode(unseen), codes)
    assert loaded.code_sizes == fitted.code_sizes
    if fitted.decodes:
        np.testing.assert_array_equal(loaded.decode(codes), fitted.decode(codes))
    assert loaded.params == fitted.params


def test_unseen_items_get_codes_one_by_one_or_together(fitted: Tokenizer) -> None:
    unseen = sample_items(20, seed=5, scale=4)
    together = fitted.encode(unseen)
    assert (together.max(axis=0) < fitted.code_sizes).all()
    assert fitted.encode(unseen.take(np.arange(0))).shape == (0, len(fitted.code_sizes))
    if fitted.kind not in _WITHOUT_VECTORS:
        one_by_one = np.concatenate([fitted.encode(unseen.take(np.array([row]))) for row in range(20)])
        np.testing.assert_array_equal(one_by_one, together)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(fitted: Tokenizer, bad: float) -> None:
    items = sample_items(20)
    for vectors in _with_vectors(fitted) and items.spaces.values():
        vectors[3, 1] = bad
    with pytest.raises(ArtifactError, match=r"row 3 .* NaN or infinity"):
        fitted.encode(items)
    with pytest.raises(ArtifactError, match=r"row 3 .* NaN or infinity"):
        build(fitted.kind, _PARAMS[fitted.kind]).fit(items, 0)


def test_wrong_width_is_refused(fitted: Tokenizer) -> None:
    items = sample_items(20)
    narrow = replace(items, spaces={name: vectors[:, :-1] for name, vectors in items.spaces.items()})
    with pytest.raises(ArtifactError, match=r"width \d+; it was fitted on width \d+"):
        _with_vectors(fitted).encode(narrow)


def test_what_is_not_given_is_named(fitted: Tokenizer) -> None:
    if fitted.kind in _WITHOUT_NEEDS:
        pytest.skip("needs nothing")
    with pytest.raises(ArtifactError, match="there are no"):
        build(fitted.kind, _PARAMS[fitted.kind]).fit(ItemData(["a", "b"]), 0)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind not in _WITHOUT_BOOKS])
def test_fewer_items_than_codes_names_the_way_out(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="set code_size to 7 or less"):
        fit_tokenizer(sample_items(7), kind, _PARAMS[kind], 0, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    folder = fit_tokenizer(sample_items(7), kind, _PARAMS[kind] | {"code_size": 7}, 0, {}, tmp_path)
    assert load_tokenizer(folder).encode(sample_items(7)).max() < 7


@pytest.mark.parametrize("kind", kinds())
def test_duplicates_are_no_obstacle(kind: str) -> None:
    tokenizer = build(kind, _PARAMS[kind])
    items = sample_items(3).take(np.repeat(np.arange(3), 5))
    items = replace(items, item_ids=[f"i{place}" for place in range(15)])
    tokenizer.fit(items, 0)
    codes = tokenizer.encode(items)
    if kind not in _WITHOUT_VECTORS:
        np.testing.assert_array_equal(codes[0::5], codes[4::5])


@pytest.mark.parametrize("kind", kinds())
def test_not_fitted_is_said(kind: str, tmp_path: Path) -> None:
    tokenizer = build(kind, _PARAMS[kind])
    with pytest.raises(ArtifactError, match="not fitted"):
        tokenizer.encode(sample_items(3))
    with pytest.raises(ArtifactError, match="not fitted"):
        tokenizer.save(tmp_path)


def test_unknown_kind_or_parameter_is_one_line() -> None:
    with pytest.raises(ArtifactError, match=r"'magic'; known: .*residual_kmeans"):
        build("magic", {})
    with pytest.raises(ArtifactError, match="parameter 'codes'"):
        build("residual_kmeans", {"codes": 3})


@pytest.mark.parametrize("name", tokenizer_recipe_names())
def test_every_recipe_builds(name: str) -> None:
    recipe = load_tokenizer_recipe(name)
    assert build(recipe.kind, recipe.params).kind == recipe.kind


def test_every_kind_has_a_recipe() -> None:
    assert {load_tokenizer_recipe(name).kind for name in tokenizer_recipe_names()} == set(kinds())
