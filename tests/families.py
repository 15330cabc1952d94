"""Tiny random models of the architectures that the course supports, in folders as a hub would hold them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
# family: (class, configuration, the tokenizer's special tokens, the token its documents start with)
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=2), {"bos_token": "<s>"}, "<s>"),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=128),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        "<|endoftext|>",
    ),
    "gpt_neox": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**SHAPE),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        "<|endoftext|>",
    ),
    "qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config(**SHAPE, num_key_value_heads=2),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "<|endoftext|>",
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **SHAPE,
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        {"bos_token": "<bos>", "eos_token": "<eos>"},
        "<bos>",
    ),
}


def make(family: str, folder: Path) -> Path:
    """Save a tiny random model of a family, with a byte-level tokenizer, and return its folder."""
    cls, config, special, _ = FAMILIES[family]
    alphabet = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, **special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config.vocab_size = len(tokenizer)
    model = cls(config)
    for parameter in model.parameters():  # far from the near-zero initialisation, so that mistakes show
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder
