"""Ways in which published numbers came to be too good. Each is planted here, and must be caught or counted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from ml.artifacts import Manifest
from ml.evaluation.evaluate import INVALID, Evaluation, evaluate
from ml.evaluation.gates import choose_champion
from ml.evaluation.results import Result, read_result, write_result
from ml.evaluation.splits import Protocol, Queries, cold_items, split
from ml.histories import Histories
from ml.recommenders import build
from ml.recommenders.base import mask_history, top_k
from ml.recommenders.generative.model import Generative
from ml.snapshot import Catalogue, Snapshot, without_behaviour
from tests.ml.evaluation.test_evaluate import padded

N_ITEMS = 300


@dataclass
class Scores:
    """Ranks a query, told apart by its first item, by a row of scores."""

    rows: np.ndarray
    asked: list[int] = field(default_factory=list)

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        self.asked.append(k)
        scores = torch.from_numpy(self.rows[histories.items[histories.offsets[:-1]]].astype(np.float32))
        if exclude_history:
            mask_history(scores, histories)
        return top_k(scores, k)


@dataclass
class Given:
    """Answers the lists that it was given, whatever is asked."""

    items: np.ndarray

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        scores = np.broadcast_to(-np.arange(self.items.shape[1], dtype=np.float32), self.items.shape)
        return padded(self.items, scores, k)


class Memory:
    """Remembers every step of the histories it was shown, as a model of endless capacity would."""

    def __init__(self, seen: Histories) -> None:
        same = np.diff(seen.users) == 0
        self.steps = dict(zip(seen.items[:-1][same].tolist(), seen.items[1:][same].tolist(), strict=True))

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        items = np.full((len(histories), k), -1, np.int32)
        items[:, 0] = [self.steps.get(int(item), -1) for item in histories.last(1)[:, 0]]
        return items, np.where(items >= 0, 1.0, -np.inf).astype(np.float32)


def queries(rows: list[list[int]], targets: list[int]) -> Queries:
    return Queries(np.arange(len(rows), dtype=np.int32), Histories.of(rows), np.array(targets, np.int32))


def asked_of(recommender: object, asked: Queries, n_items: int = N_ITEMS, k: int = 50) -> Evaluation:
    return evaluate(recommender, asked, Histories.of([[0]]), n_items, k)  # type: ignore[arg-type]


def strangers(n: int = 60, length: int = 5) -> Histories:
    """Users who share no item: only who has seen an event can know of it."""
    items = np.random.default_rng(7).permutation(n * length).reshape(n, length)
    rows = Histories.of(items.tolist())
    return Histories(rows.offsets, rows.items, rows.event_types, rows.times * 1000 + rows.users)


@pytest.mark.parametrize("protocol", ["leave_one_out", "temporal", "cold_items"])
def test_a_split_hides_what_it_asks_for(protocol: Protocol) -> None:
    histories = strangers(300)
    parts = split(histories, protocol)
    for asked in (parts.valid, parts.test):
        assert len(asked) > 0
        assert asked_of(Memory(parts.train), asked, 1500).metrics["recall@10"] == 0
        # The trap works: shown the answers, the same model is perfect.
        leaked = asked_of(Memory(histories), asked, 1500).metrics["recall@10"]
        assert leaked > (0.5 if protocol == "cold_items" else 0.99)
    # Nor may the validation events help with the test.
    shown = parts.train.items.tolist()
    assert not set(parts.test.targets.tolist()) & set(shown)
    assert not set(parts.valid.targets.tolist()) & set(shown)


def snapshot_that_leaks() -> Snapshot:
    """Vectors and codes of an item tell which item it follows; its text says nothing."""
    n_users, length = 60, 4
    rng = np.random.default_rng(1)
    walks = rng.permutation(n_users * length).reshape(n_users, length)
    vectors = rng.normal(size=(n_users * length, 16)).astype(np.float32)
    vectors[walks[:, 1:]] = vectors[walks[:, :1]] + 0.01 * vectors[walks[:, 1:]]
    text = rng.normal(size=vectors.shape).astype(np.float32)
    codes = np.arange(len(vectors), dtype=np.int32)[:, None]
    catalogue = Catalogue(
        [f"{n:03}" for n in range(len(vectors))], [], [], vectors, codes, (len(vectors),), "t", text
    )
    manifest = Manifest(
        kind="snapshot", version="v", recipe={"sees_behaviour": {"codes": True, "text": False}}
    )
    return Snapshot(Path(), [], Histories.of(walks.tolist()), [], catalogue, manifest)


def test_vectors_learned_from_cold_items_are_kept_from_the_model() -> None:
    snapshot = snapshot_that_leaks()
    parts = split(snapshot.histories, "cold_items")
    n_items = len(snapshot.catalogue)
    assert len(parts.test) >= 3
    assert set(parts.test.targets.tolist()) <= set(cold_items(snapshot.histories).tolist())

    def found(catalogue: Catalogue) -> float:
        model = build({"kind": "transitions", "similarity": 1.0, "popularity": 0.0})
        # Without text vectors of their own, texts are compared by `vectors`.
        model.fit(parts, replace(catalogue, text=catalogue.text[:, :0]), 0)
        return evaluate(model, parts.test, parts.train, n_items).metrics["recall@10"]

    # The trap works: by the leaking vectors every cold item is found.
    assert found(snapshot.catalogue) == 1.0
    known = without_behaviour(snapshot)
    assert found(known) < 0.5
    assert known.vectors is snapshot.catalogue.text
    # Codes made of such vectors would leak the same; a model that cannot do without is refused.
    with pytest.raises(ValueError, match="no item has a semantic ID"):
        Generative(Generative.Params()).fit(parts, known, 0)


@pytest.mark.parametrize("place", [0, 299])
def test_nobody_gains_by_the_order_of_the_catalogue(place: int) -> None:
    """All items are equal to the model; the target happens to stand first, or last."""
    start = 100
    asked = queries([[start]] * 8, [place] * 8)
    seen = asked_of(Scores(np.zeros((N_ITEMS, N_ITEMS))), asked)
    assert seen.metrics["recall@10"] == (place == 0)
    # One of 299, the history being excluded.
    assert seen.expected["recall@10"] == pytest.approx(10 / 299)
    assert seen.expected["mrr@10"] == pytest.approx(sum(1 / r for r in range(1, 11)) / 299)


def test_expectation_over_ties_is_the_mean_over_shuffled_catalogues() -> None:
    rng = np.random.default_rng(3)
    n = 30
    scores = rng.integers(0, 4, (n, n)).astype(float)
    targets = rng.integers(0, n, n)
    asked = queries([[i] for i in range(n)], targets.tolist())
    told = asked_of(Scores(scores), asked, n, k=20)
    runs: dict[str, list[float]] = {}
    for _ in range(600):
        order = rng.permutation(n)
        shuffled = np.empty_like(scores)
        shuffled[np.ix_(order, order)] = scores
        moved = queries([[int(order[i])] for i in range(n)], order[targets].tolist())
        for name, value in asked_of(Scores(shuffled), moved, n, k=20).metrics.items():
            runs.setdefault(name, []).append(value)
    for name, expected in told.expected.items():
        error = np.std(runs[name]) / np.sqrt(len(runs[name]))
        assert expected == pytest.approx(np.mean(runs[name]), abs=5 * error + 1e-12), name


def test_ties_beyond_the_list_are_followed_only_where_there_are_any() -> None:
    rows = np.zeros((N_ITEMS, N_ITEMS))
    rows[:, :60] = -np.arange(60) + 100
    model = Scores(rows)
    # The list of the best 50 ends without a tie: nothing more is asked.
    assert asked_of(model, queries([[299]], [150])).expected["recall@50"] == 0
    assert model.asked == [51]
    rows[:, 45:] = 1
    seen = asked_of(model, queries([[299]], [150]))
    assert model.asked == [51, 51, N_ITEMS]
    assert seen.metrics["recall@50"] == 0
    assert seen.expected["recall@50"] == pytest.approx(5 / (N_ITEMS - 45 - 1))


def test_a_hit_on_a_shared_id_is_no_hit() -> None:
    # Items 7 and 8 have the same codes; a model of codes cannot tell them apart, and named the wrong one.
    assert asked_of(Given(np.array([[8, 1, 2]])), queries([[5]], [7]), k=3).ranks.tolist() == [0]
    # To name both costs a place, and a twin named twice is a fault.
    assert asked_of(Given(np.array([[8, 7, 2]])), queries([[5]], [7]), k=3).ranks.tolist() == [2]
    assert asked_of(Given(np.array([[7, 7, 2]])), queries([[5]], [7]), k=3).checks["repeated_items"] == 1


def test_k_larger_than_the_catalogue() -> None:
    n = 6
    seen = asked_of(Scores(np.eye(n)), queries([[i] for i in range(n)], [(i + 1) % n for i in range(n)]), n)
    assert seen.invalid == 0
    assert seen.metrics["recall@50"] == 1
    # A model that fills the rest with anything is counted.
    padded = np.tile(np.arange(50) % n, (1, 1)).astype(np.int32)
    faults = asked_of(Given(padded), queries([[0]], [1]), n).checks
    assert faults["repeated_items"] == 50 - n
    assert faults["history_items"] == 9


def test_history_and_invalid_items_are_counted_and_stop_a_promotion() -> None:
    asked = queries([[3], [3]], [4, 4])
    items = np.array([[3, 4, 5], [4, N_ITEMS, 6]])
    seen = asked_of(Given(items), asked, k=3)
    assert {name: seen.checks[name] for name in INVALID if seen.checks[name]} == {
        "unknown_items": 1,
        "history_items": 1,
        "short_lists": 1,
    }
    honest = asked_of(Given(np.array([[9, 8, 7], [9, 8, 7]])), asked, k=3)
    results = {
        name: Result("temporal", name, 0, name == "transitions", found, found, {}, {})
        for name, found in (
            ("cheat", replace(seen, metrics={"ndcg@10": 1.0})),
            ("transitions", replace(honest, metrics={"ndcg@10": 0.1})),
        )
    }
    verdict = choose_champion(results)
    assert verdict.champion == "transitions"
    assert not next(g for g in verdict.gates if (g.recipe, g.name) == ("cheat", "valid_output")).passed


def test_excluding_history_is_a_switch_that_results_state(tmp_path: Path) -> None:
    asked = queries([[3], [4]], [3, 5])
    model = Scores(np.eye(N_ITEMS) + np.eye(N_ITEMS, k=1) / 2)
    for exclude, hits in ((True, [0, 1]), (False, [1, 2])):
        seen = evaluate(model, asked, Histories.of([[0]]), N_ITEMS, exclude_history=exclude)
        assert seen.ranks.tolist() == hits
        # Where it is excluded, a repeated item can only be missed: so many queries could not be answered.
        assert seen.checks["target_in_history"] == 1
        write_result(tmp_path, Result("temporal", "toy", 0, True, seen, seen, {}, {}))
        assert read_result(tmp_path, "temporal").test.exclude_history is exclude


def test_validation_is_never_shown_as_test(tmp_path: Path) -> None:
    """A model that knows the validation targets by heart says nothing of the test."""
    parts = split(strangers(), "leave_one_out")
    learned = Memory(parts.test.histories)
    valid, test = (asked_of(learned, q) for q in (parts.valid, parts.test))
    assert (valid.metrics["recall@10"], test.metrics["recall@10"]) == (1, 0)
    write_result(tmp_path, Result("leave_one_out", "toy", 0, False, test, valid, {}, {}))
    told = read_result(tmp_path, "leave_one_out")
    assert told.test.metrics["recall@10"] == 0
    assert told.validation.metrics["recall@10"] == 1
