from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from ml.artifacts import ArtifactError
from ml.tokenizers import build
from ml.tokenizers.base import pack, unpack
from ml.tokenizers.indexing.collaborative import spectral_clusters
from ml.tokenizers.items import ItemData
from tests.ml.tokenizers.samples import sample_items


def test_packed_texts_come_back() -> None:
    texts = ["", "a", "héé", "日本", ""]
    assert unpack(pack(texts)) == texts
    assert unpack(pack([])) == []


def test_random_codes_belong_to_the_id_alone() -> None:
    tokenizer = build("random_index", {"levels": 2, "code_size": 16})
    tokenizer.fit(ItemData(["a"]), 0)
    codes = tokenizer.encode(ItemData([f"i{n}" for n in range(8000)]))
    np.testing.assert_array_equal(tokenizer.encode(ItemData(["i7999", "i5"])), codes[[7999, 5]])
    counts = np.bincount(codes[:, 0] * 16 + codes[:, 1], minlength=256)
    # Chi-squared of 255 degrees of freedom: mean 255, deviation 22.6.
    assert 160 < ((counts - 8000 / 256) ** 2 / (8000 / 256)).sum() < 350
    again = build("random_index", {"levels": 2, "code_size": 16})
    again.fit(ItemData(["b"]), 1, tokenizer)
    np.testing.assert_array_equal(again.encode(ItemData(["i3"])), codes[[3]])


def test_sequential_codes_are_digits_of_the_order_of_first_events() -> None:
    items = ItemData(list("abcdefg"), first_seen=np.array([5, -1, 0, 9, 2, -1, 4]))
    tokenizer = build("sequential_index", {"code_size": 3})
    tokenizer.fit(items, 0)
    # c e g a d, then b f which no history names: numbers 0 to 6 in base 3; 7 is free.
    assert tokenizer.code_sizes == (3, 3)
    numbers = dict(zip("cegadbf", range(7), strict=True))
    codes = tokenizer.encode(items)
    assert codes.tolist() == [[numbers[item] // 3, numbers[item] % 3] for item in items.item_ids]
    assert tokenizer.encode(ItemData(["x", "c", "y"])).tolist() == [[2, 1], [0, 0], [2, 1]]


def test_sequential_numbers_stay_where_they_were() -> None:
    old, new = build("sequential_index", {"code_size": 100}), build("sequential_index", {"code_size": 100})
    old.fit(ItemData(list("abc"), first_seen=np.array([2, 1, 0])), 0)
    new.fit(ItemData(list("axbc"), first_seen=np.array([0, 1, 2, 3])), 0, old)
    assert new.encode(ItemData(list("cbax"))).tolist() == [[0], [1], [2], [3]]
    assert new.code_sizes == (5,)


def test_category_codes_number_the_children_of_a_parent() -> None:
    categories = [["hair", "wash"], ["skin", "sun"], ["hair", "cut"], ["skin"], [], ["hair", "wash", "dry"]]
    tokenizer = build("category_index", {"levels": 2})
    tokenizer.fit(ItemData(list("abcdef"), categories=categories), 0)
    assert tokenizer.code_sizes == (3, 3)
    known = tokenizer.encode(ItemData(list("abcdef"), categories=categories))
    assert known.tolist() == [[1, 2], [2, 1], [1, 1], [2, 0], [0, 0], [1, 2]]
    new = [["hair", "dye"], ["feet", "wash"], ["skin", "sun", "spray"]]
    assert tokenizer.encode(ItemData(list("xyz"), categories=new)).tolist() == [[1, 0], [0, 0], [2, 1]]
    assert tokenizer.encode(ItemData(["x"])).tolist() == [[0, 0]]
    later = build("category_index", {"levels": 2})
    later.fit(ItemData(list("xyz"), categories=new), 0, tokenizer)
    assert later.encode(ItemData(list("abcdef"), categories=categories)).tolist() == known.tolist()
    assert later.encode(ItemData(list("xy"), categories=new[:2])).tolist() == [[1, 3], [3, 1]]


def _nested(per_group: int = 20) -> tuple[ItemData, np.ndarray, np.ndarray]:
    """Two halves of three groups each: pairs are many within a group, some within a half, none between."""
    groups = np.repeat(np.arange(6), per_group)
    rng = np.random.default_rng(0)
    n = len(groups)
    same_group, same_half = groups[:, None] == groups, (groups // 3)[:, None] == groups // 3
    weights = (rng.random((n, n)) < np.where(same_group, 0.5, np.where(same_half, 0.05, 0))).astype(float)
    np.fill_diagonal(weights, 0)
    order = rng.permutation(n)
    pairs = csr_array(weights[order][:, order])
    return ItemData([f"i{place}" for place in range(n)], pairs=pairs), groups[order], groups[order] // 3


def test_collaborative_paths_are_the_planted_halves_and_groups() -> None:
    items, groups, halves = _nested()
    tokenizer = build("collaborative_index", {"levels": 2, "code_size": 3, "leaf": 25})
    # Three clusters where there are two halves: the first level may cut one half, so ask for two first.
    labels = spectral_clusters((items.pairs + items.pairs.T).tocsr(), 2, np.random.default_rng(0))
    assert len(np.unique(np.stack([labels, halves]), axis=1).T) == 2
    tokenizer.fit(items, 0)
    codes = tokenizer.encode(items)
    assert len(np.unique(np.column_stack([codes, groups]), axis=0)) == len(np.unique(codes, axis=0)) >= 6
    assert (codes < [3, 3]).all()


def test_new_items_join_the_path_that_holds_their_pairs() -> None:
    items, groups, _ = _nested()
    tokenizer = build("collaborative_index", {"levels": 2, "code_size": 6, "leaf": 30})
    tokenizer.fit(items, 0)
    path = {group: tokenizer.encode(items)[np.flatnonzero(groups == group)[0]].tolist() for group in range(6)}
    n = len(items)
    weights = np.zeros((n + 2, n + 2))
    weights[n, np.flatnonzero(groups == 4)[:3]] = 1
    weights[np.flatnonzero(groups == 2)[:2], n] = 1
    more = ItemData([*items.item_ids, "new", "alone"], pairs=csr_array(weights))
    codes = tokenizer.encode(more)
    np.testing.assert_array_equal(codes[:n], tokenizer.encode(items))
    assert codes[n].tolist() == path[4]
    assert codes[n + 1].tolist() == [6, 0]
    assert tokenizer.encode(ItemData(["new"])).tolist() == [[6, 0]]


def test_items_without_pairs_have_a_first_code_of_their_own() -> None:
    items = sample_items()
    empty = np.ones(200)
    empty[[7, 9]] = 0
    alone = csr_array(items.pairs.toarray() * empty[:, None] * empty)
    tokenizer = build("collaborative_index", {"levels": 2, "code_size": 4, "leaf": 5})
    tokenizer.fit(replace(items, pairs=alone), 0)
    codes = tokenizer.encode(items)
    assert codes[[7, 9]].tolist() == [[4, 0], [4, 0]]
    paired = (alone + alone.T).sum(axis=1) > 0
    assert 100 < paired.sum() < 198
    np.testing.assert_array_equal(codes[:, 0] < 4, paired)
    assert tokenizer.code_sizes == (5, 4)


def test_collaborative_numbers_follow_the_old_ones() -> None:
    items, _, _ = _nested()
    params = {"levels": 2, "code_size": 6, "leaf": 10}
    old = build("collaborative_index", params)
    old.fit(items, 0)
    same = []
    for start in (old, None):
        new = build("collaborative_index", params)
        new.fit(items, 5, start)
        same.append((new.encode(items)[:, 0] == old.encode(items)[:, 0]).mean())
    assert same[0] == 1 > 0.9 > same[1]
    with pytest.raises(ArtifactError, match="other levels or another code_size"):
        build("collaborative_index", {"levels": 3, "code_size": 6}).fit(items, 0, old)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("sequential_index", "first events"),
        ("category_index", "categories"),
        ("collaborative_index", "pairs"),
    ],
)
def test_what_a_kind_needs_is_named(kind: str, missing: str) -> None:
    with pytest.raises(ArtifactError, match=f"there are no {missing} of the items"):
        build(kind, {}).fit(ItemData(["a"], categories=[[]]), 0)
