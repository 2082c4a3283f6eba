"""History in, titles out: the champion where it can answer, popular items where it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import Searching

from ml.histories import Histories
from serving.engine import Engine, history_rows
from serving.features import History, UserFeatures

ITEMS = [f"i{n}" for n in range(8)]
VECTORS = np.eye(8, dtype=np.float32)


class NextInLine:
    """Scores items by how far they lie ahead of the last one, around the circle of the catalogue."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        assert exclude_history
        assert len(histories) == 1
        shown = histories.items.tolist()
        self.asked.append((shown, k))
        ahead = [(shown[-1] + step) % 8 for step in range(1, 9)]
        best = [item for item in ahead if item not in shown][:k]
        items = np.full((1, k), -1, dtype=np.int32)
        scores = np.full((1, k), -np.inf, dtype=np.float32)
        items[0, : len(best)] = best
        scores[0, : len(best)] = [1 / (place + 1) for place in range(len(best))]
        return items, scores

    def query_vectors(self, histories: Histories) -> NDArray[np.float32] | None:
        return (VECTORS[histories.items[-1:]] + 0.5 * VECTORS[(histories.items[-1:] + 3) % 8]).astype(
            np.float32
        )


def history(*items: str, types: list[str] | None = None) -> History:
    return History(list(items), types or ["view"] * len(items), list(range(len(items))), len(items))


class Known:
    users: ClassVar = {
        "ann": UserFeatures("ann", history("i0", "i2")),
        "new-item": UserFeatures("new-item", history("i1", "brand-new", "i6")),
        "new-type": UserFeatures("new-type", history("i3", "i4", types=["view", "gaze"])),
        "only-new": UserFeatures("only-new", history("brand-new", "i7", types=["view", "gaze"])),
        "stale": UserFeatures("stale", None, absent={"user_history": "800.0 days old, older than 730"}),
        "searcher": UserFeatures("searcher", history()),
        "all-seen": UserFeatures("all-seen", history(*ITEMS)),
    }

    def user(self, user_id: str) -> UserFeatures:
        return self.users.get(user_id, UserFeatures(user_id, absent={"user_history": "unknown"}))


@pytest.fixture
def engine() -> Engine:
    return Engine(
        champion=NextInLine(),
        lookup=Known(),
        item_ids=ITEMS,
        titles=[f"Tea {n}" for n in range(8)],
        event_types=["cart", "view"],
        popular=["i7", "i0", "gone", "i2", "i5"],
        versions={"recipe": "toy"},
    )


def test_champion_answers_from_the_history(engine: Engine) -> None:
    answer = engine.recommend("ann", 3)
    assert [(i.item_id, i.title) for i in answer.items] == [("i3", "Tea 3"), ("i4", "Tea 4"), ("i5", "Tea 5")]
    assert [i.score for i in answer.items] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert (answer.source, answer.reason, answer.versions) == (
        "champion",
        "history of 2 items",
        {"recipe": "toy"},
    )


def test_catalogue_may_hold_fewer_than_asked(engine: Engine) -> None:
    assert [i.item_id for i in engine.recommend("ann", 100).items] == ["i3", "i4", "i5", "i6", "i7", "i1"]


def test_items_and_types_that_the_champion_does_not_know_are_not_shown_to_it(engine: Engine) -> None:
    assert isinstance(engine.champion, NextInLine)
    assert [i.item_id for i in engine.recommend("new-item", 2).items] == ["i7", "i0"]
    assert engine.champion.asked[-1] == ([1, 6], 2)
    # An item that is held back from the champion was still seen: it must not come back.
    assert [i.item_id for i in engine.recommend("new-type", 2).items] == ["i5", "i6"]
    assert engine.champion.asked[-1] == ([3], 3)


@pytest.mark.parametrize(
    ("user", "reason", "items"),
    [
        ("nobody", "unknown user", ["i7", "i0", "gone"]),
        ("stale", "history is 800.0 days old, older than 730", ["i7", "i0", "gone"]),
        ("searcher", "no interaction yet", ["i7", "i0", "gone"]),
        ("only-new", "no item of the history is known to the champion", ["i0", "gone", "i2"]),
        ("all-seen", "the champion knows no further item", ["gone"]),
    ],
)
def test_popular_items_for_those_it_cannot_answer(
    engine: Engine, user: str, reason: str, items: list[str]
) -> None:
    answer = engine.recommend(user, 3)
    assert (answer.source, answer.reason) == ("popular", reason)
    assert [i.item_id for i in answer.items] == items
    assert all(i.score is None for i in answer.items)
    assert {i.item_id: i.title for i in answer.items}.get("gone", "") == ""


def test_index_answers_where_there_is_one(engine: Engine) -> None:
    asked: list[int] = []

    def search(
        queries: NDArray[np.float32], k: int, allowed: None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        asked.append(k)
        scores = queries @ VECTORS.T
        items = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return items, np.take_along_axis(scores, items, axis=1)

    answer = replace(engine, search=Searching(search)).recommend("ann", 2)
    # The query lies on the last item, which was seen, and half as much on the one three places on.
    assert [(i.item_id, i.score) for i in answer.items] == [("i5", 0.5), ("i1", 0.0)]
    assert asked == [4]
    assert answer.source == "champion"

    def empty(
        queries: NDArray[np.float32], k: int, allowed: None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return np.full((1, k), -1), np.full((1, k), -np.inf, dtype=np.float32)

    assert (
        replace(engine, search=Searching(empty)).recommend("ann", 2).reason
        == "the champion knows no further item"
    )


def test_history_becomes_one_row() -> None:
    rows = history_rows(
        History(["b", "x", "a"], ["view", "view", "cart"], [5, 6, 7], 9),
        {"a": 0, "b": 1},
        {"cart": 0, "view": 1},
    )
    assert rows is not None
    assert (rows.items.tolist(), rows.event_types.tolist(), rows.times.tolist()) == ([1, 0], [1, 0], [5, 7])
    assert (rows.offsets.tolist(), rows.items.dtype, rows.event_types.dtype) == ([0, 2], np.int32, np.int8)
    assert history_rows(History([], [], [], 0), {"a": 0}, {"view": 0}) is None
