"""Attention heads: silence some of them, and the matrices through which they write."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.lm.actions import Read, Write
from course_lib.lm.forward import forward
from course_lib.lm.model import LanguageModel
from course_lib.lm.passes import layers_of

Head = tuple[int, int]  # layer, head
OUTPUT_PROJECTIONS = ("self_attn.o_proj", "attn.c_proj", "attention.dense")  # Llama and its kin, GPT-2, NeoX
LAST_NORMS = ("norm", "ln_f", "final_layer_norm")


def ablation(heads: Sequence[Head], instead: torch.Tensor | None = None) -> list[Write]:
    """Writes that make heads return the same whatever they see, at all positions.

    Args:
        heads: the heads.
        instead: (layers, heads, head_dim) what each head of the model returns then, before the output
            projection, for instance `head_means`; None: zero.
    """
    values = [0.0 if instead is None else instead[layer, head] for layer, head in heads]
    return [Write(layer, value, None, head) for (layer, head), value in zip(heads, values, strict=True)]


def strongest_heads(score: torch.Tensor, n: int) -> list[Head]:
    """The n heads with the highest of some scores (layers, heads), the highest first."""
    return [divmod(int(i), score.shape[1]) for i in score.flatten().topk(n).indices]


def random_heads(model: LanguageModel, n: int, seed: int, without: Sequence[Head] = ()) -> list[Head]:
    """The control of heads that stand out: n heads drawn from all others."""
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    return random.Random(seed).sample([head for head in every if head not in set(without)], n)


def head_means(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean of what each head returns behind the document start: (layers, heads, head_dim).

    Args:
        model: a language model.
        prompts: lists of token ids; positions that all of them have are averaged.

    Raises:
        ValueError: see `forward`; a prompt ends with the document start.
    """
    positions = range(len(model.document_start), min(map(len, prompts)))
    if not positions:
        raise ValueError("prompts: expected a token behind the document start in each")
    return forward(model, prompts, Read(heads=range(model.n_layers), positions=positions)).heads.mean((0, 2))


def output_projections(model: LanguageModel) -> torch.Tensor:
    """The matrix W_O through which each head writes into the residual stream: (layers, heads, head_dim, d).

    Raises:
        ValueError: an attention layer calls its output projection by a name not known here.
    """
    matrices = []
    for i, layer in enumerate(layers_of(model.model)):
        found = [module for name, module in layer.named_modules() if name in OUTPUT_PROJECTIONS]
        if len(found) != 1:
            raise ValueError(f"layer {i} of {model.name}: expected one of {', '.join(OUTPUT_PROJECTIONS)}")
        weight = found[0].weight if isinstance(found[0], Conv1D) else found[0].weight.T  # (inputs, d)
        matrices.append(weight.detach().unflatten(0, (model.n_heads, -1)))
    return torch.stack(matrices)


def unembedding(model: LanguageModel) -> torch.Tensor:
    """What a vector in the residual stream adds to the logits, up to the last norm's scale: (vocab, d).

    The unembedding with the last norm's gain, and its centring if it has one, folded in.

    Raises:
        ValueError: the last norm has a name not known here.
    """
    named = dict(model.model.base_model.named_children())
    found = [named[name] for name in LAST_NORMS if name in named]
    if len(found) != 1:
        raise ValueError(f"{model.name}: expected one of {', '.join(LAST_NORMS)} behind the last layer")
    norm, weight = found[0], model.model.get_output_embeddings().weight.detach()
    if isinstance(norm, nn.LayerNorm):
        weight = weight * norm.weight.detach()
        return weight - weight.mean(-1, keepdim=True)
    return weight * norm(torch.ones_like(weight[0])).detach()  # an RMS norm
