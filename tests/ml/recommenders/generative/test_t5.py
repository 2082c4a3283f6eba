from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.histories import Histories
from ml.recommenders.batches import Sequences
from ml.recommenders.generative.layers import Distances
from ml.recommenders.generative.model import Generative
from ml.recommenders.generative.t5 import buckets, from_t5
from ml.snapshot import Catalogue

SIZES = (5, 4, 3)
N_ITEMS = 30
LENGTH = 12
HISTORIES = [[3, 7, 1], [4], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12], [20, 2, 20]]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    every = np.array(list(itertools.product(*(range(size) for size in SIZES))), np.int32)
    codes = every[np.random.default_rng(0).permutation(len(every))[:N_ITEMS]]
    return Catalogue(
        [f"i{i}" for i in range(N_ITEMS)],
        [""] * N_ITEMS,
        [[]] * N_ITEMS,
        np.zeros((N_ITEMS, 0), np.float32),
        codes,
        SIZES,
    )


def tiny(**changes: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    shape = {"d_model": 12, "d_kv": 6, "num_heads": 3, "d_ff": 20, "num_layers": 3, "num_decoder_layers": 2}
    rest = {
        "vocab_size": 1 + sum(SIZES),
        "decoder_start_token_id": 0,
        "eos_token_id": None,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
    }
    made = T5ForConditionalGeneration(T5Config(**(shape | rest | changes))).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "layer_norm" in name or "relative" in name:
                weight += 0.3 * torch.randn_like(weight)
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny()


def tokens(catalogue: Catalogue, items: list[int]) -> list[int]:
    return (catalogue.codes[items] + [1, 1 + SIZES[0], 1 + SIZES[0] + SIZES[1]]).ravel().tolist()


def inputs(catalogue: Catalogue, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    written = [[0, *tokens(catalogue, row)] for row in rows]
    longest = max(map(len, written))
    padded = [row + [0] * (longest - len(row)) for row in written]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in written]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


def test_logits_are_those_of_hugging_face(model: Any, catalogue: Catalogue) -> None:
    network = from_t5(model, catalogue, LENGTH).fitted()
    sequences = Sequences.of(Histories.of(HISTORIES), LENGTH)
    targets = [14, 0, 29, 7]
    written = torch.tensor([[0, *tokens(catalogue, [item])[:-1]] for item in targets])
    with torch.no_grad():
        theirs = model(**inputs(catalogue, HISTORIES), decoder_input_ids=written).logits
        states = network.states(
            network.read(sequences), sequences.lengths[:, None], torch.tensor(targets)[:, None]
        )
        begin = 1
        for level, size in enumerate(SIZES):
            ours = network.table.logits(states[:, 0, level], level)
            theirs_level = theirs[:, level, begin : begin + size]
            assert theirs_level.std() > 0.1
            torch.testing.assert_close(ours, theirs_level, atol=1e-4, rtol=1e-4)
            among = theirs[:, level].log_softmax(dim=-1)[:, begin : begin + size]
            ours = network.table.log_probabilities(states[:, 0, level], level)
            torch.testing.assert_close(ours, among, atol=1e-4, rtol=1e-4)
            begin += size


@pytest.mark.parametrize("normalise", ["table", "trie"])
@pytest.mark.parametrize("beam", [4, N_ITEMS])
def test_items_are_those_of_generate(model: Any, catalogue: Catalogue, normalise: str, beam: int) -> None:
    codes = [tokens(catalogue, [item]) for item in range(N_ITEMS)]

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        before = prefix[1:].tolist()
        return sorted({row[len(before)] for row in codes if row[: len(before)] == before})

    found = model.generate(
        **inputs(catalogue, HISTORIES),
        max_new_tokens=len(SIZES),
        num_beams=beam,
        num_return_sequences=4,
        prefix_allowed_tokens_fn=allowed,
        length_penalty=0.0,
        renormalize_logits=normalise == "trie",
        return_dict_in_generate=True,
        output_scores=True,
    )
    theirs = [codes.index(row) for row in found.sequences[:, 1:].tolist()]
    made = from_t5(
        model,
        catalogue,
        LENGTH,
        objective={"kind": "autoregressive", "normalise": normalise, "beam": beam},
    )
    items, scores = made.recommend(Histories.of(HISTORIES), 4, exclude_history=False)
    np.testing.assert_array_equal(items.ravel(), theirs)
    np.testing.assert_allclose(scores.ravel(), found.sequences_scores, atol=1e-4)


def test_a_folder_is_read_and_what_was_read_can_be_saved(
    model: Any, catalogue: Catalogue, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "theirs")
    made = from_t5(tmp_path / "theirs", catalogue, LENGTH)
    expected = from_t5(model, catalogue, LENGTH).recommend(Histories.of(HISTORIES), 5)
    (tmp_path / "ours").mkdir()
    made.save(tmp_path / "ours")
    for some in (made, Generative.load(tmp_path / "ours", catalogue)):
        for left, right in zip(some.recommend(Histories.of(HISTORIES), 5), expected, strict=True):
            np.testing.assert_array_equal(left, right)


def test_what_cannot_be_read_is_said(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="only the first version can be read"):
        from_t5(tiny(feed_forward_proj="gated-gelu"), catalogue)
    with pytest.raises(ValueError, match="the codes need 15 tokens, and this T5 knows 13"):
        from_t5(tiny(vocab_size=13), catalogue, first=3)


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_those_of_hugging_face(both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = Distances(1, -90, 90)
    expected = T5Attention._relative_position_bucket(-torch.arange(-90, 91), both_ways, 32, 128)
    assert buckets(distances, 32, 128, both_ways).tolist() == expected.tolist()
