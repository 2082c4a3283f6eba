from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.evaluation.splits import Split, split
from ml.histories import Histories
from ml.recommenders.batches import Plans, Sequences
from ml.recommenders.generative import alignment as aligning
from ml.recommenders.generative.alignment import Aligned, DirectParams, IterativeParams, Places
from ml.recommenders.generative.model import Generative, GenerativeParams
from ml.recommenders.generative.stages import Course
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import shake

N = 8
TINY: dict[str, Any] = {
    "d": 8,
    "length": 4,
    "dropout": 0.0,
    "batch_tokens": 32,
    "warmup": 2,
    "learning_rate": 0.01,
    "backbone": {"kind": "encoder_decoder", "heads": 1, "head_width": 8, "feed_forward": 8},
    "objective": {"kind": "autoregressive", "beam": N},
}


def catalogue() -> Catalogue:
    codes = np.array([[item // 4, item % 4] for item in range(N)], np.int32)
    return Catalogue(
        [str(i) for i in range(N)], [""] * N, [[]] * N, np.zeros((N, 0), np.float32), codes, (2, 4)
    )


def walks() -> Split:
    """Six times in seven what follows is the next item, else the one after."""
    rng = np.random.default_rng(0)
    steps = np.where(rng.random((40, 7)) < 6 / 7, 1, 2)
    steps[:, 0] = rng.integers(N, size=40)
    return split(Histories.of((steps.cumsum(axis=1) % N).tolist()), "leave_one_out")


def made(seed: int = 0, **changes: Any) -> Generative:
    torch.manual_seed(seed)
    recommender = Generative(GenerativeParams.model_validate(TINY | changes))
    params = recommender.params
    recommender.network = params.build(params.facts(catalogue(), (2, 4)))
    shake(recommender.network)
    return recommender


def course(recommender: Generative) -> Course:
    parts = walks()
    network = recommender.fitted()
    plans = Plans(network.objective.windows(parts.train, 4, True), 32)
    return Course(recommender, parts, catalogue(), 0, plans, None, None)


def test_probabilities_of_whole_ids_sum_to_one_and_rank_as_beam_search_does() -> None:
    recommender = made()
    histories = Histories.of([[3, 1], [], [2, 5, 6, 0]])
    every = torch.arange(N).expand(3, N)
    found = aligning.told_before(recommender.fitted(), Sequences.of(histories, 4), every)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(3))
    items, scores = recommender.recommend(histories, N, exclude_history=False)
    np.testing.assert_array_equal(items, np.argsort(-found.numpy(), axis=1, kind="stable"))
    np.testing.assert_allclose(scores, np.sort(found.numpy(), axis=1)[:, ::-1], atol=1e-5)


def test_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Log-probabilities of what is not preferred, true, preferred; the second place has no pair.
    told = torch.tensor([[-3.0, -2.0, -1.0], [-9.0, -4.0, -4.0]])
    items = torch.tensor([[5, 6, 7], [-1, 2, 2]])
    margins = torch.tensor([0.5, 0.0])
    read, lengths = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    batch = (read, lengths, read, read)
    monkeypatch.setattr(aligning, "whole_ids", lambda *_: told)
    pair = math.log(1 + math.exp(-0.2 * (2.0 - 0.5))) / 2
    network = made().fitted()

    def loss(params: Any, columns: torch.Tensor = items) -> float:
        found, count = Aligned(params, network)((*batch, columns, margins))
        assert int(count) == 2
        return float(found.detach())

    assert loss(IterativeParams(beta=0.2)) == pytest.approx(pair + 3.0)
    assert loss(IterativeParams(beta=0.2, likelihood=False)) == pytest.approx(pair)
    assert loss(IterativeParams(beta=0.2, weight=0.25)) == pytest.approx(pair / 4 + 3.0)
    # Without a third column the true item is the preferred one.
    told = told[:, :2]
    won = math.log(1 + math.exp(-0.2 * (1.0 - 0.5))) / 2
    assert loss(DirectParams(beta=0.2), items[:, :2]) == pytest.approx(won)


def test_before_the_first_step_nothing_is_won() -> None:
    """Against itself the network wins no pair: its loss is that of a coin, log 2."""
    recommender, params = made(), DirectParams(beta=0.3)
    whole = course(recommender)
    places = aligning.draw(whole, None, np.random.default_rng(0))
    pairs = aligning.against_found(
        places, recommender.recommend(places.histories, 4)[0], np.random.default_rng(1)
    )
    items = torch.from_numpy(pairs[:, ::-1].copy())
    before = aligning.told_before(recommender.fitted(), places.sequences, items)
    batch = (*places.sequences, items, before[:, 1] - before[:, 0])
    loss, _ = Aligned(params, recommender.fitted())(batch)
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-5)


def test_places_are_those_of_training_histories() -> None:
    recommender = made()
    whole = course(recommender)
    train = whole.split.train
    places = aligning.draw(whole, None, np.random.default_rng(0))
    expected = [
        (train.items[low : low + at].tolist(), int(train.items[low + at]))
        for low, high in zip(train.offsets[:-1], train.offsets[1:], strict=True)
        for at in range(1, high - low)
    ]
    rows = np.split(places.histories.items, places.histories.offsets[1:-1])
    assert list(zip([row.tolist() for row in rows], places.targets.tolist(), strict=True)) == expected
    for row, (history, _) in enumerate(expected):
        assert places.sequences.items[row, : places.sequences.lengths[row]].tolist() == history[-4:]
    assert places.cut.lengths.tolist() == places.sequences.lengths.tolist()
    fewer = aligning.draw(whole, 5, np.random.default_rng(0))
    assert len(fewer.targets) == len(fewer.histories) == 5
    recommender.fitted().trie.place[3] = -1
    assert 3 not in aligning.draw(whole, None, np.random.default_rng(0)).targets


def test_the_true_item_is_never_the_one_that_is_not_preferred() -> None:
    found = np.array([[4, 7, 1], [2, -1, -1], [5, 6, -1]], np.int32)
    places = Places(None, None, None, np.array([7, 2, 0], np.int32))  # type: ignore[arg-type]
    drawn = [aligning.against_found(places, found, np.random.default_rng(seed)) for seed in range(30)]
    assert {tuple(pair) for pairs in drawn for pair in pairs[:1].tolist()} == {(7, 4), (7, 1)}
    assert all(pairs[1].tolist() == [2, -1] for pairs in drawn)
    assert {int(pairs[2, 1]) for pairs in drawn} == {5, 6}


def test_the_best_is_preferred_to_the_worst_by_reward() -> None:
    none = -np.inf
    found = np.array([[4, 7, 1], [2, 3, -1], [5, 6, 0], [1, -1, -1]], np.int32)
    worth = np.array([[1, 3, 2], [none, none, 9], [none, 0.5, none], [1, 1, 1]], np.float32)
    pairs = aligning.best_and_worst(found, worth)
    # Nothing between equals; padding is worth nothing; of two worst the likelier.
    assert pairs.tolist() == [[7, 4], [-1, -1], [6, 5], [-1, -1]]


def test_rewards_are_the_scores_of_the_reward_recommender() -> None:
    params = IterativeParams(depth=2)
    assert params.reward["kind"] == "transitions"
    assert params.reward["window"] == 10

    class Fixed:
        def recommend(self, histories: Histories, k: int, exclude_history: bool) -> Any:
            assert (k, exclude_history) == (2, False)
            return np.array([[3, 1], [5, -1]], np.int32), np.array([[0.9, 0.2], [0.4, none]], np.float32)

    none = -np.inf
    found = np.array([[1, 2, 3], [5, 0, -1]], np.int32)
    worth = params._rewards(Fixed(), Histories.of([[0], [0]]), found)  # type: ignore[arg-type]
    np.testing.assert_allclose(worth, np.array([[0.2, none, 0.9], [0.4, none, none]], np.float32))


def fitted(tmp_path: Path | None = None, **changes: Any) -> tuple[Generative, dict[str, Any]]:
    recommender = Generative(GenerativeParams.model_validate(TINY | {"epochs": 3} | changes))
    return recommender, recommender.fit(walks(), catalogue(), 0, tmp_path)


@pytest.mark.parametrize("kind", ["ddro", "iterative"])
def test_aligned_networks_tell_the_preferred_better(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at validation, which here could only stop it, pairs are won by training on them."""
    monkeypatch.setattr("ml.recommenders.generative.model.validation_score", lambda *_: None)
    stage = {"kind": kind, "epochs": 4, "learning_rate": 3e-3, "beta": 1.0, "candidates": 4, "rounds": 2}
    _, report = fitted(alignment=stage | {"likelihood": False})
    rounds = report["alignment"]["rounds"]
    assert len(rounds) == 2
    for told in rounds:
        assert told["pairs"] > 0
        assert told["losses"][-1] < min(told["losses"][0], math.log(2))
    assert report["refit"]["alignment"]["epochs"] == 4
    assert report["refit"]["alignment"]["rounds"] == 2


def test_what_makes_nothing_better_is_undone_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    def ever_worse(*_: Any) -> Callable[[], float]:
        looks = itertools.count(1, -0.01)
        return lambda: next(looks)

    monkeypatch.setattr("ml.recommenders.generative.model.validation_score", ever_worse)
    plain, _ = fitted()
    ruined, report = fitted(alignment={"kind": "ddro", "epochs": 2, "patience": 5, "rounds": 3})
    assert [told["epochs"] for told in report["alignment"]["rounds"]] == [0]
    assert report["refit"]["alignment"]["epochs"] == 0
    np.testing.assert_array_equal(ruined.item_vectors(), plain.item_vectors())
    looks = report["alignment"]["rounds"][0]["valid_ndcg@10"]
    assert list(looks) == ["0", "1", "2"]
    # Refitted without validation, the stage is left out too.
    again = GenerativeParams.model_validate(TINY | report["refit"])
    assert again.alignment is not None
    assert again.alignment.epochs == 0


def test_fine_tuning_goes_on_where_training_ended(tmp_path: Path) -> None:
    parts = walks()
    tuned, report = fitted(tmp_path / "last", fine_tuning={"epochs": 3, "learning_rate": 0.01})
    assert report["fine_tuning"]["losses"][0] < report["losses"][0]
    assert report["refit"]["fine_tuning"]["epochs"] == report["fine_tuning"]["epochs"]
    best = max(report["fine_tuning"]["valid_ndcg@10"].values())
    assert best >= max(report["valid_ndcg@10"].values())
    items, _ = tuned.recommend(parts.test.histories, 1)
    assert items.shape == (40, 1)


def test_alignment_needs_probabilities_of_whole_ids() -> None:
    params = GenerativeParams.model_validate(TINY)
    other = params.model_copy(update={"objective": type("Other", (), {"kind": "parallel"})()})
    with pytest.raises(ValueError, match="needs an autoregressive objective, not parallel"):
        DirectParams().check(other)
    DirectParams().check(params)
