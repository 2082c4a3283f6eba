from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from ml.artifacts import ArtifactError
from ml.tokenizers import build
from ml.tokenizers.items import ItemData
from ml.tokenizers.prism import category_nodes, evidence
from ml.tokenizers.report import prefix_purity
from tests.ml.tokenizers.samples import sample_items

_PARAMS: dict[str, Any] = {
    "levels": 3,
    "code_size": 12,
    "hidden": [32],
    "latent": 16,
    "warm_up": 10,
    "epochs": 20,
    "batch": 64,
    "lr": 0.005,
}
_RQVAE = _PARAMS | {"input": "fused"}


def _planted(noise: float, n: int = 400) -> tuple[ItemData, np.ndarray, np.ndarray]:
    """Four categories of three parts each, seen dimly in text and well in behaviour; half of the items are rare.

    ``noise`` is what the behaviour of rare items suffers. Returns items, which are rare, and their parts.
    """
    rng, plan = np.random.default_rng(0), np.random.default_rng(90)
    part = rng.integers(12, size=n)
    text = plan.normal(size=(12, 16))[part] + rng.normal(size=(n, 16))
    behaviour = plan.normal(size=(12, 6))[part] + 0.5 * rng.normal(size=(n, 6))
    rare = rng.random(n) < 0.5
    behaviour += np.where(rare, noise, 0)[:, None] * rng.normal(size=(n, 6))
    place = np.arange(n)
    pairs = csr_array((np.where(rare, 1.0, 20.0), (place, place)), shape=(n, n))
    fused = [block / block.std() for block in (text, behaviour)]
    spaces = {"text": text, "behaviour": behaviour, "fused": np.concatenate(fused, axis=1)}
    items = ItemData(
        [str(row) for row in place],
        {name: vectors.astype(np.float32) for name, vectors in spaces.items()},
        [[f"category {p // 3}", f"part {p}"] for p in part],
        pairs,
    )
    return items, rare, part


def _purity(codes: np.ndarray, labels: np.ndarray, length: int) -> float:
    report = prefix_purity(codes, [[str(label)] for label in labels], 0)
    return report[f"prefix_{length}"]["category_1"]["purity"]


def test_prefixes_are_purer_than_those_of_a_plain_rqvae_on_the_same_vectors() -> None:
    items, _, part = _planted(noise=2.0)
    plain, anchored = build("rqvae", _RQVAE), build("prism", _PARAMS | {"anchor": 0.3})
    codes = []
    for tokenizer in (plain, anchored):
        report = tokenizer.fit(items, 0)
        codes.append(tokenizer.encode(items))
    for length, labels in ((1, part // 3), (2, part)):
        assert _purity(codes[1], labels, length) > _purity(codes[0], labels, length) + 0.02
    assert report["anchors"] == [4, 12, 0]


def test_anchors_alone_make_prefixes_purer() -> None:
    items, _, part = _planted(noise=3)
    found = {}
    for anchor in (0.0, 0.3):
        tokenizer = build("prism", _PARAMS | {"anchor": anchor, "denoise": False})
        tokenizer.fit(items, 0)
        found[anchor] = _purity(tokenizer.encode(items), part // 3, 1)
    assert found[0.3] > found[0.0] + 0.02


def test_noise_in_rare_items_hurts_less_behind_the_gate() -> None:
    hurt = {}
    for denoise in (True, False):
        scores = []
        for noise in (0, 4):
            items, rare, part = _planted(noise)
            tokenizer = build("prism", _PARAMS | {"denoise": denoise, "anchor": 0})
            report = tokenizer.fit(items, 0)
            scores.append(_purity(tokenizer.encode(items)[rare], part[rare], 1))
        hurt[denoise] = scores[0] - scores[1]
        if denoise:
            assert report["gate"]["more_evidence"] > 2 * report["gate"]["less_evidence"]
            assert scores[1] > 0.5
        else:
            assert "gate" not in report
    assert hurt[False] > hurt[True] + 0.1


def test_what_is_switched_off_is_not_needed() -> None:
    items = sample_items(60)
    small = _PARAMS | {"code_size": 8, "epochs": 1, "warm_up": 1}
    with pytest.raises(ArtifactError, match="there are no transitions"):
        build("prism", small).fit(replace(items, pairs=None), 0)
    with pytest.raises(ArtifactError, match="there are no categories"):
        build("prism", small).fit(replace(items, categories=None), 0)
    report = build("prism", small | {"denoise": False, "anchor": 0}).fit(
        replace(items, pairs=None, categories=None), 0
    )
    assert report["anchors"] == []


def test_items_without_categories_or_history_take_part_in_the_rest() -> None:
    items = sample_items(120)
    behaviour = items.spaces["behaviour"].copy()
    behaviour[::3] = 0
    categories = [[] if row % 2 else names for row, names in enumerate(items.categories or [])]
    some = replace(items, spaces=items.spaces | {"behaviour": behaviour}, categories=categories)
    tokenizer = build("prism", _PARAMS | {"code_size": 8})
    report = tokenizer.fit(some, 0)
    assert (report["rows"], report["rows_with_behaviour"]) == (120, 80)
    assert report["anchors"] == [2, 6, 0]
    missed = ((tokenizer.decode(tokenizer.encode(some)) - items.spaces["text"]) ** 2).mean()
    assert missed < 0.5 * items.spaces["text"].var(axis=0).mean()


def test_nodes_by_hand() -> None:
    categories = [["all", "b", "x"], ["all", "a"], [], ["all", "a", "x"], ["all", "b", "x", "deep"]]
    named = ItemData(list("vwxyz"), categories=categories)
    nodes, sizes = category_nodes(named, 2)
    assert (nodes.tolist(), sizes) == ([[1, 1], [0, -1], [-1, -1], [0, 0], [1, 1]], [2, 2])
    rooted = ItemData(list("vwxy"), categories=[path for path in categories if path])
    nodes, sizes = category_nodes(rooted, 3)
    assert (nodes.tolist(), sizes) == ([[1, 1, -1], [0, -1, -1], [0, 0, -1], [1, 1, 0]], [2, 2, 1])
    same = ItemData(list("vw"), categories=[["a"], ["a"]])
    assert category_nodes(same, 1)[1] == [0]


def test_evidence_by_hand() -> None:
    pairs = csr_array(np.array([[0, 2.0, 0], [1.0, 0, 0], [0, 0, 0]]))
    found = evidence(ItemData(list("abc"), pairs=pairs))
    np.testing.assert_allclose(found, [0.5, 0.5, 0])
    assert evidence(ItemData(["a"], pairs=csr_array((1, 1)))).tolist() == [0]
