from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ml.recommenders.generative.backbones.encoder_decoder import EncoderDecoder
from ml.recommenders.generative.backbones.inference import Absorbed, Projected
from ml.recommenders.generative.model import GenerativeParams
from ml.recommenders.generative.network import Network
from ml.snapshot import Catalogue
from tests.ml.recommenders.generative.tiny import read, shake

CODES = np.stack(np.unravel_index(np.arange(40), (4, 5, 2)), axis=1).astype(np.int32)
BACKBONES: dict[str, dict[str, Any]] = {
    "absorbed": {"heads": 2, "head_width": 8, "encoder_layers": 1, "decoder_layers": 2},
    "projected": {"heads": 3, "head_width": 2, "encoder_layers": 1, "decoder_layers": 2},
    "read both ways": {"heads": 2, "head_width": 8, "causal": False},
    "routed": {"heads": 2, "head_width": 8, "feed": "by_position", "decoder_layers": 2},
    "sets": {"heads": 2, "head_width": 8, "within": "none"},
    "without a decoder": {"heads": 2, "head_width": 8, "decoder_layers": 0},
    "decoder only": {"kind": "decoder_only", "heads": 2, "head_width": 8},
}


def network_of(backbone: dict[str, Any]) -> Network:
    torch.manual_seed(3)
    names = [f"i{i}" for i in range(len(CODES))]
    catalogue = Catalogue(
        names, names, [[]] * len(names), np.zeros((len(names), 0), np.float32), CODES, (4, 5, 2)
    )
    params = GenerativeParams.model_validate(
        {
            "backbone": {"kind": "encoder_decoder"} | backbone,
            "d": 16,
            "length": 6,
            "tokens": {"kind": "codes", "merge": False},
        }
    )
    made = params.build(params.facts(catalogue, catalogue.code_sizes)).eval()
    shake(made)
    return made


@pytest.mark.parametrize("name", BACKBONES)
def test_step_by_step_equals_writing_at_once(name: str) -> None:
    network = network_of(BACKBONES[name])
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        memory = network.read(read([3, 9, 31], [], [7, 1, 2, 3, 4, 5]))
        at = memory.lengths[:, None]
        steps = network.backbone.steps(memory, at, network.table)
        begun = steps
        # More and fewer hypotheses from step to step, that go on from any.
        written = torch.zeros(3, 1, 0, 16)
        for hypotheses in (1, 5, 3):
            x = torch.randn(3, hypotheses, 16, generator=draw)
            parents = torch.randint(written.shape[1], (3, hypotheses), generator=draw)
            written = torch.cat([written[torch.arange(3)[:, None], parents], x[:, :, None]], dim=2)
            states, steps = steps.write(x, parents if written.shape[2] > 1 else None)
            expected = network.backbone.write(memory, at, written)[:, :, -1]
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)
            assert hypotheses == 1 or states.std(dim=1).min() > 0.01
        # What was begun is as it was.
        x = torch.randn(3, 2, 16, generator=draw)
        expected = network.backbone.write(memory, at, x[:, :, None])[:, :, 0]
        torch.testing.assert_close(begun.write(x)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_codes_by_their_rows_are_what_they_are_by_their_embeddings(name: str) -> None:
    network, draw = network_of(BACKBONES[name]), torch.Generator().manual_seed(1)
    table = network.table
    with torch.no_grad():
        memory = network.read(read([3, 9, 31], [7]))
        named = network.backbone.steps(memory, memory.lengths[:, None], table)
        plain = named = named.write(table.inputs(table.offsets.new_zeros(2, 1, 0))[:, :, 0])[1]
        for level, size in enumerate((4, 5)):
            rows = table.offsets[level] + torch.randint(size, (2, 6), generator=draw)
            parents = torch.randint(6 if level else 1, (2, 6), generator=draw)
            x = table.embed(rows) + table.place[level + 1]
            states, named = named.write(x, parents, rows)
            expected, plain = plain.write(x, parents)
            torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("absorbed", Absorbed), ("projected", Projected)])
def test_attention_to_a_history_is_folded_where_heads_are_wide(name: str, kind: type) -> None:
    network = network_of(BACKBONES[name])
    backbone = network.backbone
    assert isinstance(backbone, EncoderDecoder)
    with torch.no_grad():
        memory = network.read(read([3], [4]))
        looks = [layer.look(memory.states) for layer in backbone._folded_layers(network.table)]
    assert [type(look) for look in looks] == [kind, kind]


def learn(network: Network) -> None:
    """Move every parameter by an optimizer that does not count its changes."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.3, fused=True)
    for parameter in network.train().parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    network.eval()


@pytest.mark.parametrize("change", [shake, learn])
def test_folded_weights_follow_the_weights(change: Callable[[Network], None]) -> None:
    network = network_of(BACKBONES["absorbed"])
    x = torch.randn(1, 2, 16)

    def first() -> torch.Tensor:
        memory = network.read(read([3, 9]))
        return network.backbone.steps(memory, memory.lengths[:, None], network.table).write(x)[0]

    with torch.inference_mode():
        before, again = first(), first()
    torch.testing.assert_close(before, again, atol=0, rtol=0)
    backbone = network.backbone
    assert isinstance(backbone, EncoderDecoder)
    kept = backbone._folded_layers(network.table)
    assert backbone._folded_layers(network.table) is kept
    change(network)
    with torch.inference_mode():
        after = first()
        memory = network.read(read([3, 9]))
        expected = backbone.write(memory, memory.lengths[:, None], x[:, :, None])[:, :, 0]
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
