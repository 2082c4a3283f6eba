"""Random language models of a few thousand weights, with a tokenizer of their own: nothing is downloaded."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

_WORDS = [*(f"Item {i}" for i in range(30)), "The user chose these items, the latest last: next title"]


def write_tiny_language_model(folder: Path, kind: str = "llama", texts: Iterable[str] = _WORDS) -> Path:
    """Write a model of a kind, ``llama`` or ``gpt2``, and a tokenizer of bytes and pairs trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)  # fmt: skip
    size, ends = tokenizer.get_vocab_size(), {"bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any
        if kind == "gpt2":
            dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=size, n_positions=256, n_embd=16, n_layer=1, n_head=2, **dropouts, **ends
                )
            )
        else:
            config = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
            heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
            model = LlamaForCausalLM(
                LlamaConfig(vocab_size=size, max_position_embeddings=256, **config, **heads, **ends)
            )
    model.save_pretrained(folder)
    return folder


@functools.cache
def tiny_language_model() -> Path:
    """Return the folder of one, written once a process."""
    return write_tiny_language_model(Path(tempfile.mkdtemp(prefix="tiny-language-model-")))
