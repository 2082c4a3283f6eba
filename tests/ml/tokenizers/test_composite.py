from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import ArtifactError
from ml.tokenizers import build
from ml.tokenizers.items import ItemData
from ml.tokenizers.lifecycle import assign_semantic_ids, fit_tokenizer, load_semantic_ids
from ml.tokenizers.recipes import load_tokenizer_recipe
from tests.ml.tokenizers.samples import sample_items

_PARTS = {
    "parts": [
        {"kind": "residual_kmeans", "params": {"input": "text", "levels": 2, "code_size": 8}},
        {"kind": "residual_kmeans", "params": {"input": "behaviour", "levels": 1, "code_size": 4}},
    ]
}
_HYBRID = {"parts": [{"kind": "category_index"}, {"kind": "sequential_index", "params": {"code_size": 999}}]}


def _partly_known() -> ItemData:
    items = sample_items()
    behaviour = items.space("behaviour").copy()
    behaviour[[3, 50]] = 0
    return replace(items, spaces={**items.spaces, "behaviour": behaviour})


def test_codes_are_those_of_the_parts_and_unknown_has_its_own() -> None:
    tokenizer = build("composite", _PARTS)
    items = _partly_known()
    tokenizer.fit(items, 0)
    codes = tokenizer.encode(items)
    assert tokenizer.code_sizes == (9, 9, 5)
    assert np.flatnonzero(codes[:, 2] == 4).tolist() == [3, 50]
    assert codes[:, :2].max() < 8
    np.testing.assert_array_equal(codes[:, :2], tokenizer.parts[0].encode(items))
    decoded = tokenizer.decode(codes)
    np.testing.assert_array_equal(decoded[:, :8], tokenizer.parts[0].decode(codes[:, :2]))
    assert decoded.shape == (200, 13)
    assert (decoded[[3, 50], 8:] == 0).all()
    assert (decoded[:3, 8:] != 0).any(axis=1).all()


def test_parts_learn_what_they_would_learn_alone_but_for_the_seed() -> None:
    tokenizer = build("composite", {"parts": [_PARTS["parts"][0]] * 2})
    tokenizer.fit(sample_items(), 0)
    first, second = (part.encode(sample_items()) for part in tokenizer.parts)
    assert (first != second).any()


def test_a_hybrid_is_a_path_and_a_number_of_its_own(tmp_path: Path) -> None:
    items = sample_items()
    folder = fit_tokenizer(items, "composite", _HYBRID, 0, {}, tmp_path / "tokenizers")
    first = assign_semantic_ids(folder, items, None, tmp_path / "ids")
    ids = load_semantic_ids(first)
    assert len(np.unique(ids.codes[:, 2])) == 200
    assert (ids.codes[:, 3] == 0).all()
    new = sample_items(3, seed=9)
    more = replace(items, item_ids=[*items.item_ids, *new.item_ids], spaces={}, pairs=None)
    more = replace(more, categories=[*items.categories, *new.categories])
    more = replace(more, first_seen=np.concatenate([items.first_seen, new.first_seen]))
    second = load_semantic_ids(assign_semantic_ids(folder, more, first, tmp_path / "ids"))
    assert second.codes[200:, 2].tolist() == [200, 200, 200]
    assert len(np.unique(second.codes, axis=0)) == 203
    with pytest.raises(ArtifactError, match="stand for no vector"):
        build("composite", _HYBRID).decode(second.codes)


def test_a_warm_start_is_passed_on() -> None:
    old, new, cold = (build("composite", _PARTS) for _ in range(3))
    items = sample_items()
    old.fit(items, 0)
    new.fit(items, 1, old)
    cold.fit(items, 1)
    assert (new.encode(items) == old.encode(items)).mean() > 0.95
    assert (cold.encode(items) == old.encode(items)).mean() < 0.6
    other = build("composite", _HYBRID)
    with pytest.raises(ArtifactError, match="has other parts"):
        other.fit(items, 0, old)


def test_wrong_parts_are_one_line_and_missing_params_are_filled_in() -> None:
    with pytest.raises(
        ArtifactError, match=r"composite: parameter 'parts.0': .*unknown tokenizer kind 'magic'"
    ):
        build("composite", {"parts": [{"kind": "magic"}]})
    with pytest.raises(ArtifactError, match="parameter 'level'"):
        build("composite", {"parts": [{"kind": "residual_kmeans", "params": {"level": 3}}]})
    with pytest.raises(ArtifactError, match="parameter 'parts'"):
        build("composite", {"parts": []})
    recipe = load_tokenizer_recipe("mscgrec")
    assert [part["params"]["input"] for part in recipe.params["parts"]] == ["text", "behaviour"]
    assert recipe.params["parts"][0]["params"]["code_size"] == 256
