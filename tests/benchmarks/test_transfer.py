from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.transfer import same_codes, transfer
from ml.artifacts import ArtifactError
from ml.histories import Histories
from ml.recipes import load_recipe
from ml.snapshot import Catalogue

N_ITEMS = 24
FSQ = {"input": "text", "codes": 2, "levels": [4, 4], "epochs": 200, "hidden": [32], "batch": 24}


def make_catalogue(name: str, order: np.ndarray) -> Catalogue:
    """Items on a circle, whose text says where; the two catalogues hold them in different orders."""
    angle = 2 * np.pi * order / N_ITEMS
    text = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], axis=1)
    nothing, none = np.zeros((N_ITEMS, 0), np.float32), np.zeros((N_ITEMS, 0), np.int32)
    ids = [f"{name}{i:02d}" for i in range(N_ITEMS)]
    return Catalogue(ids, [""] * N_ITEMS, [[]] * N_ITEMS, nothing, none, (), None, text.astype(np.float32))


def make_histories(order: np.ndarray) -> Histories:
    """Everybody goes three places on along the circle."""
    where = np.argsort(order)
    walks = [[(user * 5 + 3 * step) % N_ITEMS for step in range(4 + user % 4)] for user in range(60)]
    return Histories.of([[int(where[place]) for place in walk] for walk in walks])


def test_what_was_learned_of_text_holds_for_items_never_seen() -> None:
    orders = [np.arange(N_ITEMS), np.random.default_rng(0).permutation(N_ITEMS)]
    logs = [
        (make_histories(order), make_catalogue(name, order)) for name, order in zip("ab", orders, strict=True)
    ]
    recommender = load_recipe("recgpt").recommender | {
        **{
            "d": 16,
            "length": 4,
            "dropout": 0.0,
            "epochs": 30,
            "patience": 30,
            "batch_tokens": 64,
            "warmup": 5,
        },
        "learning_rate": 1e-2,
        "backbone": {
            "kind": "decoder_only",
            "heads": 2,
            "head_width": 8,
            "feed_forward": 32,
            "within": "both",
        },
    }
    found = transfer(logs[0], logs[1], recommender, "fsq", FSQ, seed=0)
    assert found["target_items_with_an_id_of_the_source"] == 1
    assert found["target_codes_met_in_the_source"] == [1, 1]
    assert found["rows"]["transferred"]["ndcg@10"] > 0.8
    assert found["rows"]["text-similarity"]["ndcg@10"] < 0.6


def test_both_catalogues_get_the_codes_of_one_tokenizer() -> None:
    order = np.random.default_rng(1).permutation(N_ITEMS)
    source, target = make_catalogue("a", np.arange(N_ITEMS)), make_catalogue("b", order)
    target.text[3] = 0
    first, second = same_codes(source, target, "fsq", FSQ, 0)
    assert first.code_sizes == second.code_sizes
    assert first.tokenizer == second.tokenizer
    assert second.codes[3].tolist() == [-1] * 3
    rest = np.delete(np.arange(N_ITEMS), 3)
    np.testing.assert_array_equal(second.codes[rest, :2], first.codes[order[rest], :2])
    assert len(np.unique(first.codes, axis=0)) == N_ITEMS
    with pytest.raises(ArtifactError, match="one width are needed, not 4 and 0"):
        same_codes(source, replace(target, text=np.zeros((N_ITEMS, 0), np.float32)), "fsq", FSQ, 0)
