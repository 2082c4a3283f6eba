"""Who answers, what may come, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_marts import day
from planted import Ahead, Broken, N, ids, planted_engine

from ml.histories import Histories
from ml.index import IndexSpec, ItemSearch, build_index
from ml.snapshot import Catalogue
from serving.answers import EngineError, UnknownItemError
from serving.features import History
from serving.items import Wanted, load_facts

SESSION = History(["i1", "i2"], ["view", "view"], [0, 1], 2)


def wanted(*categories: str, **more: object) -> Wanted:
    return Wanted(categories=frozenset(categories), **more)  # type: ignore[arg-type]


def test_champion_then_heuristic_then_popular() -> None:
    back = Ahead(step=-1)
    engine = planted_engine(heuristic=back)
    answer = engine.recommend("ann", 2)
    assert (answer.source, answer.reason, ids(answer)) == ("champion", "history of 2 items", ["i3", "i4"])
    assert back.asked == []

    answer = planted_engine(champion=Broken(), heuristic=back).recommend("ann", 2)
    assert (answer.source, ids(answer)) == ("heuristic", ["i0", "i11"])
    assert answer.reason == "the champion failed; history of 2 items"

    answer = planted_engine(champion=None, heuristic=back).recommend("ann", 2)
    assert (answer.source, ids(answer)) == ("heuristic", ["i0", "i11"])
    assert answer.reason == "the champion cannot be loaded; history of 2 items"

    answer = planted_engine(champion=Broken(), heuristic=Broken()).recommend("ann", 5)
    assert (answer.source, ids(answer)) == ("popular", ["i7", "gone", "i4"])
    assert answer.reason == "the champion failed; the heuristic failed"

    answer = engine.recommend("all", 2)
    assert (answer.source, ids(answer)) == ("popular", ["gone"])
    assert answer.reason == "the champion knows no further item; the heuristic knows no further item"


def test_sessions_are_answered_like_users() -> None:
    answer = planted_engine().after(SESSION, 3)
    assert (answer.source, ids(answer), answer.user_id) == ("champion", ["i3", "i4", "i5"], None)


def test_filters() -> None:
    engine = planted_engine()
    assert ids(engine.after(SESSION, 3, wanted("cup"))) == ["i4", "i6", "i8"]
    assert ids(engine.after(SESSION, 9, wanted("cup"))) == ["i4", "i6", "i8", "i10", "i0"]
    assert ids(engine.after(SESSION, 9, wanted("cup", "tea"))) == ids(
        engine.after(SESSION, 9, wanted("shop"))
    )
    assert ids(engine.after(SESSION, 2, wanted(in_stock=True))) == ["i6", "i7"]
    assert ids(engine.after(SESSION, 2, wanted("cup", exclude=frozenset(["i4", "gone"])))) == ["i6", "i8"]
    nothing = engine.after(SESSION, 2, wanted("no such"))
    assert (nothing.source, nothing.items) == ("popular", [])
    assert ids(engine.most_popular(5)) == ["i7", "i1", "gone", "i4"]
    # What the catalogue does not know has no category.
    assert ids(engine.most_popular(5, wanted("tea"))) == ["i7", "i1"]
    assert ids(engine.newest(3)) == ["i11", "i10", "i9"]
    assert ids(engine.newest(3, wanted("cup"))) == ["i10", "i8", "i6"]


def test_a_champion_is_asked_for_more_only_where_a_filter_refuses() -> None:
    champion = Ahead()
    engine = planted_engine(champion=champion)
    engine.after(SESSION, 2)
    assert champion.asked == [2]
    engine.after(SESSION, 2, wanted(exclude=frozenset(["i3"])))
    assert champion.asked == [2, 3]


@pytest.mark.parametrize("champion_searches", [False, True])
def test_seen_items_come_back_if_asked_for(champion_searches: bool) -> None:
    engine = planted_engine()
    if champion_searches:

        class Vectors(Ahead):
            def query_vectors(self, histories: Histories) -> np.ndarray:  # type: ignore[override]
                return -np.abs(np.arange(N, dtype=np.float32)[None] - histories.items[-1] - 0.6)

        search = ItemSearch(build_index(np.eye(N, dtype=np.float32), IndexSpec(factory="Flat")))
        engine = planted_engine(champion=Vectors(), search=search)
        assert ids(engine.after(SESSION, 4)) == ["i3", "i4", "i5", "i0"]
        assert ids(engine.after(SESSION, 4, wanted(exclude_seen=False))) == ["i3", "i2", "i4", "i1"]
        assert ids(engine.after(SESSION, 2, wanted("cup", exclude_seen=False))) == ["i2", "i4"]
        return
    assert ids(engine.after(SESSION, 12)) == [f"i{n % N}" for n in range(3, 13)]
    assert ids(engine.after(SESSION, 12, wanted(exclude_seen=False))) == [f"i{n % N}" for n in range(3, 15)]


def test_similar_items_and_texts_by_cosine() -> None:
    engine = planted_engine()
    answer = engine.similar("i0", 4)
    assert answer.source == "similar"
    assert ids(answer) == ["i1", "i2", "i3", "i4"]
    assert [i.score for i in answer.items] == pytest.approx(np.cos(np.pi / N * np.arange(1, 5)), abs=1e-6)
    assert ids(engine.similar("i0", 2, wanted("cup"))) == ["i2", "i4"]
    with pytest.raises(UnknownItemError, match="no item 'gone'"):
        engine.similar("gone", 2)
    assert ids(engine.search_text("0", 3)) == ["i0", "i1", "i2"]
    with pytest.raises(EngineError, match="text search is off"):
        planted_engine(encode=None).search_text("5", 3)
    with pytest.raises(EngineError, match="does not fit"):
        planted_engine(encode=lambda _: np.ones(3, np.float32)).search_text("5", 3)


def test_diverse_answers_are_unlike_each_other() -> None:
    engine = planted_engine()
    assert ids(engine.similar("i0", 3)) == ["i1", "i2", "i3"]
    # The first is the most alike; then that which lies farthest from it, then that in the middle between the two.
    assert ids(engine.similar("i0", 3, wanted(diversity=1.0))) == ["i1", "i11", "i6"]
    assert ids(engine.most_popular(2, wanted(diversity=0.9))) == ["i7", "i1"]


def test_explanations_name_near_items_and_shared_codes() -> None:
    answer = planted_engine().after(SESSION, 4, wanted(explain=True))
    assert ids(answer) == ["i3", "i4", "i5", "i6"]
    first = answer.items[0].explanation
    assert first is not None
    assert first.semantic_id == [0, 1, 3]
    assert [(b.item_id, b.title, b.shared_codes) for b in first.because] == [
        ("i2", "Tea 2", [0]),
        ("i1", "Tea 1", [0]),
    ]
    assert [b.similarity for b in first.because] == pytest.approx(
        np.cos([np.pi / N, 2 * np.pi / N]), abs=1e-4
    )
    last = answer.items[3].explanation
    assert last is not None
    assert [b.shared_codes for b in last.because] == [[], []]
    assert planted_engine().after(SESSION, 1).items[0].explanation is None


def test_facts_are_read_from_catalogue_and_marts(tmp_path: Path) -> None:
    catalogue = Catalogue(
        ["a", "b", "c", "d"],
        [""] * 4,
        [["x"], [], ["x", "y"], []],
        np.array([[3, 4], [0, 0], [0, 2], [1, 0]], np.float32),
        np.full((4, 0), -1, np.int32),
        (),
    )
    facts = load_facts(tmp_path, catalogue)
    assert facts.in_stock is None
    assert facts.vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [0, 1], [1, 0]]
    assert facts.passing(wanted("x"), 4).tolist() == [True, False, True, False]

    (tmp_path / "marts").mkdir()
    time = pa.timestamp("us", "UTC")
    attributes = [
        [("stock", "0")],
        [("stock", "12")],
        [("in_stock", "True"), ("stock", "0")],
        [("size", "1")],
    ]
    table = {
        "item_id": ["d", "c", "b", "a"],
        "attributes": pa.array(attributes, pa.map_(pa.string(), pa.string())),
        "valid_from": pa.array([day(5), day(9), None, day(1)], time),
        "first_event_ts": pa.array([day(7), day(2), day(3), None], time),
    }
    pq.write_table(pa.table(table), tmp_path / "marts" / "dim_items.parquet")
    facts = load_facts(tmp_path, catalogue)
    assert facts.in_stock is not None
    assert facts.in_stock.tolist() == [False, True, True, False]
    assert [catalogue.item_ids[i] for i in facts.latest] == ["d", "b", "c", "a"]
