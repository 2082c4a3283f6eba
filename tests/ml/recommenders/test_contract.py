"""What every recommender must do, asked of every recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_language_models import tiny_language_model

from ml.evaluation.evaluate import evaluate
from ml.evaluation.splits import split
from ml.histories import Histories
from ml.recipes import load_recipe, recipe_names
from ml.recommenders import build, load_recommender
from ml.recommenders.base import Recommender
from ml.snapshot import Catalogue

#: Parameters that make a recipe small enough for a test.
SMALL: dict[str, dict[str, Any]] = {
    "sequential": {
        "d": 16,
        "max_length": 6,
        "epochs": 12,
        "batch_tokens": 64,
        "warmup": 5,
        "precision": "32-true",
        "learning_rate": 0.01,
    },
    "lightgcn": {"d": 16, "epochs": 16, "batch_size": 64, "warmup": 5, "learning_rate": 0.03, "l2": 1.0},
    "generative": {
        **{"d": 16, "length": 6, "epochs": 24, "evaluate_every": 4, "batch_tokens": 64, "warmup": 5},
        **{"learning_rate": 0.01, "precision": "32-true"},
    },
    "language_model": {
        **{"length": 3, "titles": 1, "title_tokens": 6, "tasks": ["title_to_id"], "beam": 24, "epochs": 24},
        **{
            "evaluate_every": 6,
            "batch_tokens": 48,
            "warmup": 5,
            "learning_rate": 0.01,
            "precision": "32-true",
        },
    },
}

#: The same of parts, by their kind.
SMALL_PARTS: dict[str, dict[str, Any]] = {
    "encoder_decoder": {
        "heads": 2,
        "head_width": 8,
        "feed_forward": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
    },
    "decoder_only": {"heads": 2, "head_width": 8, "feed_forward": 32, "layers": 1},
    "autoregressive": {"beam": 24},
    "sparse_dense": {"beam": 24},
    "disentangled": {"heads": 2, "head_width": 8, "feed_forward": 32},
    "text": {"view": "vectors"},
}

#: Packages of an extra, without which a kind cannot be trained.
EXTRAS = {"als": "implicit", "language_model": "transformers"}


def small(config: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Shrink a recommender and, where it is made of others, each of them."""
    if "parts" in config:
        config = {**config, "parts": [small(part, params) for part in config["parts"]]}
    if package := EXTRAS.get(config["kind"]):
        pytest.importorskip(package, reason=f"{config['kind']} is trained by the package {package}")
    if config["kind"] == "language_model":
        config = {**config, "model": str(tiny_language_model())}
    asked = {name: value for name, value in params.items() if name in config}
    parts = {
        name: {**part, **SMALL_PARTS.get(part.get("kind"), {})}
        for name, part in config.items()
        if isinstance(part, dict)
    }
    return {**config, **parts, **SMALL.get(config["kind"], {}), **asked}


def fresh(recipe: str, **params: Any) -> Recommender:
    return build(small(load_recipe(recipe).recommender, params))


@pytest.fixture(scope="module", params=recipe_names())
def recipe(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(recipe: str, histories: Histories, catalogue: Catalogue) -> Recommender:
    made = fresh(recipe)
    made.fit(split(histories, "leave_one_out"), catalogue, seed=3)
    return made


def saved(recommender: Recommender, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    recommender.save(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("k", [1, 10, 30])
def test_output_is_valid(fitted: Recommender, histories: Histories, catalogue: Catalogue, k: int) -> None:
    parts = split(histories, "leave_one_out")
    items, scores = fitted.recommend(parts.test.histories, k)
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    seen = evaluate(fitted, parts.test, parts.train, len(catalogue), k=k, batch=7)
    assert seen.invalid == 0, seen.checks
    assert np.array_equal(items == -1, scores == -np.inf)
    falling_or_equal = (
        (scores[:, 1:] < scores[:, :-1]) | (items[:, 1:] > items[:, :-1]) | (items[:, 1:] == -1)
    )
    assert falling_or_equal.all()


def test_more_than_the_catalogue_is_padded(fitted: Recommender, catalogue: Catalogue) -> None:
    n = len(catalogue)
    history = Histories.of([[2, 3, 4], [1]])
    items, scores = fitted.recommend(history, n + 4)
    assert items.shape == scores.shape == (2, n + 4)
    assert sorted(items[0]) == [-1] * 7 + [i for i in range(n) if i not in (2, 3, 4)]
    assert (items[0, -7:] == -1).all()
    everything, _ = fitted.recommend(history, n + 4, exclude_history=False)
    assert sorted(everything[0]) == [-1] * 4 + list(range(n))


def test_without_history(fitted: Recommender, catalogue: Catalogue) -> None:
    items, scores = fitted.recommend(Histories.of([[], [3], []]), 5)
    assert ((items >= 0) & (items < len(catalogue))).all()
    assert np.isfinite(scores).all()
    assert items[0].tolist() == items[2].tolist()
    nobody, _ = fitted.recommend(Histories.of([]), 5)
    assert nobody.shape == (0, 5)


def test_company_does_not_matter(fitted: Recommender, histories: Histories) -> None:
    together = fitted.recommend(histories, 5)
    for user in range(0, len(histories), 9):
        alone = fitted.recommend(histories.rows(slice(user, user + 1)), 5)
        np.testing.assert_allclose(alone[1][0], together[1][user], rtol=1e-4, atol=1e-5)
        if np.diff(together[1][user]).max() < -1e-3:
            assert alone[0][0].tolist() == together[0][user].tolist()


def test_save_and_load(
    fitted: Recommender, histories: Histories, catalogue: Catalogue, tmp_path: Path
) -> None:
    first = saved(fitted, tmp_path / "a")
    loaded = load_recommender(tmp_path / "a", catalogue)
    assert type(loaded) is type(fitted)
    for told, expected in zip(loaded.recommend(histories, 8), fitted.recommend(histories, 8), strict=True):
        np.testing.assert_array_equal(told, expected)
    assert saved(loaded, tmp_path / "b") == first
    assert all(name.endswith((".safetensors", ".json")) for name in first)


def test_same_seed_same_bytes_and_nothing_else_touched(
    recipe: str, fitted: Recommender, histories: Histories, catalogue: Catalogue, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = fresh(recipe)
    again.fit(split(histories, "leave_one_out"), catalogue, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert saved(again, tmp_path / "a") == saved(fitted, tmp_path / "b")


@pytest.mark.parametrize("protocol", ["leave_one_out", "temporal"])
def test_planted_test_events_are_not_seen(
    recipe: str, histories: Histories, catalogue: Catalogue, tmp_path: Path, protocol: Any
) -> None:
    """Whatever happened in the test period, the model is the same; had it trained on all of it, it is not."""
    position = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], histories.lengths)
    # Test events: the last of each user, and under the temporal protocol whatever comes late enough.
    real = replace(histories, times=position * 10 + histories.users % 10)
    late = {
        "leave_one_out": position == np.repeat(histories.lengths, histories.lengths) - 1,
        "temporal": real.times >= np.sort(real.times)[int(0.9 * len(real.times))],
    }[protocol]
    other = replace(real, items=np.where(late, 5, real.items).astype(np.int32))
    models = [fresh(recipe, epochs=2) for _ in range(4)]
    for model, (events, name) in zip(
        models, [(real, protocol), (other, protocol), (real, "full"), (other, "full")], strict=True
    ):
        model.fit(split(events, name), catalogue, seed=0)
    files = [saved(model, tmp_path / str(i)) for i, model in enumerate(models)]
    assert files[0] == files[1]
    assert files[2] != files[3]


def test_vectors_are_the_scores(fitted: Recommender, histories: Histories, catalogue: Catalogue) -> None:
    vectors, queries = fitted.item_vectors(), fitted.query_vectors(histories)
    if vectors is not None:
        assert vectors.dtype == np.float32
        assert len(vectors) == len(catalogue)
    if queries is None:
        return
    assert vectors is not None
    assert queries.dtype == np.float32
    items, scores = fitted.recommend(histories, len(catalogue), exclude_history=False)
    product = np.take_along_axis(queries @ vectors.T, items, axis=1)
    np.testing.assert_allclose(product, scores, rtol=1e-4, atol=1e-4)


def test_what_comes_next_is_found(
    recipe: str, fitted: Recommender, histories: Histories, catalogue: Catalogue
) -> None:
    """The next item on the ring is what a recommender that reads histories should say; chance is 3 in 20."""
    parts = split(histories, "leave_one_out")
    items, _ = fitted.recommend(parts.test.histories, 3)
    following = (parts.test.histories.items[parts.test.histories.offsets[1:] - 1] + 1) % 23
    found = (items == following[:, None]).any(axis=1).mean()
    if recipe in ("popularity", "text-similarity"):
        assert found < 0.3, "the ring is in the order of histories alone"
    else:
        assert found > 0.5
