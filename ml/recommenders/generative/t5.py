"""A T5 that was trained elsewhere on semantic IDs, as a recommender of ours.

With the paper's settings `ml.recommenders.generative.backbones.encoder_decoder` computes what T5 computes (Raffel et al.,
JMLR 2020, arXiv:1910.10683), so weights are copied. What T5 leaves out or puts elsewhere is folded into them: its
attention is not scaled, its biases belong to buckets of distances, and its decoder's output is scaled before it meets
the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ml.artifacts import read_json
from ml.recommenders.generative.model import Generative, GenerativeParams

if TYPE_CHECKING:
    from ml.recommenders.generative.backbones.encoder_decoder import EncoderDecoder
    from ml.recommenders.generative.layers import Attention, Distances, FeedForward
    from ml.recommenders.generative.network import Network
    from ml.snapshot import Catalogue

State = Mapping[str, Tensor]


def from_t5(
    source: Path | nn.Module,
    catalogue: Catalogue,
    length: int = 20,
    start: int = 0,
    first: int = 1,
    **changes: Any,
) -> Generative:
    """Make a recommender of a T5.

    Its input is taken to be the token ``start`` and then the codes of a history, item by item, oldest first; its output
    the codes of the next item, after the token ``start``.

    Parameters
    ----------
    source
        A folder in the format of Hugging Face (``config.json``, ``model.safetensors``), or a loaded
        ``T5ForConditionalGeneration``.
    catalogue
        Items with semantic IDs.
    length
        Latest history items that are read.
    start
        Token that a decoder starts with.
    first
        Token of the first code of the first level; codes follow one another, level by level.
    changes
        Parameters of `GenerativeParams` to set, such as ``objective``.

    Raises
    ------
    ValueError
        If it is not a T5 of the first version (tied embeddings, ReLU), or knows too few tokens for the codes.
    """
    state, config = _read(source)
    if "gated" in str(config.get("feed_forward_proj", "relu")) or not _tied(state):
        raise ValueError(
            "this T5 has gated nets or an output layer of its own; only the first version can be read"
        )
    needed, known = first + sum(catalogue.code_sizes), len(state["shared.weight"])
    if needed > known:
        raise ValueError(f"the codes need {needed} tokens, and this T5 knows {known}")
    params = GenerativeParams.model_validate(
        {
            "tokens": {"kind": "codes", "merge": False},
            "backbone": {
                "kind": "encoder_decoder",
                "heads": config["num_heads"],
                "head_width": config["d_kv"],
                "feed_forward": config["d_ff"],
                "encoder_layers": config["num_layers"],
                "decoder_layers": config.get("num_decoder_layers") or config["num_layers"],
                "causal": False,
            },
            "objective": {"kind": "autoregressive", "normalise": "table"},
            "d": config["d_model"],
            "dropout": config.get("dropout_rate", 0.1),
            "length": length,
        }
        | changes
    )
    network = params.build(params.facts(catalogue, catalogue.code_sizes))
    with torch.no_grad():
        _copy(network, state, config, start, first)
    return Generative.of(params, network.eval(), catalogue)


def _read(source: Path | nn.Module) -> tuple[State, dict[str, Any]]:
    if isinstance(source, nn.Module):
        told: Any = source.config
        return source.state_dict(), told.to_dict()
    state = load_file(source / "model.safetensors")
    # A folder holds what is shared only once, under any of its names.
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        if "shared.weight" not in state and name in state:
            state["shared.weight"] = state[name]
    return state, read_json(source / "config.json")


def _tied(state: State) -> bool:
    output = state.get("lm_head.weight")
    return output is None or torch.equal(output, state["shared.weight"])


def _copy(network: Network, state: State, config: Mapping[str, Any], start: int, first: int) -> None:
    table, backbone = network.table, network.backbone
    codes = sum(table.code_sizes)
    table.start.copy_(state["shared.weight"][start])
    table.table[:-1].copy_(state["shared.weight"][first : first + codes])
    for nothing in (table.table[-1], table.bias, table.place):
        nothing.zero_()
    _copy_backbone(backbone, state, config)  # type: ignore[arg-type]


def _copy_backbone(backbone: EncoderDecoder, state: State, config: Mapping[str, Any]) -> None:
    for place, reading in enumerate(backbone.encoder):
        name = f"encoder.block.{place}.layer"
        _copy_attention(reading.attention, state, f"{name}.0", "SelfAttention")
        _copy_feed(reading.feed, state, f"{name}.1")  # type: ignore[arg-type]
    for place, writing in enumerate(backbone.decoder):
        name = f"decoder.block.{place}.layer"
        _copy_attention(writing.self_attention, state, f"{name}.0", "SelfAttention")
        _copy_attention(writing.cross_attention, state, f"{name}.1", "EncDecAttention")
        _copy_feed(writing.feed, state, f"{name}.2")  # type: ignore[arg-type]
    backbone.encoder_norm.weight.copy_(state["encoder.final_layer_norm.weight"])
    backbone.decoder_norm.weight.copy_(state["decoder.final_layer_norm.weight"])
    if config.get("scale_decoder_outputs", True):
        backbone.decoder_norm.weight.mul_(config["d_model"] ** -0.5)
    most = config.get("relative_attention_max_distance", 128)
    for side, distances, both_ways in (
        ("encoder", backbone.encoder_distance, True),
        ("decoder", backbone.decoder_distance, False),
    ):
        of_buckets = state[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        distances.bias.copy_(of_buckets[buckets(distances, len(of_buckets), most, both_ways)].T)
    backbone.cross_distance.bias.zero_()


def _copy_attention(attention: Attention, state: State, name: str, kind: str) -> None:
    query, keys, values, out = (state[f"{name}.{kind}.{part}.weight"] for part in "qkvo")
    attention.norm.weight.copy_(state[f"{name}.layer_norm.weight"])
    # We divide by the root of a head's width, T5 does not.
    attention.to_query.weight.copy_(query * (len(query) / attention.heads) ** 0.5)
    attention.to_keys.weight.copy_(torch.cat([keys, values]))
    attention.out.weight.copy_(out)


def _copy_feed(feed: FeedForward, state: State, name: str) -> None:
    norm, widen, _, narrow = feed.net
    norm.weight.copy_(state[f"{name}.layer_norm.weight"])  # type: ignore[operator]
    widen.weight.copy_(state[f"{name}.DenseReluDense.wi.weight"])  # type: ignore[operator]
    narrow.weight.copy_(state[f"{name}.DenseReluDense.wo.weight"])  # type: ignore[operator]


def buckets(distances: Distances, n: int, most: int, both_ways: bool) -> Tensor:
    """Return T5's bucket of every distance of a table, int64 [distances].

    Parameters
    ----------
    distances
        From the place that looks back to the place that is seen; negative where that comes later.
    n
        Number of buckets; one half serves later places if these are seen at all (``both_ways``). Of those of one
        direction the first half are a distance each, the others grow evenly in its logarithm, up to ``most``.
    """
    back = torch.arange(distances.least, distances.most + 1)
    later = (back < 0) & both_ways
    ways = n // 2 if both_ways else n
    far = back.abs() if both_ways else back.clamp(min=0)
    exact = ways // 2
    share = torch.log(far.clamp(min=1) / exact) / math.log(most / exact)
    grown = (exact + (share * (ways - exact)).long()).clamp(max=ways - 1)
    return torch.where(far < exact, far, grown) + later * ways
