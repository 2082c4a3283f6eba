from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.artifacts import ArtifactError
from ml.tokenizers import build
from ml.tokenizers.items import ItemData, only_vectors
from tests.ml.tokenizers.samples import sample_items


def _spread(n: int = 2000, seed: int = 0) -> ItemData:
    """Items along eight directions of falling variance, more of them near the middle; clusters are not given."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(42).normal(size=(8, 16))
    latent = rng.normal(size=(n, 8)) * np.linspace(2, 0.5, 8) * rng.exponential(size=(n, 1))
    return only_vectors((latent @ axes + rng.normal(size=(n, 16)) * 0.2).astype(np.float32))


def test_balanced_levels_hold_like_numbers_of_items() -> None:
    items = _spread()
    fullest = {}
    for balanced in (False, True):
        tokenizer = build("residual_kmeans", {"levels": 2, "code_size": 16, "balanced": balanced})
        report = tokenizer.fit(items, 0)
        fullest[balanced] = report["fullest"]
        counts = [np.bincount(column, minlength=16) for column in tokenizer.encode(items).T]
        # What fitting reports is what encoding does.
        assert [count.max() / 125 for count in counts] == pytest.approx(report["fullest"])
        if balanced:
            assert min(count.min() for count in counts) > 110
            # Items that were not fitted come near to it, as they are of the same kind.
            unseen = tokenizer.encode(_spread(2000, 1))
            assert np.bincount(unseen[:, 0], minlength=16).max() < 1.35 * 125
    assert min(fullest[False]) > 1.25 > 1.1 > max(fullest[True])


@pytest.mark.parametrize("more", [{}, {"balanced": True}, {"batch": 200, "iterations": 4}])
def test_a_warm_start_changes_few_ids(more: dict[str, object]) -> None:
    params = {"levels": 3, "code_size": 16, **more}
    today = _spread()
    tomorrow = only_vectors(np.concatenate([today.space("fused"), _spread(40, 5).space("fused")]))
    old = build("residual_kmeans", params)
    old.fit(today, 0)
    changed = {}
    for name, start in (("warm", old), ("cold", None)):
        new = build("residual_kmeans", params)
        report = new.fit(tomorrow, 1, start)
        assert report["residual"][-1] < report["residual"][0] < 0.7
        changed[name] = (new.encode(today) != old.encode(today)).any(axis=1).mean()
    assert changed["warm"] < 0.6 < 0.95 < changed["cold"]


def test_mini_batches_see_every_item_and_lloyd_a_sample() -> None:
    items = _spread()
    sampled = build("residual_kmeans", {"levels": 1, "code_size": 4, "rows_per_code": 100}).fit(items, 0)
    whole = build("residual_kmeans", {"levels": 1, "code_size": 4, "rows_per_code": 100, "batch": 100})
    assert (sampled["sampled"], whole.fit(items, 0)["sampled"]) == (400, 2000)


def test_fitting_leaves_the_items_as_they_were() -> None:
    items = sample_items()
    before = items.space("fused").copy()
    tokenizer = build("residual_kmeans", {"levels": 2, "code_size": 4})
    tokenizer.fit(items, 0)
    tokenizer.encode(items)
    np.testing.assert_array_equal(items.space("fused"), before)


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(ArtifactError, match="set batch to 0"):
        build("residual_kmeans", {"balanced": True, "batch": 10})
    old = build("residual_kmeans", {"levels": 2, "code_size": 4})
    old.fit(sample_items(), 0)
    with pytest.raises(ArtifactError, match="cannot begin from residual_kmeans"):
        build("residual_kmeans", {"levels": 3, "code_size": 4}).fit(sample_items(), 0, old)
    narrow = replace(sample_items(), spaces={"fused": sample_items().space("fused")[:, :5]})
    with pytest.raises(ArtifactError, match="width 5; the tokenizer to begin from has 12"):
        build("residual_kmeans", {"levels": 2, "code_size": 4}).fit(narrow, 0, old)
