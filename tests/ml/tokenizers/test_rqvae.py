"""What the switches of RQ-VAE do; what every tokenizer promises is asked in test_tokenizer_contract.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from ml.artifacts import ArtifactError
from ml.tokenizers import build
from ml.tokenizers.base import MultiIdentifier
from ml.tokenizers.items import ItemData
from ml.tokenizers.report import code_usage, neighbour_overlap, uniqueness
from ml.tokenizers.rqvae import RQVAE, _codes
from tests.ml.tokenizers.samples import sample_items

_SMALL: dict[str, Any] = {
    "levels": 3,
    "code_size": 16,
    "hidden": [32],
    "latent": 16,
    "epochs": 40,
    "warm_up": 10,
    "batch": 64,
    "lr": 0.01,
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "rotation": {"gradient": "rotation"},
    "ema": {"books": "ema"},
    "residual vq": {"latent": None},
    "residual vq, ema": {"latent": None, "books": "ema"},
    "no k-means": {"kmeans_start": False},
    "letter": {"alignment": 0.1, "diversity": 0.001},
    "lc-rec": {"sinkhorn": 0.05, "reassign": True},
    "mtgrec": {"schedule": "constant", "checkpoints": 4},
    "utgrec": {"cooccurrence": 0.1, "cooccurrence_reconstruction": 0.1},
}


def _fit(items: ItemData, seed: int = 0, start: RQVAE | None = None, **params: Any) -> RQVAE:
    tokenizer = build("rqvae", _SMALL | params)
    assert isinstance(tokenizer, RQVAE)
    tokenizer.fit(items, seed, start)
    return tokenizer


def _planted(n: int = 400, groups: int = 20) -> tuple[ItemData, np.ndarray]:
    """Return items whose vectors say a lot about content and a little about the group that behaviour and transitions follow."""
    rng = np.random.default_rng(0)
    content, group = rng.integers(8, size=n), rng.integers(groups, size=n)
    vectors = rng.normal(size=(8, 16))[content] * 2 + rng.normal(size=(groups, 16))[group] * 1.5
    vectors = vectors + rng.normal(size=(n, 16)) * 0.5
    behaviour = rng.normal(size=(groups, 6))[group] * 2 + rng.normal(size=(n, 6)) * 0.3
    rows, columns = rng.integers(n, size=(2, 100 * n))
    near = group[rows] == group[columns]
    pairs = csr_array((np.ones(int(near.sum())), (rows[near], columns[near])), shape=(n, n))
    spaces = {"fused": vectors.astype(np.float32), "behaviour": behaviour.astype(np.float32)}
    return ItemData([f"i{place}" for place in range(n)], spaces, None, pairs), group


def _alike(tokenizer: RQVAE, items: ItemData, group: np.ndarray) -> float:
    """Return the share of items of one's own group among the nearest seven by quantised latent vectors."""
    import torch

    with torch.inference_mode():
        codes = torch.from_numpy(tokenizer.encode(items).astype(np.int64))
        latent = tokenizer._networks[-1].quantizer.vectors(codes).numpy()
    unit = latent / np.linalg.norm(latent, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :7]
    return float((group[near] == group[:, None]).mean())


@pytest.mark.parametrize("params", _VARIANTS.values(), ids=_VARIANTS.keys())
def test_every_variant_keeps_the_contract(params: dict[str, Any], tmp_path: Path) -> None:
    items, unseen = sample_items(), sample_items(30, seed=7)
    tokenizer, again = _fit(items, 1, **params), _fit(items, 1, **params)
    for name, each in (("first", tokenizer), ("second", again)):
        (tmp_path / name).mkdir()
        each.save(tmp_path / name)
    files = [(tmp_path / name / "tokenizer.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]
    loaded = RQVAE.load(tmp_path / "first")
    assert loaded.params == tokenizer.params
    for data in (items, unseen):
        codes = tokenizer.encode(data)
        np.testing.assert_array_equal(loaded.encode(data), codes)
        np.testing.assert_array_equal(loaded.encode_all(data), tokenizer.encode_all(data))
        np.testing.assert_array_equal(loaded.decode(codes), tokenizer.decode(codes))
    one_by_one = [tokenizer.encode(unseen.take(np.array([row]))) for row in range(30)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), tokenizer.encode(unseen))
    vectors = items.space("fused")
    missed = ((tokenizer.decode(tokenizer.encode(items)) - vectors) ** 2).mean()
    assert missed < 0.5 * vectors.var(axis=0).mean()


def test_the_report_tells_the_error_of_what_was_fitted() -> None:
    items = sample_items()
    tokenizer = build("rqvae", _SMALL)
    report = tokenizer.fit(items, 0)
    vectors = items.space("fused")
    missed = ((tokenizer.decode(tokenizer.encode(items)) - vectors) ** 2).mean()
    assert report["residual"] == pytest.approx(missed / vectors.var(axis=0).mean(), rel=1e-3)
    assert set(report["losses"]) == {"reconstruction", "commitment", "books"}


def test_dead_codes_come_back() -> None:
    items, _ = _planted()
    start = {"code_size": 32, "kmeans_start": False}
    without, with_reset = (_fit(items, reset_dead=reset, **start).encode(items) for reset in (False, True))
    used = [len(np.unique(codes[:, 0])) for codes in (without, with_reset)]
    assert used[0] < 25
    assert used[1] > 28


def test_residual_vq_is_near_residual_k_means() -> None:
    items, _ = _planted()
    plain = build("residual_kmeans", {"levels": 3, "code_size": 16})
    plain.fit(items, 0)
    errors = []
    for tokenizer in (plain, _fit(items, latent=None, books="ema"), _fit(items, latent=None, lr=1e-3)):
        decoded = tokenizer.decode(tokenizer.encode(items))
        errors.append(float(((decoded - items.space("fused")) ** 2).mean()))
    assert max(errors[1:]) < 1.1 * errors[0]


def test_alignment_brings_codes_nearer_to_behaviour() -> None:
    items, group = _planted()
    plain, aligned = _fit(items), _fit(items, alignment=1.0)
    assert _alike(aligned, items, group) > 1.5 * _alike(plain, items, group)
    overlap = [
        neighbour_overlap(items.space("behaviour"), tokenizer.decode(tokenizer.encode(items)), 0)
        for tokenizer in (plain, aligned)
    ]
    assert overlap[1] > 1.3 * overlap[0]  # type: ignore[operator]


def test_items_without_behaviour_are_no_obstacle_to_alignment() -> None:
    items, _ = _planted(100)
    behaviour = items.space("behaviour").copy()
    behaviour[::2] = 0
    items = replace(items, spaces={**items.spaces, "behaviour": behaviour})
    assert uniqueness(_fit(items, alignment=0.3).encode(items))["distinct"] > 80
    behaviour[:] = 0
    alone = _fit(items, alignment=0.3).encode(items)
    np.testing.assert_array_equal(alone, _fit(items, alignment=0.3).encode(items))


def test_diversity_spreads_items_over_codes() -> None:
    items, _ = _planted()
    # Where neither k-means nor the reset of dead codes has done it already.
    bare = {"code_size": 32, "kmeans_start": False, "reset_dead": False, "warm_up": 0, "levels": 2}
    perplexity = np.zeros(2)
    for seed in range(3):
        for place, weight in enumerate((0.0, 0.001)):
            codes = _fit(items, seed, diversity=weight, **bare).encode(items)
            perplexity[place] += code_usage(codes[:, 0], 32)["perplexity"]
    assert perplexity[1] > 1.1 * perplexity[0]


@pytest.mark.parametrize("switch", ["cooccurrence", "cooccurrence_reconstruction"])
def test_items_that_follow_each_other_get_codes_alike(switch: str) -> None:
    items, group = _planted()
    assert _alike(_fit(items, **{switch: 1.0}), items, group) > 1.3 * _alike(_fit(items), items, group)


def test_uniform_mapping_leaves_no_collision_and_uses_codes_alike() -> None:
    items, _ = _planted()
    few = {"levels": 2, "code_size": 48}
    plain, uniform = _fit(items, **few), _fit(items, **few, sinkhorn=0.05, reassign=True)
    codes = [tokenizer.encode(items) for tokenizer in (plain, uniform)]
    assert uniqueness(codes[0])["share_unique"] < 0.5
    assert uniqueness(codes[1])["share_unique"] == 1
    usage = [code_usage(each[:, -1], 48) for each in codes]
    assert usage[1]["perplexity"] > usage[0]["perplexity"]
    assert usage[1]["gini"] < 0.9 * usage[0]["gini"]


def test_reassigned_codes_belong_to_the_items_that_were_fitted() -> None:
    items, _ = _planted(200)
    tokenizer = _fit(items, levels=2, reassign=True)
    nearest, given = (
        _codes(tokenizer._trained()[-1], tokenizer._scaled(items)),
        tokenizer.encode(items),
    )
    moved = np.flatnonzero((nearest != given).any(axis=1))
    assert len(moved) > 5
    assert (nearest[:, :-1] == given[:, :-1]).all()
    # Items never seen, with the same vectors, get the nearest codes, and so do items whose vectors have moved on.
    others = replace(items, item_ids=[f"new {item}" for item in items.item_ids])
    np.testing.assert_array_equal(tokenizer.encode(others), nearest)
    shifted = items.take(np.roll(np.arange(200), 1))
    shifted = replace(shifted, item_ids=items.item_ids)
    differs = (np.roll(nearest, 1, axis=0) != nearest).any(axis=1)
    np.testing.assert_array_equal(tokenizer.encode(shifted)[differs], np.roll(nearest, 1, axis=0)[differs])


def test_checkpoints_are_further_identifiers() -> None:
    items = sample_items()
    tokenizer = _fit(items, schedule="constant", checkpoints=4)
    assert isinstance(tokenizer, MultiIdentifier)
    assert tokenizer.identifiers == 4
    codes = tokenizer.encode_all(items)
    assert codes.shape == (4, 200, 3)
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes[-1], tokenizer.encode(items))
    # Neighbouring epochs agree on most codes, though not on all.
    agree = [float((codes[place] == codes[-1]).mean()) for place in range(3)]
    assert all(0.5 < share < 1 for share in agree)
    # Another epoch of training is another state: the earliest of four is the end of a training that ends there.
    earlier = _fit(items, schedule="constant", epochs=37, reset_dead=False)
    all_four = _fit(items, schedule="constant", checkpoints=4, reset_dead=False)
    np.testing.assert_array_equal(all_four.encode_all(items)[0], earlier.encode(items))
    assert not isinstance(build("residual_kmeans", {}), MultiIdentifier)


def test_a_warm_start_keeps_most_codes() -> None:
    items = sample_items(400)
    before = _fit(items.take(np.arange(380)))
    warm, cold = _fit(items, 1, before), _fit(items, 1)
    codes = before.encode(items)
    changed = [float((each.encode(items) != codes).any(axis=1).mean()) for each in (warm, cold)]
    assert changed[0] < 0.5
    assert changed[1] > 0.9


def test_a_start_of_other_layers_is_refused() -> None:
    items = sample_items(60)
    before = _fit(items, epochs=1)
    with pytest.raises(ArtifactError, match="give it the same hidden and latent"):
        _fit(items, 0, before, latent=8)
    with pytest.raises(ArtifactError, match="cannot begin from"):
        _fit(items, 0, before, levels=2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"diversity": 0.1, "books": "ema"}, "^tokenizer rqvae: the diversity loss needs books"),
        ({"checkpoints": 301}, "fewer epochs than checkpoints"),
    ],
)
def test_what_does_not_go_together_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        build("rqvae", params)
