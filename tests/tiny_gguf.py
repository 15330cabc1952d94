"""A tiny Llama in a GGUF file, laid out as llama.cpp writes it."""

from pathlib import Path

import families
import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KEY_HEADS = 4, 2
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def permuted(weight, n_heads):
    """A projection's rows in llama.cpp's order: the two halves that rotary embeddings pair, interleaved."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


def write(path: Path) -> dict[str, torch.Tensor]:
    """Write a tiny Llama with a byte-level tokenizer; return its weights under the names of transformers."""
    alphabet = sorted(families.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*CONTROL, *alphabet, "ĊĊ", "ĠĠ"]
    shape = families.SHAPE | {"num_key_value_heads": KEY_HEADS, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokens)))
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ċ Ċ", "Ġ Ġ"])  # transformers 5.6 reads a list of one as its element
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape["num_hidden_layers"])
    for name, tensor in parameters.items():
        heads = HEADS if "q_proj" in name else KEY_HEADS if "k_proj" in name else 0
        data = permuted(tensor.numpy(), heads) if heads else tensor.numpy()
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return parameters
