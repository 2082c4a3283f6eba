"""A filtered search finds what a scan of the allowed items finds."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.artifacts import ArtifactError
from ml.index import IndexSpec, ItemSearch, build_index
from tests.ml.index.samples import low_dimensional

N = 3000
VECTORS, QUERIES = low_dimensional(N), low_dimensional(4, seed=1)
FLAT = IndexSpec(factory="Flat")
HNSW = IndexSpec(factory="HNSW16", effort=200)
IVF = IndexSpec(factory="IVF64,PQ16x4fs,RFlat", effort=48, refine=16)
SPECS = (FLAT, HNSW, IVF)


@cache
def searching(spec: IndexSpec) -> ItemSearch:
    return ItemSearch(build_index(VECTORS, spec))


def brute(mask: NDArray[np.bool_], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    scores = np.where(mask, QUERIES @ VECTORS.T, -np.inf)
    items = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, items, axis=1)
    items[best == -np.inf] = -1
    short = ((0, 0), (0, k - items.shape[1]))
    return np.pad(items, short, constant_values=-1), np.pad(best, short, constant_values=-np.inf)


@settings(max_examples=60, deadline=None)
@given(
    share=st.sampled_from([0, 1e-3, 0.01, 0.1, 0.4, 0.6, 0.99, 0.999, 1]),
    k=st.integers(1, 120),
    seed=st.integers(0, 2**32 - 1),
    prepared=st.booleans(),
)
def test_a_flat_index_finds_what_brute_force_finds(share: float, k: int, seed: int, prepared: bool) -> None:
    mask = np.random.default_rng(seed).random(N) < share
    search = searching(FLAT)
    items, scores = search.search(QUERIES, k, search.prepare(mask) if prepared else mask)
    expected, best = brute(mask, k)
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_allclose(scores[items >= 0], best[items >= 0], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(spec=st.sampled_from(SPECS), allowed=st.integers(0, 200), seed=st.integers(0, 2**32 - 1))
def test_where_few_are_allowed_every_index_is_complete(spec: IndexSpec, allowed: int, seed: int) -> None:
    mask = np.zeros(N, bool)
    mask[np.random.default_rng(seed).choice(N, allowed, replace=False)] = True
    np.testing.assert_array_equal(searching(spec).search(QUERIES, 20, mask)[0], brute(mask, 20)[0])


@pytest.fixture
def selectors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no filter to an exact scan or to asking for more, so that each index has to filter by itself."""
    monkeypatch.setattr(ItemSearch, "scanned_below", lambda _: 0)
    monkeypatch.setattr("ml.index.item_search._FEW_REFUSED", -1)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_filters_cost_an_index_no_recall(spec: IndexSpec, share: float, selectors_only: None) -> None:
    mask = np.random.default_rng(0).random(N) < share
    search = searching(spec)
    ready = search.prepare(mask)
    items, _ = search.search(QUERIES, 50, ready)
    assert mask[items].all()
    found = [len(np.intersect1d(a, b)) / 50 for a, b in zip(items, brute(mask, 50)[0], strict=True)]
    assert np.mean(found) >= 0.97


def test_a_filtered_graph_searches_the_harder_the_fewer_are_allowed(selectors_only: None) -> None:
    half = np.arange(N) % 2 == 0
    assert searching(HNSW).prepare(half).params.efSearch == 400
    assert searching(HNSW).prepare(np.ones(N, bool)).params.efSearch == 200
    kept = searching(IVF).prepare(half).params
    assert kept.k_factor == 16


def test_how_a_filter_is_answered() -> None:
    def of(spec: IndexSpec, allowed: int) -> Any:
        return searching(spec).prepare(np.arange(N) < allowed)

    for spec in SPECS:
        few, most = of(spec, 100), of(spec, N - 3)
        assert (few.index.ntotal, type(few.index).__name__) == (N, "IndexFlat") or spec is FLAT
        assert (few.count, few.more, few.scans) == (100, 0, True)
        assert (most.params, most.more, most.scans) == (None, 3, False)
        assert of(spec, 0).index is None
    # The graph of 3,000 items is left for a scan below isqrt(200 * 50 * 3000) = 5,477 allowed ones: always.
    assert type(of(HNSW, 2500).index).__name__ == "IndexFlat"
    with pytest.raises(ArtifactError, match="a filter of 5 items for an index of 3000"):
        searching(FLAT).prepare(np.ones(5, bool))


@pytest.mark.parametrize("spec", SPECS)
def test_appended_items_are_found(spec: IndexSpec) -> None:
    search = ItemSearch(build_index(VECTORS[:2900], spec))
    search.append(VECTORS[2900:])
    assert len(search) == N
    late = np.arange(N) >= 2900
    np.testing.assert_array_equal(search.search(QUERIES, 10, late)[0], brute(late, 10)[0])
    strong = VECTORS[2950:2951]
    assert 2950 in search.search(strong / np.linalg.norm(strong) * 100, 50)[0]
