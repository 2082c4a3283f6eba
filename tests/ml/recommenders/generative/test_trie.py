from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.recommenders.generative.trie import build_trie

CODES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=25, unique=True
)
SIZES = (4, 3, 5)


@given(CODES)
def test_tree_equals_sets_of_prefixes(rows: list[tuple[int, int, int]]) -> None:
    trie = build_trie(np.array(rows, np.int32), SIZES)
    assert (len(trie), trie.levels) == (len(rows), 3)
    ordered = sorted(rows)
    assert trie.items.tolist() == [rows.index(row) for row in ordered]
    assert trie.place.tolist() == [ordered.index(row) for row in rows]
    for depth in range(3):
        prefixes = sorted({row[:depth] for row in rows})
        longer = sorted({row[: depth + 1] for row in rows})
        children, codes, exists = trie.children(depth, torch.arange(len(prefixes)))
        assert children.shape[1] == trie.degrees[depth] == exists.sum(dim=1).max()
        # Where there is no child, the index is still one.
        assert children.max() < len(longer)
        for node, prefix in enumerate(prefixes):
            found = [longer[child] for child in children[node][exists[node]].tolist()]
            assert found == [other for other in longer if other[:-1] == prefix]
            assert codes[node][exists[node]].tolist() == [other[-1] for other in found]
            begin, end = trie.leaves[depth][node : node + 2].tolist()
            assert trie.below(depth, torch.tensor(node)) == end - begin
            assert ordered[begin:end] == [row for row in ordered if row[:depth] == prefix]
        above = [prefixes[node] for node in trie.above(depth, torch.arange(len(rows))).tolist()]
        assert above == [row[:depth] for row in ordered]
        parents = trie.parents(depth + 1, torch.arange(len(longer))).tolist()
        assert [prefixes[node] for node in parents] == [other[:-1] for other in longer]


def test_items_that_cannot_be_produced_have_no_place() -> None:
    codes = np.array([[0, 0], [-1, -1], [1, 5], [1, 1]], np.int32)
    trie = build_trie(codes, (2, 2))
    assert trie.items.tolist() == [0, 3]
    assert trie.place.tolist() == [0, -1, -1, 1]
    assert trie.to(torch.device("cpu")) is trie


def test_shared_and_missing_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="semantic ID 1-2 belongs to more than one item"):
        build_trie(np.array([[1, 2], [0, 0], [1, 2]], np.int32), (3, 3))
    with pytest.raises(ValueError, match="no item has a semantic ID"):
        build_trie(np.full((2, 2), -1, np.int32), (3, 3))
    with pytest.raises(ValueError, match="no item has a semantic ID"):
        build_trie(np.zeros((2, 0), np.int32), ())
