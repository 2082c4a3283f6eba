from __future__ import annotations

from itertools import combinations
from statistics import mean

import numpy as np
from simulated import SMALL, Simulated

from orchestration.simulate.catalogue import BRANDS_PER_DEPARTMENT, DEPARTMENTS, SUCCESSORS, build_catalogue
from orchestration.simulate.config import SimulationConfig
from orchestration.simulate.events import World
from orchestration.simulate.text import QUERY_FORMS, brand_name, item_record, query_text
from orchestration.simulate.vocabulary import (
    BRAND_ENDINGS,
    BRAND_STEMS,
    LEAVES,
    MATERIALS,
)


def words(record: dict[str, str]) -> set[str]:
    text = f"{record['title']} {record['description']}".lower()
    return {word.strip(".,") for word in text.split()}


def overlap(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def test_the_vocabulary_is_complete() -> None:
    assert len(LEAVES) == len({leaf.path for leaf in LEAVES}) == len({leaf.noun for leaf in LEAVES}) == 96
    assert all(len(leaf.features) == 3 and leaf.price > 0 for leaf in LEAVES)
    assert set(MATERIALS) == set(DEPARTMENTS)
    assert {len(names) for names in MATERIALS.values()} == {5}
    assert (len(BRAND_STEMS), len(BRAND_ENDINGS)) == (len(DEPARTMENTS), BRANDS_PER_DEPARTMENT)
    assert len({brand_name(b) for b in range(len(DEPARTMENTS) * BRANDS_PER_DEPARTMENT)}) == 48


def test_items_of_a_leaf_share_vocabulary(world: World) -> None:
    catalogue = world.catalogue
    texts = [words(item_record(catalogue, item)) for item in range(120)]
    pairs = list(combinations(range(120), 2))
    same = mean(overlap(texts[a], texts[b]) for a, b in pairs if catalogue.leaf[a] == catalogue.leaf[b])
    other = mean(overlap(texts[a], texts[b]) for a, b in pairs if catalogue.leaf[a] != catalogue.leaf[b])
    assert same > other + 0.1


def test_texts_that_are_alike_belong_to_factors_that_are_alike(world: World) -> None:
    catalogue = world.catalogue
    texts = [words(item_record(catalogue, item)) for item in range(80)]
    pairs = list(combinations(range(80), 2))
    alike = [overlap(texts[a], texts[b]) for a, b in pairs]
    near = [float(catalogue.factors[a] @ catalogue.factors[b]) for a, b in pairs]
    assert np.corrcoef(alike, near)[0, 1] > 0.4


def test_item_lines_say_what_the_item_is(clean: Simulated, world: World) -> None:
    lines = {item["id"]: item for item in clean.items()}
    item = lines["i00042"]
    record = item_record(world.catalogue, 42)
    assert {key: item[key] for key in record} == record
    assert item.keys() == record.keys() | {"id", "price", "ts"}
    assert len(item["categories"]) == 3
    for word in (item["brand"], *item["attributes"].values()):
        assert word.split()[0] in item["title"] + item["description"] or word in {
            "budget",
            "classic",
            "premium",
        }


def test_queries_name_the_wanted_item(world: World) -> None:
    for item in range(30):
        record = item_record(world.catalogue, item)
        text = f"{record['title']} {record['description']}".lower()
        queries = {query_text(world.catalogue, item, form) for form in range(QUERY_FORMS)}
        assert len(queries) == QUERY_FORMS
        assert all(word in text for query in queries for word in query.split())


def test_a_day_shelves_only_launched_items(world: World) -> None:
    catalogue = world.catalogue
    for day in (0, SMALL.days - 1):
        shelf = catalogue.on(day)
        np.testing.assert_array_equal(shelf.available, catalogue.launch_day <= day)
        leaves = np.repeat(np.arange(-1, len(catalogue.leaves)), 20)
        drawn = catalogue.sample(shelf, leaves, 8, np.random.default_rng(0))
        assert shelf.available[drawn].all()
        named = leaves >= 0
        assert (catalogue.leaf[drawn[named]] == leaves[named, None]).all()
    assert not catalogue.on(0).available.all()
    assert catalogue.on(SMALL.days - 1).available.all()


def test_sampling_follows_attention(world: World) -> None:
    catalogue, shelf = world.catalogue, world.catalogue.on(0)
    drawn = catalogue.sample(shelf, np.full(1_000, -1), 50, np.random.default_rng(0))
    expected = np.zeros(len(catalogue))
    expected[catalogue.by_leaf] = np.diff(shelf.cumulative) / shelf.cumulative[-1]
    seen = np.bincount(drawn.ravel(), minlength=len(catalogue)) / drawn.size
    assert np.abs(seen - expected).max() < 0.006


def test_prices_follow_category_and_brand() -> None:
    catalogue = build_catalogue(SimulationConfig(items=5_000), np.random.default_rng(0))
    typical = np.array([leaf.price for leaf in catalogue.leaves])[catalogue.leaf]
    by_tier = [np.median((catalogue.price / typical)[catalogue.brand % 3 == tier]) for tier in range(3)]
    np.testing.assert_allclose(by_tier, [0.6, 1.0, 1.9], rtol=0.1)


def test_successors_are_related_but_not_only_neighbours_in_text(world: World) -> None:
    catalogue = world.catalogue
    assert catalogue.successors.shape == (SMALL.items, SUCCESSORS)
    own = (catalogue.leaf[catalogue.successors] == catalogue.leaf[:, None]).mean()
    assert 0.2 < own < 0.6
    near = np.einsum("nsf,nf->ns", catalogue.factors[catalogue.successors], catalogue.factors).mean()
    assert near > (catalogue.factors @ catalogue.factors.T).mean() + 0.2
