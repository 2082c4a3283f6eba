"""What every tokenizer promises, asked of each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.artifacts import ArtifactError, read_json
from ml.tokenizers import build, kinds, tokenizer_class
from ml.tokenizers.base import CONFIG, Tokenizer
from ml.tokenizers.lifecycle import fit_tokenizer, load_tokenizer

_PARAMS: dict[str, dict[str, Any]] = {
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
}


def _vectors(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(6, 12)) * 3
    return (centres[rng.integers(6, size=n)] + rng.normal(size=(n, 12)) + 5).astype(np.float32)


@pytest.fixture(scope="module", params=kinds())
def fitted(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = build(request.param, _PARAMS[request.param])
    tokenizer.fit(_vectors(200), seed=1)
    return tokenizer


def test_same_seed_same_bytes_other_seed_other_bytes(fitted: Tokenizer, tmp_path: Path) -> None:
    def saved(seed: int) -> bytes:
        again = build(fitted.kind, _PARAMS[fitted.kind])
        again.fit(_vectors(200), seed)
        again.save(tmp_path)
        return (tmp_path / "tokenizer.safetensors").read_bytes()

    assert saved(1) == saved(1)
    assert saved(1) != saved(2)


def test_codes_keep_most_of_the_vector(fitted: Tokenizer) -> None:
    vectors = _vectors(200)
    codes = fitted.encode(vectors)
    assert codes.shape == (200, 3)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < 8
    decoded = fitted.decode(codes)
    assert decoded.shape == vectors.shape
    assert decoded.dtype == np.float32
    assert ((decoded - vectors) ** 2).mean() < 0.5 * vectors.var(axis=0).mean()
    # Each level adds something: the first code alone is worse.
    assert len(np.unique(codes, axis=0)) > len(np.unique(codes[:, :1], axis=0)) > 3


def test_saved_and_loaded_is_the_same(fitted: Tokenizer, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    assert read_json(tmp_path / CONFIG)["kind"] == fitted.kind
    loaded = tokenizer_class(fitted.kind).load(tmp_path)
    codes = fitted.encode(_vectors(50, seed=7))
    np.testing.assert_array_equal(loaded.encode(_vectors(50, seed=7)), codes)
    np.testing.assert_array_equal(loaded.decode(codes), fitted.decode(codes))
    assert loaded.params == fitted.params


def test_unseen_items_get_codes_one_by_one_or_together(fitted: Tokenizer) -> None:
    unseen = _vectors(20, seed=5) * 4
    together = fitted.encode(unseen)
    assert together.max() < 8
    one_by_one = np.concatenate([fitted.encode(row[None]) for row in unseen])
    np.testing.assert_array_equal(one_by_one, together)
    assert fitted.encode(unseen[:0]).shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(fitted: Tokenizer, bad: float) -> None:
    vectors = _vectors(20)
    vectors[3, 1] = bad
    with pytest.raises(ArtifactError, match=r"row 3 .* NaN or infinity"):
        fitted.encode(vectors)
    with pytest.raises(ArtifactError, match=r"row 3 .* NaN or infinity"):
        build(fitted.kind, _PARAMS[fitted.kind]).fit(vectors, 0)


def test_wrong_width_is_refused(fitted: Tokenizer) -> None:
    with pytest.raises(ArtifactError, match="width 11; it was fitted on width 12"):
        fitted.encode(_vectors(20)[:, :11])


@pytest.mark.parametrize("kind", kinds())
def test_fewer_items_than_codes_names_the_way_out(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="set code_size to 7 or less"):
        fit_tokenizer(_vectors(7), kind, _PARAMS[kind], 0, {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    folder = fit_tokenizer(_vectors(7), kind, _PARAMS[kind] | {"code_size": 7}, 0, {}, tmp_path)
    assert load_tokenizer(folder).encode(_vectors(7)).max() < 7


@pytest.mark.parametrize("kind", kinds())
def test_duplicates_and_constant_vectors_are_no_obstacle(kind: str) -> None:
    tokenizer = build(kind, _PARAMS[kind])
    vectors = np.repeat(_vectors(3), 5, axis=0)
    tokenizer.fit(vectors, 0)
    codes = tokenizer.encode(vectors)
    np.testing.assert_array_equal(codes[0::5], codes[4::5])


@pytest.mark.parametrize("kind", kinds())
def test_not_fitted_is_said(kind: str, tmp_path: Path) -> None:
    tokenizer = build(kind, _PARAMS[kind])
    with pytest.raises(ArtifactError, match="not fitted"):
        tokenizer.encode(_vectors(3))
    with pytest.raises(ArtifactError, match="not fitted"):
        tokenizer.save(tmp_path)


def test_unknown_kind_or_parameter_is_one_line() -> None:
    with pytest.raises(ArtifactError, match="'opq'; known: residual_kmeans, rqvae"):
        build("opq", {})
    with pytest.raises(ArtifactError, match="parameter 'codes'"):
        build("residual_kmeans", {"codes": 3})
