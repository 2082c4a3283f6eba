from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.artifacts import ArtifactError
from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders.generative.batches import TrainingBatches
from ml.recommenders.generative.model import Decoding, Network, Shape
from ml.recommenders.generative.tiger import Tiger, TigerParams, sequence_loss
from ml.recommenders.generative.trie import build_trie
from ml.snapshot import Catalogue

N_ITEMS = 24
SMALL = {"d": 16, "heads": 2, "head_width": 8, "feed_forward": 32, "length": 5, "dropout": 0.0}
ENCODERS = [{"causal": c, "merge": m} for c, m in itertools.product([True, False], [True, False])]


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


def make_network(seed: int = 0, **changes: object) -> tuple[Network, Catalogue]:
    torch.manual_seed(seed)
    catalogue = make_catalogue()
    shape = {"code_sizes": (4, 4, 3), "encoder_layers": 2, "decoder_layers": 2, "causal": True, "merge": True}
    network = Network(Shape(**(SMALL | shape | changes)), torch.from_numpy(catalogue.codes.astype(np.int64)))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network.eval(), catalogue


def log_probabilities(network: Network, catalogue: Catalogue, history: list[int]) -> np.ndarray:
    """Score every item with the training pass, one after the other."""
    trie = build_trie(catalogue.codes, catalogue.code_sizes)
    read = torch.full((1, 5), -1)
    if history:
        read[0, -len(history) :] = torch.tensor(history)
    scores = []
    with torch.no_grad():
        for item in range(len(catalogue)):
            target = torch.tensor([[item]])
            scores.append(-float(sequence_loss(network, network(read, target), target, trie, "trie")))
    return np.array(scores)


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
@pytest.mark.parametrize("history", [[], [3], [5, 1, 9], [4, 8, 2, 0, 11]])
def test_recommendations_equal_exact_scores(encoder: dict[str, bool], history: list[int]) -> None:
    network, catalogue = make_network(**encoder)
    tiger = Tiger(TigerParams(**SMALL, beam=N_ITEMS, **encoder))
    tiger._network, tiger._trie = network, build_trie(catalogue.codes, catalogue.code_sizes)
    exact = log_probabilities(network, catalogue, history)
    np.testing.assert_allclose(np.exp(exact).sum(), 1, rtol=1e-4)
    # Another user beside it, of another length, must not matter.
    items, scores = tiger.recommend(Histories.of([history, [1, 2, 3]]), N_ITEMS, exclude_history=False)
    np.testing.assert_array_equal(items[0], np.argsort(-exact, kind="stable"))
    np.testing.assert_allclose(scores[0], np.sort(exact)[::-1], atol=1e-4)
    items, _ = tiger.recommend(Histories.of([history]), 10)
    expected = [item for item in np.argsort(-exact, kind="stable") if item not in history]
    np.testing.assert_array_equal(items[0], expected[:10])


@pytest.mark.parametrize("merge", [True, False])
def test_one_causal_reading_equals_reading_anew_for_every_target(merge: bool) -> None:
    network, _ = make_network(merge=merge)
    row = torch.tensor([[7, 3, 9, 1, 0, 5]])
    with torch.no_grad():
        padded = torch.cat([row[:, :4], torch.full((1, 1), -1)], dim=1)
        together = network(padded, row[:, 1:])
        for place in range(4):
            alone = torch.full((1, 5), -1)
            alone[0, 4 - place :] = row[0, : place + 1]
            states = network(alone, row[:, place + 1 : place + 2])
            torch.testing.assert_close(states[0, 0], together[0, place], atol=1e-4, rtol=1e-4)


def test_order_matters_and_padding_does_not() -> None:
    network, _ = make_network()
    with torch.no_grad():
        one = Decoding(network, torch.tensor([[-1, -1, 4, 6]])).start()
        wider = Decoding(network, torch.tensor([[-1, -1, -1, 4, 6]])).start()
        turned = Decoding(network, torch.tensor([[-1, -1, 6, 4]])).start()
    torch.testing.assert_close(one, wider, atol=1e-5, rtol=1e-5)
    assert (one - turned).abs().max() > 1e-2


@pytest.mark.parametrize("causal", [True, False])
def test_every_training_event_but_the_first_is_a_target_once(causal: bool) -> None:
    histories = Histories.of([[1, 2, 3, 4, 5, 6, 7, 8], [9], [], [10, 11]])
    found = []
    for items, targets in TrainingBatches(histories, 3, 8, causal).epoch(np.random.default_rng(0)):
        for read, wanted in zip(items.tolist(), targets.tolist(), strict=True):
            read = [item for item in read if item >= 0]
            pairs = (
                [(read, wanted[-1])]
                if not causal
                else [(read[: i + 1], t) for i, t in enumerate(wanted) if t >= 0]
            )
            found += [(seen[-1], target) for seen, target in pairs]
            assert all(len(seen) <= 3 for seen, _ in pairs)
    assert sorted(found) == [*((i, i + 1) for i in range(1, 8)), (10, 11)]


@pytest.mark.parametrize("encoder", [ENCODERS[0], ENCODERS[3]], ids=str)
def test_it_learns_a_circle(parts: Split, encoder: dict[str, bool]) -> None:
    params = TigerParams(
        **SMALL, epochs=50, patience=50, learning_rate=1e-2, batch_tokens=128, warmup=5, beam=5, **encoder
    )
    tiger = Tiger(params)
    report = tiger.fit(parts, make_catalogue(), seed=0)
    items, _ = tiger.recommend(parts.test.histories, 1, exclude_history=False)
    assert (items[:, 0] == parts.test.targets).mean() > 0.95
    assert report["losses"][-1] < 0.2 * report["losses"][0]
    looks = report["valid_ndcg@10"]
    assert looks[str(report["refit"]["epochs"])] == max(looks.values())


def test_validation_and_test_events_are_not_trained_on(parts: Split) -> None:
    hidden = Split(parts.protocol, parts.train, parts.valid.take(np.zeros(0, np.int64)), parts.test)
    moved = Split(parts.protocol, parts.train, hidden.valid, parts.valid)
    weights = []
    for some in (hidden, moved):
        tiger = Tiger(TigerParams(**SMALL, epochs=1))
        tiger.fit(some, make_catalogue(), seed=0)
        weights.append(tiger.item_vectors())
    np.testing.assert_array_equal(*weights)


def test_same_seed_same_bytes_and_saved_is_loaded(parts: Split, tmp_path: Path) -> None:
    def fitted(name: str, seed: int) -> tuple[Tiger, bytes]:
        tiger = Tiger(TigerParams(**(SMALL | {"dropout": 0.2}), epochs=2))
        tiger.fit(parts, make_catalogue(), seed)
        (tmp_path / name).mkdir()
        tiger.save(tmp_path / name)
        return tiger, (tmp_path / name / "weights.safetensors").read_bytes()

    tiger, first = fitted("a", 1)
    assert fitted("b", 1)[1] == first
    assert fitted("c", 2)[1] != first
    loaded = Tiger.load(tmp_path / "a", make_catalogue())
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
    items, _ = Tiger.load(tmp_path / "a", grown).recommend(Histories.of([[1]]), N_ITEMS + 4)
    assert set(items[0].tolist()) == set(range(N_ITEMS + 5)) - {1}


def test_only_items_with_an_id_are_recommended_and_k_is_filled(parts: Split) -> None:
    catalogue = make_catalogue()
    catalogue.codes[[2, 22]] = -1
    tiger = Tiger(TigerParams(**SMALL, epochs=1, beam=1))
    tiger.fit(parts, catalogue, seed=0)
    long = list(range(0, 18))
    items, scores = tiger.recommend(Histories.of([long, [], [2]]), 6)
    assert sorted(items[0, :5].tolist()) == [18, 19, 20, 21, 23]
    assert items[0, 5] == -1
    assert scores[0, 5] == -np.inf
    assert (items[1:] >= 0).all()
    assert not np.isin(items, [2, 22]).any()


def test_what_cannot_be_trained_or_loaded_is_said(parts: Split, tmp_path: Path) -> None:
    tiger = Tiger(TigerParams(**SMALL, epochs=1))
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
        Tiger.load(tmp_path, other)
    refitted = replace(make_catalogue(), tokenizer="newer")
    with pytest.raises(ArtifactError, match="semantic IDs of tokenizer None, not newer"):
        Tiger.load(tmp_path, refitted)
    tiger.fit(parts, refitted, 0)
    tiger.save(tmp_path)
    Tiger.load(tmp_path, refitted)
    with pytest.raises(ArtifactError, match="semantic IDs of tokenizer newer, not newest"):
        Tiger.load(tmp_path, replace(refitted, tokenizer="newest"))
    (tmp_path / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match=r"weights.safetensors cannot be read"):
        Tiger.load(tmp_path, refitted)
