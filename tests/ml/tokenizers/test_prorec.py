from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ml.artifacts import ArtifactError
from ml.tokenizers import build
from ml.tokenizers.base import Scaler
from ml.tokenizers.domination import semantic_domination
from ml.tokenizers.items import ItemData
from ml.tokenizers.prorec import PRORec, neighbourhood_loss
from tests.ml.tokenizers.samples import sample_items

_PARAMS: dict[str, Any] = {
    "levels": 3,
    "code_size": 16,
    "hidden": [32],
    "latent": 16,
    "warm_up": 10,
    "epochs": 15,
    "batch": 64,
    "lr": 0.005,
}


def _independent(n: int = 400) -> ItemData:
    """Text of 32 columns and behaviour of 6, three hidden numbers behind each and nothing in common."""
    rng = np.random.default_rng(0)
    spaces = {}
    for name, width in (("text", 32), ("behaviour", 6)):
        hidden = np.tanh(rng.normal(size=(n, 3)) @ rng.normal(size=(3, width)))
        spaces[name] = (hidden + 0.1 * rng.normal(size=hidden.shape)).astype(np.float32)
    return ItemData([str(row) for row in range(n)], spaces)


def test_the_code_is_less_dominated_by_text_than_vectors_end_to_end() -> None:
    items, tokenizer = _independent(), build("prorec", _PARAMS)
    report = tokenizer.fit(items, 0)
    unified, joined = (report["semantic_domination"][name] for name in ("unified", "concatenated"))
    assert joined["domination"] > 0.75
    assert unified["domination"] == pytest.approx(0.5, abs=0.12)
    assert unified["behaviour"] > 1.5 * joined["behaviour"]
    assert 0 < report["residual"] < 0.5
    assert 0 < report["residual_behaviour"] < 0.5
    assert isinstance(tokenizer, PRORec)
    again = tokenizer.code_vectors(tokenizer.encode(items))
    assert semantic_domination(again, items.spaces["text"], items.spaces["behaviour"]) is not None
    shifted = [Scaler.of(items.spaces[name]).apply(items.spaces[name]) for name in ("text", "behaviour")]
    assert semantic_domination(again, *shifted) == unified


def test_items_without_history_are_placed_by_their_text() -> None:
    items = sample_items(300)
    tokenizer = build("prorec", _PARAMS | {"code_size": 8})
    report = tokenizer.fit(items, 0)
    assert report["rows_with_behaviour"] == 300
    new = sample_items(100, seed=3)
    blind = replace(new, spaces=new.spaces | {"behaviour": np.zeros_like(new.spaces["behaviour"])})
    seen, guessed = tokenizer.encode(new), tokenizer.encode(blind)
    # Clusters are the same in both spaces, so that the text tells the coarse code.
    assert (seen[:, 0] == guessed[:, 0]).mean() > 0.8
    error = ((tokenizer.decode(guessed) - new.spaces["text"]) ** 2).mean()
    assert error < 0.5 * new.spaces["text"].var(axis=0).mean()


def test_items_without_history_take_part_in_fitting() -> None:
    items = sample_items(120)
    behaviour = items.spaces["behaviour"].copy()
    behaviour[::2] = 0
    report = build("prorec", _PARAMS | {"code_size": 8}).fit(
        replace(items, spaces=items.spaces | {"behaviour": behaviour}), 0
    )
    assert (report["rows"], report["rows_with_behaviour"]) == (120, 60)
    with pytest.raises(ArtifactError, match="there are no items with 'behaviour' vectors"):
        build("prorec", _PARAMS).fit(replace(items, spaces=items.spaces | {"behaviour": behaviour * 0}), 0)


def test_a_warm_start_keeps_codes() -> None:
    items, params = sample_items(200), _PARAMS | {"code_size": 8}
    first = build("prorec", params)
    first.fit(items, 0)
    old = first.encode(items)
    later, warm, cold = sample_items(220, seed=0), build("prorec", params), build("prorec", params)
    later = replace(later, spaces={name: v.copy() for name, v in later.spaces.items()})
    warm.fit(later, 1, start=first)
    cold.fit(later, 1)
    kept, lost = ((t.encode(items)[:, 0] == old[:, 0]).mean() for t in (warm, cold))
    assert kept > 0.8
    assert kept > lost
    with pytest.raises(ArtifactError, match="other widths"):
        build("prorec", params | {"latent": 8}).fit(later, 1, start=first)


def test_neighbourhood_loss_equals_plain_loops_and_is_zero_for_the_same_neighbours() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(6, 3)), rng.normal(size=(6, 5))
    total = 0.0
    for row in range(6):
        others = [place for place in range(6) if place != row]
        near = []
        for m in (teacher, student):
            cosines = [m[row] @ m[o] / np.linalg.norm(m[row]) / np.linalg.norm(m[o]) for o in others]
            near.append(softmax(np.array(cosines) / 0.2))
        total += float((near[0] * np.log(near[0] / near[1])).sum())
    found = neighbourhood_loss(torch.tensor(student), torch.tensor(teacher), 0.2)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    same = neighbourhood_loss(torch.tensor(3 * teacher @ rotation), torch.tensor(teacher), 0.2)
    assert float(same) == pytest.approx(0, abs=1e-6)
    assert float(neighbourhood_loss(torch.tensor(student[:2]), torch.tensor(teacher[:2]), 0.2)) == 0
