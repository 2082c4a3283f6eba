"""Newcomers are latest, similar and found items, and nothing that the champion is asked of."""

from __future__ import annotations

import numpy as np
import pytest
from planted import VECTORS, Ahead, ids, planted_engine

from ml.histories import Histories
from ml.index import IndexSpec, ItemSearch, build_index
from serving.engine import Engine
from serving.features import History
from serving.items import Wanted

TRAINED = 10


class Alike(Ahead):
    """Knows ten items: asked for, or of, an eleventh it fails."""

    def query_vectors(self, histories: Histories) -> np.ndarray:  # type: ignore[override]
        return VECTORS[:TRAINED][histories.items[-1:]]


class NextOfTen(Ahead):
    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        assert k <= TRAINED
        last = int(histories.items[-1])
        assert last < TRAINED
        items = np.array([[(last + n) % TRAINED for n in range(1, k + 1)]], np.int32)
        return items, -np.arange(k, dtype=np.float32)[None]


def engine_of(indexed: bool) -> Engine:
    search = ItemSearch(build_index(VECTORS[:TRAINED], IndexSpec(factory="Flat")))
    champion = {"champion": Alike(), "search": search} if indexed else {"champion": NextOfTen()}
    return planted_engine(trained=TRAINED, **champion)


def session(*items: str) -> History:
    return History(list(items), ["view"] * len(items), list(range(len(items))), len(items))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(frozenset({"cup"})), Wanted(in_stock=True)])
def test_the_champion_answers_of_what_it_knows(indexed: bool, wanted: Wanted) -> None:
    engine = engine_of(indexed)
    answer = engine.after(session("i3", "i11"), 12, wanted)
    assert answer.source == "champion"
    expected = {f"i{n}" for n in range(TRAINED)} - {"i3"}
    if wanted.categories:
        expected &= {f"i{n}" for n in range(0, 12, 2)}
    if wanted.in_stock:
        expected &= {f"i{n}" for n in range(6, 12)}
    assert set(ids(answer)) == expected
    assert engine.after(session("i11"), 3).reason == "no item of the history is known to the champion"


def test_everything_else_knows_them() -> None:
    engine = engine_of(indexed=True)
    assert ids(engine.newest(3)) == ["i11", "i10", "i9"]
    assert ids(engine.similar("i11", 2)) == ["i10", "i9"]
    assert ids(engine.similar("i9", 2)) == ["i8", "i10"]
    assert ids(engine.search_text("11", 2)) == ["i11", "i10"]
    assert ids(engine.search_text("11", 2, Wanted(frozenset({"cup"})))) == ["i10", "i8"]
    assert engine.knows("i11")
