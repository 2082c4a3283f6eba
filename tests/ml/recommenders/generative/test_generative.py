from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.network import Decoding, Network
from ml.recommenders.generative.objectives.autoregressive import Autoregressive
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import read, shake

N_ITEMS = 24
SMALL: dict[str, Any] = {"d": 16, "length": 5, "dropout": 0.0}
SIZES = {"heads": 2, "head_width": 8, "feed_forward": 32}


def shape(backbone: dict[str, Any], merge: bool, **changes: Any) -> GenerativeParams:
    return GenerativeParams.model_validate(
        SMALL | {"backbone": SIZES | backbone, "tokens": {"kind": "codes", "merge": merge}} | changes
    )


BACKBONES: list[dict[str, Any]] = [
    {"kind": "encoder_decoder", "causal": True},
    {"kind": "encoder_decoder", "causal": False},
    {"kind": "decoder_only"},
    {"kind": "decoder_only", "within": "both"},
]
NETWORKS = list(itertools.product(BACKBONES, [True, False]))
WIDE = {"kind": "autoregressive", "beam": N_ITEMS}


def make_catalogue(n: int = N_ITEMS, seed: int = 0) -> Catalogue:
    every = np.array(list(itertools.product(range(4), range(4), range(3))), np.int32)
    codes = every[np.random.default_rng(seed).permutation(len(every))[:n]]
    return Catalogue(
        [f"i{i}" for i in range(n)], [""] * n, [[]] * n, np.zeros((n, 0), np.float32), codes, (4, 4, 3)
    )


def make_histories(n_users: int = 60, cycle: int = 20) -> Histories:
    """Every user walks the same circle of items, from a place of their own."""
    return Histories.of(
        [[(user * 7 + step) % cycle for step in range(5 + user % 6)] for user in range(n_users)]
    )


@pytest.fixture(scope="module")
def parts() -> Split:
    return split(make_histories(), "leave_one_out")


def make_network(seed: int = 0, **changes: Any) -> tuple[Generative, Network, Catalogue]:
    torch.manual_seed(seed)
    catalogue = make_catalogue()
    params = changes.pop("params", None) or shape({"kind": "encoder_decoder"}, True, **changes)
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    shake(network)
    made = Generative(params)
    made.network = network.eval()
    return made, made.network, catalogue


def log_probabilities(network: Network, history: list[int]) -> np.ndarray:
    """Score every item with the training pass, one after the other."""
    scores = []
    with torch.no_grad():
        memory = network.read(read(history))
        at = torch.tensor([[min(len(history), 5)]])
        for item in range(N_ITEMS):
            states = network.states(memory, at, torch.tensor([[item]]))
            assert isinstance(network.objective, Autoregressive)
            chosen = network.objective.chosen(network, states[0], network.trie.place[[item]])
            scores.append(float(chosen.sum()))
    return np.array(scores)


@pytest.mark.parametrize(("backbone", "merge"), NETWORKS, ids=str)
@pytest.mark.parametrize("history", [[], [3], [5, 1, 9], [4, 8, 2, 0, 11]], ids=str)
def test_recommendations_equal_exact_scores(
    backbone: dict[str, Any], merge: bool, history: list[int]
) -> None:
    made, network, _ = make_network(params=shape(backbone, merge, objective=WIDE))
    exact = log_probabilities(network, history)
    np.testing.assert_allclose(np.exp(exact).sum(), 1, rtol=1e-4)
    # Another user beside it, of another length, must not matter.
    items, scores = made.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-exact, kind="stable"))
    np.testing.assert_allclose(scores[0], np.sort(exact)[::-1], atol=1e-4)
    items, _ = made.recommend(Histories.of([history]), 10)
    expected = [item for item in np.argsort(-exact, kind="stable") if item not in history]
    np.testing.assert_array_equal(items[0], expected[:10])


@pytest.mark.parametrize(("backbone", "merge"), [n for n in NETWORKS if n[0].get("causal", True)], ids=str)
def test_one_causal_reading_equals_reading_anew_for_every_target(
    backbone: dict[str, Any], merge: bool
) -> None:
    _, network, _ = make_network(params=shape(backbone, merge))
    row = [7, 3, 9, 1, 0, 5]
    targets = torch.tensor([row[1:]])
    with torch.no_grad():
        sequences = read(row[:5])
        together = network.states(network.read(sequences), *network.asked(sequences, targets))
        for place in range(5):
            memory = network.read(read(row[: place + 1]))
            alone = network.states(memory, torch.tensor([[place + 1]]), targets[:, place : place + 1])
            torch.testing.assert_close(alone[0, 0], together[0, place], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("backbone", "merge"), NETWORKS, ids=str)
def test_order_matters_and_padding_does_not(backbone: dict[str, Any], merge: bool) -> None:
    _, network, _ = make_network(params=shape(backbone, merge))
    with torch.no_grad():
        one = Decoding(network, read([4, 6])).start()
        wider = Decoding(network, read([4, 6], [1, 2, 3, 4, 5])).start()[:1]
        turned = Decoding(network, read([6, 4])).start()
    torch.testing.assert_close(one, wider, atol=1e-5, rtol=1e-5)
    assert (one - turned).abs().max() > 1e-2


@pytest.mark.parametrize("normalise", ["trie", "vocabulary", "table"])
@pytest.mark.parametrize("backbone", [BACKBONES[1], BACKBONES[2]], ids=str)
def test_an_exact_search_equals_a_beam_of_all_items(backbone: dict[str, Any], normalise: str) -> None:
    wide, exact = (
        make_network(
            params=shape(backbone, False, objective=WIDE | {"normalise": normalise, "search": search})
        )[0]
        for search in ("beam", "exact")
    )
    histories = Histories.of([[3], [], [4, 8, 2, 0, 11]])
    for k in (5, N_ITEMS):
        (items, scores), expected = exact.recommend(histories, k), wide.recommend(histories, k)
        np.testing.assert_array_equal(items, expected[0])
        np.testing.assert_allclose(scores, expected[1], atol=1e-5)


def test_as_many_are_answered_together_as_fit_the_caches() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")

    def of(beam: int, k: int = 10, **changes: Any) -> int:
        told = {"backbone": {"kind": "encoder_decoder", **changes}, "objective": WIDE | {"beam": beam}}
        return GenerativeParams.model_validate(told).together(k, cpu)

    # 2 MB of 4-byte numbers: hypotheses of so many users, as wide as the point-wise net or as keys and values.
    assert of(64, feed_forward=1024) == 8
    assert of(64, heads=8, head_width=64) == 8
    assert of(2, 64, feed_forward=1024) == 8
    assert of(1000, feed_forward=4096) == 1
    assert of(1, 1) == GenerativeParams().together(10, gpu) == 512
    assert GenerativeParams(users_at_once=3).together(10, gpu) == 3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_probabilities_over_the_table_count_the_start_and_every_level(temperature: float) -> None:
    _, network, _ = make_network(objective=WIDE | {"normalise": "table", "temperature": temperature})
    table, states = network.table, torch.randn(2, 3, 16)
    with torch.no_grad():
        levels = [table.logits(states[:, 1], level) for level in range(3)]
        whole = torch.cat([states[:, 1] @ table.start[:, None], *levels], dim=1) / temperature
        code = int(make_catalogue().codes[7, 1])
        expected = whole.log_softmax(dim=1)[:, 1 + 4 + code]
        assert isinstance(network.objective, Autoregressive)
        found = network.objective.chosen(network, states, network.trie.place[[7, 7]])
    torch.testing.assert_close(found[:, 1], expected)


def test_a_temperature_sharpens_what_is_trained_and_not_what_is_answered() -> None:
    _, network, _ = make_network(objective=WIDE)
    made, cold, _ = make_network(objective=WIDE | {"temperature": 0.5})
    states = torch.randn(3, 3, 16)
    leaves = network.trie.place[[1, 4, 9]]
    assert isinstance(network.objective, Autoregressive)
    assert isinstance(cold.objective, Autoregressive)
    with torch.no_grad():
        doubled = network.objective.chosen(network, 2 * states, leaves)
        cold.table.bias.zero_()
        network.table.bias.zero_()
        doubled = network.objective.chosen(network, 2 * states, leaves)
        torch.testing.assert_close(cold.objective.chosen(cold, states, leaves), doubled)
    plain, _, _ = make_network(objective=WIDE)
    plain.network = network
    for left, right in zip(
        plain.recommend(Histories.of([[3]]), 5), made.recommend(Histories.of([[3]]), 5), strict=True
    ):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.parametrize(("backbone", "merge"), [NETWORKS[0], NETWORKS[3], NETWORKS[4]], ids=str)
def test_it_learns_a_circle(parts: Split, backbone: dict[str, Any], merge: bool) -> None:
    params = shape(backbone, merge, epochs=50, patience=50, learning_rate=1e-2, batch_tokens=64, warmup=5)
    tiger = Generative(params)
    report = tiger.fit(parts, make_catalogue(), seed=0)
    items, _ = tiger.recommend(parts.test.histories, 1, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.95
    assert report["losses"][-1] < 0.2 * report["losses"][0]
    looks = report["valid_ndcg@10"]
    assert looks[str(report["refit"]["epochs"])] == max(looks.values())


def test_validation_and_test_events_are_not_trained_on(parts: Split) -> None:
    nothing = parts.valid.take(np.zeros(0, np.int64))
    weights = []
    # One look alone, so that no validation chooses between weights.
    for valid, test in (
        (nothing, parts.test),
        (nothing, parts.valid),
        (parts.valid, parts.test),
        (parts.test, parts.valid),
    ):
        tiger = Generative(GenerativeParams(**SMALL, epochs=1))
        tiger.fit(Split(parts.protocol, parts.train, valid, test), make_catalogue(), seed=0)
        weights.append(tiger.item_vectors())
    for other in weights[1:]:
        np.testing.assert_array_equal(other, weights[0])


def test_same_seed_same_bytes_and_saved_is_loaded(parts: Split, tmp_path: Path) -> None:
    def fitted(name: str, seed: int) -> tuple[Generative, bytes]:
        tiger = Generative(GenerativeParams(**(SMALL | {"dropout": 0.2}), epochs=2))
        tiger.fit(parts, make_catalogue(), seed)
        (tmp_path / name).mkdir()
        tiger.save(tmp_path / name)
        return tiger, (tmp_path / name / "weights.safetensors").read_bytes()

    tiger, first = fitted("a", 1)
    assert fitted("b", 1)[1] == first
    assert fitted("c", 2)[1] != first
    loaded = Generative.load(tmp_path / "a", make_catalogue())
    for left, right in zip(
        tiger.recommend(parts.test.histories, 7), loaded.recommend(parts.test.histories, 7), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    vectors = loaded.item_vectors()
    assert vectors.shape == (N_ITEMS, 16)
    np.testing.assert_array_equal(vectors, tiger.item_vectors())
    assert loaded.query_vectors(parts.test.histories) is None
    # Tomorrow's items are recommended without training, if the model knows their codes.
    grown = make_catalogue(N_ITEMS + 5)
    items, _ = Generative.load(tmp_path / "a", grown).recommend(Histories.of([[1]]), N_ITEMS + 4)
    assert set(items[0].tolist()) == set(range(N_ITEMS + 5)) - {1}


def test_only_items_with_an_id_are_recommended_and_k_is_filled(parts: Split) -> None:
    catalogue = make_catalogue()
    catalogue.codes[[2, 22]] = -1
    tiger = Generative(
        GenerativeParams.model_validate(SMALL | {"epochs": 1, "objective": WIDE | {"beam": 1}})
    )
    tiger.fit(parts, catalogue, seed=0)
    long = list(range(0, 18))
    items, scores = tiger.recommend(Histories.of([long, [], [2]]), 6)
    assert sorted(items[0, :5].tolist()) == [18, 19, 20, 21, 23]
    assert items[0, 5] == -1
    assert scores[0, 5] == -np.inf
    assert (items[1:] >= 0).all()
    assert not np.isin(items, [2, 22]).any()


def test_what_cannot_be_trained_or_loaded_is_said(parts: Split, tmp_path: Path) -> None:
    tiger = Generative(GenerativeParams(**SMALL, epochs=1))
    with pytest.raises(ValueError, match="not fitted"):
        tiger.recommend(parts.test.histories, 3)
    bare = Catalogue(["a"], [""], [[]], np.zeros((1, 0), np.float32), np.zeros((1, 0), np.int32), ())
    with pytest.raises(ValueError, match="no item has a semantic ID"):
        tiger.fit(split(Histories.of([[0, 0]]), "full"), bare, 0)
    with pytest.raises(ValueError, match="nothing to learn"):
        tiger.fit(split(Histories.of([[0], [1]]), "full"), make_catalogue(), 0)
    tiger.fit(parts, make_catalogue(), 0)
    tiger.save(tmp_path)
    other = make_catalogue()
    other = Catalogue(other.item_ids, other.titles, other.categories, other.vectors, other.codes, (8, 4, 3))
    with pytest.raises(ArtifactError, match=r"sizes \(4, 4, 3\), not \(8, 4, 3\)"):
        Generative.load(tmp_path, other)
    refitted = replace(make_catalogue(), tokenizer="newer")
    with pytest.raises(ArtifactError, match="semantic IDs of tokenizer None, not newer"):
        Generative.load(tmp_path, refitted)
    tiger.fit(parts, refitted, 0)
    tiger.save(tmp_path)
    Generative.load(tmp_path, refitted)
    with pytest.raises(ArtifactError, match="semantic IDs of tokenizer newer, not newest"):
        Generative.load(tmp_path, replace(refitted, tokenizer="newest"))
    (tmp_path / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match=r"weights.safetensors cannot be read"):
        Generative.load(tmp_path, refitted)


@pytest.mark.parametrize("kind", ["behaviour_first", "prior_heads", "cold_start"])
def test_an_objective_that_searches_by_beam_alone_refuses_an_exact_search(kind: str) -> None:
    with pytest.raises(ValidationError, match=rf"objective.{kind}.search\n  Input should be 'beam'"):
        shape(BACKBONES[0], True, objective={"kind": kind, "search": "exact"})
