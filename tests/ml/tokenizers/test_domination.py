from __future__ import annotations

import numpy as np
import pytest

from ml.tokenizers.domination import semantic_domination


def test_from_text_alone_to_behaviour_alone() -> None:
    rng = np.random.default_rng(0)
    text, behaviour = rng.normal(size=(2, 500, 6)).astype(np.float32)
    only_text = semantic_domination(text, text, behaviour)
    assert only_text is not None
    assert only_text["text"] == pytest.approx(1, abs=1e-3)
    assert only_text["behaviour"] == pytest.approx(10 / 499, abs=0.02)
    assert only_text["domination"] == only_text["text"] / (only_text["text"] + only_text["behaviour"])
    only_behaviour = semantic_domination(behaviour, text, behaviour)
    assert only_behaviour is not None
    assert only_behaviour["domination"] == pytest.approx(1 - only_text["domination"], abs=0.02)
    both = semantic_domination(np.concatenate([text, behaviour], axis=1), text, behaviour)
    assert both is not None
    assert both["domination"] == pytest.approx(0.5, abs=0.05)


def test_the_longer_vector_dominates() -> None:
    rng = np.random.default_rng(0)
    text, behaviour = (rng.normal(size=(500, width)).astype(np.float32) for width in (12, 4))
    joint = semantic_domination(np.concatenate([text, behaviour], axis=1), text, behaviour)
    assert joint is not None
    assert joint["domination"] > 0.6


def test_too_few_items_say_nothing() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    assert semantic_domination(vectors, vectors, vectors) is None
