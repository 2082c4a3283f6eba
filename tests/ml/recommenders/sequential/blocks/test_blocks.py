"""What every block must do, and a twin by brute force for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from ml.recommenders.batches import Sequences
from ml.recommenders.sequential.blocks.filtered import FilteredAttention, FilteredAttentionParams, low_pass
from ml.recommenders.sequential.blocks.gated import GatedAttention
from ml.recommenders.sequential.blocks.hstu import Hstu, HstuParams, time_buckets
from ml.recommenders.sequential.blocks.state_space import (
    SelectiveScan,
    StateSpaceParams,
    scan,
    turned_order,
)
from ml.recommenders.sequential.model import SequentialParams
from ml.recommenders.sequential.network import Network
from ml.recommenders.sequential.parts import Facts, Reading
from ml.snapshot import Catalogue

D, LENGTH = 8, 7
CAUSAL: dict[str, dict[str, Any]] = {
    "attention": {"kind": "attention", "heads": 2},
    "filtered": {"kind": "filtered_attention", "heads": 2},
    "gated": {"kind": "gated_attention", "heads": 2},
    "hstu": {"kind": "hstu"},
    "hstu without times": {"kind": "hstu", "times": False},
    "recurrent": {"kind": "recurrent"},
    "state space": {"kind": "state_space", "state": 3},
}
WHOLE: dict[str, dict[str, Any]] = {
    "filtered whole": {"kind": "filtered_attention", "causal": False},
    "state space turned": {"kind": "state_space", "state": 3, "kept": 2},
}


def facts() -> Facts:
    catalogue = Catalogue([""] * 9, [], [], np.zeros((9, 0), np.float32), np.zeros((9, 0), np.int32), ())
    return Facts(catalogue, torch.ones(9, dtype=torch.int64), D, LENGTH, 0.5)


def network(block: dict[str, Any]) -> Network:
    """Make a network whose weights are large enough for any difference to show."""
    torch.manual_seed(0)
    params = SequentialParams.model_validate(
        {"d": D, "max_length": LENGTH, "block": block, "objective": {"kind": "next_item", "targets": "last"}}
    )
    made = params.build(facts()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def sequences(rows: list[list[int]], times: list[list[int]], lengths: list[int]) -> Sequences:
    items = torch.tensor(rows)
    return Sequences(items, torch.tensor(lengths), torch.tensor(times) * 10**9, torch.zeros_like(items))


def reading(n: int, length: int, causal: bool = True) -> Reading:
    torch.manual_seed(4)
    times = torch.randint(0, 10**15, (n, length)).cumsum(dim=1)
    real = torch.ones(n, length, dtype=torch.bool)
    return Reading(real, torch.arange(length).expand(n, -1), times, causal)


@pytest.mark.parametrize("block", CAUSAL.values(), ids=CAUSAL)
def test_no_look_ahead(block: dict[str, Any]) -> None:
    """A later item or time moves no earlier state, and does move its own."""
    made = network(block)
    table = made.item_net()
    before = made.states(sequences([[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5]], [5]), table)
    after = made.states(sequences([[1, 2, 3, 8, 5]], [[1, 2, 3, 9, 99]], [5]), table)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3:], before[:, 3:], atol=1e-3)


@pytest.mark.parametrize("block", WHOLE.values(), ids=WHOLE)
def test_what_sees_the_whole_window_is_refused_where_every_place_is_trained(block: dict[str, Any]) -> None:
    made = network(block)
    table = made.item_net()
    before = made.states(sequences([[1, 2, 3, 4, 5]], [[0] * 5], [5]), table)
    after = made.states(sequences([[1, 2, 8, 4, 5]], [[0] * 5], [5]), table)
    assert not torch.allclose(after[:, 0], before[:, 0], atol=1e-3)
    for objective in ({"kind": "next_item"}, {"kind": "next_item", "targets": "every"}):
        with pytest.raises(ValueError, match="sees the whole window"):
            SequentialParams.model_validate({"block": block, "objective": objective})


@pytest.mark.parametrize("block", (CAUSAL | WHOLE).values(), ids=CAUSAL | WHOLE)
@pytest.mark.parametrize("causal", [True, False])
def test_padding_does_not_matter(block: dict[str, Any], causal: bool) -> None:
    """Whatever stands in padding, and however much of it, states of real places are those of the bare sequence."""
    made = network(block)
    made.objective.causal = causal
    table = made.item_net()
    bare = made.states(sequences([[3, 4, 5]], [[1, 5, 7]], [3]), table)
    rows, times = [[3, 4, 5, 0, 7, 1], [1, 2, 3, 4, 5, 6]], [[1, 5, 7, 0, 0, 3], [1, 2, 3, 4, 5, 6]]
    padded = made.states(sequences(rows, times, [3, 6]), table)
    torch.testing.assert_close(padded[:1, :3], bare)


@pytest.mark.parametrize("block", (CAUSAL | WHOLE).values(), ids=CAUSAL | WHOLE)
def test_every_parameter_is_trained(block: dict[str, Any]) -> None:
    made = network(block).train()
    drawn = sequences(
        [[1, 2, 3, 4, 5, 6], [4, 5, 0, 0, 0, 0]], [[1, 2, 3, 9, 40, 800], [7, 9, 0, 0, 0, 0]], [6, 2]
    )
    targets = torch.tensor([[-1, -1, -1, -1, -1, 7], [-1, 6, -1, -1, -1, -1]])
    made((*drawn, targets))[0].backward()
    idle = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("kind", ["attention", "filtered_attention", "gated_attention", "hstu"])
def test_heads_that_do_not_divide_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"heads \(3\) must divide d \(64\)"):
        SequentialParams.model_validate({"block": {"kind": kind, "heads": 3}})
    with pytest.raises(ValueError, match=r"heads \(3\) must divide d"):
        SequentialParams.model_validate({"block": {"kind": "state_space", "heads": 3}})


def by_fourier(x: Tensor, frequencies: int) -> Tensor:
    """Low-pass a sequence float [length, d] by the transform itself."""
    spectrum = torch.fft.rfft(x, dim=0, norm="ortho")
    spectrum[frequencies:] = 0
    return torch.fft.irfft(spectrum, n=len(x), dim=0, norm="ortho")


@pytest.mark.parametrize("length", [1, 2, 7, 50])
@pytest.mark.parametrize("frequencies", [1, 3, 99])
def test_low_pass_is_that_of_the_transform(length: int, frequencies: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(length, D)
    torch.testing.assert_close(
        low_pass(length, frequencies) @ x, by_fourier(x, frequencies), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("causal", [True, False])
def test_filter_twin(causal: bool) -> None:
    """Short windows are filtered as windows of full length that begin with zeros, the causal way prefix by prefix."""
    torch.manual_seed(0)
    block = FilteredAttentionParams(frequencies=2, causal=causal).build(facts())
    x = torch.randn(2, 6, D)
    real = torch.arange(6) < torch.tensor([[6], [3]])
    found = block._filter(x, real)
    for row, n in zip(range(2), (6, 3), strict=True):
        for end in range(1, n + 1) if causal else [n]:
            window = torch.cat([torch.zeros(LENGTH - end, D), x[row, :end]])
            slow = by_fourier(window, 2)
            expected = slow + block.root_beta.square() * (window - slow)
            places = slice(end - 1, end) if causal else slice(0, n)
            torch.testing.assert_close(
                found[row, places], expected[LENGTH - end :][places], atol=1e-5, rtol=1e-4
            )


def test_alpha_mixes_filter_and_attention() -> None:
    torch.manual_seed(0)
    blocks = [
        FilteredAttention(D, 1, 16, 0.0, alpha, low_pass(LENGTH, 2)).eval() for alpha in (0.0, 0.25, 1.0)
    ]
    for block in blocks[1:]:
        block.load_state_dict(blocks[0].state_dict())
    for block in blocks:
        for name in ("feed", "norm_feed"):
            setattr(block, name, torch.nn.Identity())
    x = torch.randn(2, 5, D)
    # What follows the mixture doubles it.
    attended, mixed, filtered = (block(x, reading(2, 5)) / 2 for block in blocks)
    torch.testing.assert_close(mixed, 0.25 * filtered + 0.75 * attended)
    torch.testing.assert_close(attended, blocks[0].norm_attend(x + blocks[0]._attend(x, reading(2, 5))))


@pytest.mark.parametrize("causal", [True, False])
def test_hstu_twin(causal: bool) -> None:
    """Attention place by place and head by head, as the paper's equations 1 to 3 write it."""
    torch.manual_seed(0)
    block: Hstu = HstuParams().build(facts()).eval()
    assert block.by_time is not None
    with torch.no_grad():
        block.by_place.normal_()
        block.by_time.normal_()
    x, read = torch.randn(2, 5, D), reading(2, 5, causal)
    buckets = time_buckets(read.times)
    u, v, q, k = silu(block.uvqk(block.norm_in(x))).split(D, dim=2)
    expected = torch.empty_like(x)
    for n in range(2):
        for i in range(5):
            gathered = torch.zeros(D)
            for head in (slice(0, D // 2), slice(D // 2, D)):
                for j in range(i + 1 if causal else 5):
                    bias = block.by_place[i - j + LENGTH - 1] + block.by_time[buckets[n, i, j], 0]
                    gathered[head] += silu(q[n, i, head] @ k[n, j, head] + bias) * v[n, j, head]
            expected[n, i] = x[n, i] + block.out(u[n, i] * block.norm_out(gathered))
    torch.testing.assert_close(block(x, read), expected, atol=1e-5, rtol=1e-4)


def test_time_buckets_by_hand() -> None:
    """The bucket is the logarithm of one plus the seconds, by steps of 0.301."""
    day = 86_400
    times = torch.tensor([[0, 0, 1, day, 400 * day, 20_000 * day]]) * 10**6
    found = time_buckets(times)[0, :, 0].tolist()
    assert found == [0, 0, int(np.log(2) / 0.301), int(np.log(day + 1) / 0.301), 57, 69]
    assert torch.equal(time_buckets(times), time_buckets(times).transpose(1, 2))


def test_gates_decide_how_much_is_added() -> None:
    torch.manual_seed(0)
    block = GatedAttention(D, 2, 16, 0.0).eval()
    x = torch.randn(1, 4, D)
    for gate, expected in ((-99.0, x), (99.0, None)):
        with torch.no_grad():
            block.gate_attend.bias.fill_(gate)
            block.gate_feed.bias.fill_(gate)
        if expected is None:
            half = x + block._attend(block.norm_attend(x), reading(1, 4))
            expected = half + block.feed(block.norm_feed(half))
        torch.testing.assert_close(block(x, reading(1, 4)), expected)


def test_scan_is_the_recurrence() -> None:
    torch.manual_seed(0)
    n, length, heads, width, state = 2, 60, 3, 4, 5
    u, write, read = (torch.randn(n, length, *shape) for shape in ((heads, width), (state,), (state,)))
    # Some decays forget all, which must not overflow, and some nothing.
    decay = -torch.rand(n, length, heads) * torch.tensor([0.0, 1.0, 300.0])
    memory = torch.zeros(n, heads, width, state)
    expected = []
    for i in range(length):
        memory = decay[:, i].exp()[:, :, None, None] * memory + torch.einsum(
            "nhp,ns->nhps", u[:, i], write[:, i]
        )
        expected.append(torch.einsum("nhps,ns->nhp", memory, read[:, i]))
    torch.testing.assert_close(
        scan(u, decay, write, read), torch.stack(expected, dim=1), atol=1e-4, rtol=1e-4
    )


def test_selective_scan_twin() -> None:
    """One place after the other, with the convolution's places and the memory carried along by hand."""
    torch.manual_seed(0)
    params = StateSpaceParams(heads=2, state=3, convolution=3)
    made = SelectiveScan(D, params)
    x = torch.randn(5, D)
    gate, mixed, step = made.project(x).split([16, 22, 2], dim=1)
    memory, expected = torch.zeros(2, 8, 3), []
    for i in range(5):
        taken = sum(made.taps[2 - back] * mixed[i - back] for back in range(3) if i >= back)
        u, write, read = silu(taken).split([16, 3, 3])
        dt = softplus(step[i] + made.step)
        u = u.view(2, 8)
        forgotten = torch.exp(-made.log_decay.exp() * dt)
        memory = forgotten[:, None, None] * memory + (dt[:, None] * u)[:, :, None] * write
        y = memory @ read + made.skip * u
        expected.append(made.out(made.norm(y.flatten() * silu(gate[i]))))
    torch.testing.assert_close(made(x[None])[0], torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_turned_order_keeps_the_latest_places() -> None:
    real = torch.arange(6) < torch.tensor([[6], [4], [1]])
    order = turned_order(real, kept=2)
    assert order.tolist() == [[3, 2, 1, 0, 4, 5], [1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert torch.equal(order.gather(1, order), torch.arange(6).expand(3, -1))
