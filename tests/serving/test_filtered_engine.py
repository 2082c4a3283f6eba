"""What the index gives through filters is what scoring every item gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import Known, ids

from ml.histories import NO_ITEM, Histories
from ml.index import IndexSpec, ItemSearch, build_index
from serving import engine as engines
from serving.answers import Champion
from serving.engine import Engine
from serving.features import History
from serving.items import ItemFacts, Wanted

N = 400
RNG = np.random.default_rng(7)
VECTORS = RNG.normal(size=(N, 8)).astype(np.float32)
CATEGORIES = [["all", f"c{n % 7}", *(["rare"] if n % 97 == 0 else [])] for n in range(N)]
IN_STOCK = RNG.random(N) < 0.6


class ByVectors:
    """Scores an item by its vector's product with the sum of the history's."""

    def query_vectors(self, histories: Histories) -> NDArray[np.float32]:
        return VECTORS[histories.items].sum(axis=0, keepdims=True)

    def recommend(self, *_: object, **__: object) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        raise AssertionError("the index should have been asked")


class Scoring:
    """Gives the same order, and has no index."""

    kind = "scoring"

    def __init__(self) -> None:
        self.depths: list[int] = []

    def query_vectors(self, histories: Histories) -> None:
        return None

    def recommend(
        self, histories: Histories, k: int, exclude_history: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        self.depths.append(k)
        scores = VECTORS @ VECTORS[histories.items].sum(axis=0)
        order = [
            n
            for n in np.argsort(-scores, kind="stable").tolist()
            if not (exclude_history and n in histories.items)
        ][:k]
        items = np.array(order + [NO_ITEM] * (k - len(order)), np.int32)
        return items[None], np.where(items >= 0, scores[items], -np.inf).astype(np.float32)[None]


class Decoding(Scoring):
    """Pays for longer lists."""

    kind = "generative"


def engine_over(spec: IndexSpec | None, champion: Champion | None = None) -> Engine:
    return Engine(
        champion=champion or ByVectors(),
        lookup=Known(),
        item_ids=[f"i{n}" for n in range(N)],
        titles=[""] * N,
        event_types=["view"],
        popular=[],
        search=ItemSearch(build_index(VECTORS, spec)) if spec else None,
        facts=ItemFacts(categories=CATEGORIES, in_stock=IN_STOCK),
    )


ENGINES = [
    engine_over(IndexSpec(factory="Flat")),
    engine_over(IndexSpec(factory="HNSW32", effort=400)),
    engine_over(IndexSpec(factory="IVF8,PQ4x4fs,RFlat", effort=8, refine=128)),
    engine_over(None, Scoring()),
]


@settings(max_examples=150, deadline=None)
@given(
    engine=st.sampled_from(ENGINES),
    history=st.lists(st.integers(0, N - 1), min_size=1, max_size=60, unique=True),
    categories=st.frozensets(st.sampled_from(["c0", "c3", "rare", "all", "none"]), max_size=2),
    in_stock=st.booleans(),
    exclude=st.frozensets(st.integers(0, N - 1), max_size=40),
    exclude_seen=st.booleans(),
    k=st.integers(1, 50),
)
def test_index_and_brute_force_agree(
    engine: Engine,
    history: list[int],
    categories: frozenset[str],
    in_stock: bool,
    exclude: frozenset[int],
    exclude_seen: bool,
    k: int,
) -> None:
    wanted = Wanted(categories, in_stock, frozenset(f"i{n}" for n in exclude), exclude_seen)
    shown = History([f"i{n}" for n in history], ["view"] * len(history), [0] * len(history), len(history))
    scores = VECTORS @ VECTORS[history].sum(axis=0)
    best = [
        n
        for n in np.argsort(-scores, kind="stable").tolist()
        if (not categories or categories & set(CATEGORIES[n]))
        and (IN_STOCK[n] or not in_stock)
        and n not in exclude
        and not (exclude_seen and n in history)
    ][:k]
    answer = engine.after(shown, k, wanted)
    assert ids(answer) == [f"i{n}" for n in best]
    assert answer.source == ("champion" if best else "popular")


def test_only_a_champion_that_decodes_is_spared_long_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rare items are far down the list of this history."""
    monkeypatch.setattr(engines, "_DEEPEST", 40)
    scores = VECTORS @ VECTORS[1]
    rare = [n for n in np.argsort(-scores, kind="stable").tolist() if "rare" in CATEGORIES[n]]
    found = {}
    for champion in (Scoring(), Decoding()):
        engine = engine_over(None, champion)
        answer = engine.after(History(["i1"], ["view"], [0], 1), 3, Wanted(frozenset({"rare"})))
        found[champion.kind] = ids(answer), max(champion.depths)
    assert found["scoring"][0] == [f"i{n}" for n in rare[:3]]
    assert found["generative"][1] == 40
    assert len(found["generative"][0]) < 3


def test_filters_are_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_over(IndexSpec(factory="Flat"))
    made: list[int] = []
    honest = ItemSearch.prepare
    monkeypatch.setattr(
        ItemSearch, "prepare", lambda self, mask: (made.append(int(mask.sum())), honest(self, mask))[1]
    )
    shown = History(["i1"], ["view"], [0], 1)
    for _ in range(3):
        engine.after(shown, 5, Wanted(frozenset({"c3"})))
        engine.after(shown, 5, Wanted(in_stock=True))
        engine.after(shown, 5)
    assert made == [57, int(IN_STOCK.sum())]
    monkeypatch.setattr(engines, "_FILTERS", 2)
    for number in range(7):
        assert ids(engine.after(shown, 1, Wanted(frozenset({f"c{number}"}))))
    assert len(engine._filters) <= 2
