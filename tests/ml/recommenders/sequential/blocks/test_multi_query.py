from __future__ import annotations

import pytest
import torch
from torch import nn

from ml.recommenders.sequential.blocks.multi_query import (
    MultiQuery,
    MultiQueryParams,
    QueryAttention,
    window_means,
)
from ml.recommenders.sequential.model import SequentialParams
from ml.recommenders.sequential.parts import Reading


def reading(real: list[bool], causal: bool = True) -> Reading:
    places = torch.arange(len(real))[None]
    return Reading(torch.tensor([real]), places, torch.zeros_like(places), causal)


def test_window_means_by_hand() -> None:
    x = torch.tensor([[[1.0], [3.0], [8.0], [10.0]]])
    assert window_means(x, 3)[0, :, 0].tolist() == [1.0, 2.0, 4.0, 7.0]
    assert window_means(x, 1)[0, :, 0].tolist() == [1.0, 3.0, 8.0, 10.0]
    assert window_means(x, 9)[0, :, 0].tolist() == pytest.approx([1.0, 2.0, 4.0, 5.5])


@pytest.mark.parametrize("causal", [True, False])
def test_one_query_at_a_time(causal: bool) -> None:
    """A twin that walks over places, windows and keys one by one."""
    torch.manual_seed(0)
    block = QueryAttention(d=6, heads=2, hidden=9, dropout=0.0, window=3).eval()
    x = torch.randn(1, 5, 6)
    known = block(x, reading([True] * 5, causal))
    for place in range(5):
        window = x[0, max(0, place - 2) : place + 1]
        asking = block.norm_query(sum(window) / len(window))
        seen = x[0, : place + 1] if causal else x[0]
        keys, values = block.keys_values(seen).chunk(2, dim=1)
        mixed = []
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            weights = torch.softmax(keys[:, part] @ block.query(asking)[part] / 3**0.5, dim=0)
            mixed.append(weights @ values[:, part])
        state = block.norm_attend(asking + torch.cat(mixed))
        torch.testing.assert_close(known[0, place], block.norm_feed(state + block.feed(state)))


def test_blocks_do_not_look_ahead_nor_at_padding() -> None:
    torch.manual_seed(0)
    block = MultiQuery(d=8, heads=2, hidden=16, dropout=0.5, window=3, short=0.5).eval()
    x = torch.randn(1, 5, 8)
    changed = x.clone()
    changed[0, 3:] += 1
    before, after = (block(states, reading([True] * 5)) for states in (x, changed))
    torch.testing.assert_close(before[0, :3], after[0, :3])
    assert not torch.allclose(before[0, 3:], after[0, 3:])
    padded = reading([True, True, True, False, False], causal=False)
    torch.testing.assert_close(block(x, padded)[0, :3], block(changed, padded)[0, :3])


def test_the_mix_is_of_short_and_long_queries() -> None:
    torch.manual_seed(0)
    block = MultiQuery(d=4, heads=1, hidden=4, dropout=0.0, window=2, short=0.25).eval()
    x, real = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    read = Reading(real, real.long(), real.long(), True)
    expected = 0.25 * block.short(x, read) + 0.75 * block.long(x, read)
    torch.testing.assert_close(block(x, read), expected)
    assert isinstance(block.short.query, nn.Linear)
    assert block.short.query.weight is not block.long.query.weight


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"heads \(3\) must divide d \(8\)"):
        SequentialParams(d=8, block=MultiQueryParams(heads=3))
