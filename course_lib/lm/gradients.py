"""Gradients of a language model: a copy whose keys and values can be trained, losses, an untrained model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from course_lib.lm.model import LanguageModel


def copy_keys_and_values(model: LanguageModel) -> tuple[LanguageModel, dict[str, nn.Parameter]]:
    """A model that shares all weights with the given one but those of keys and values, and these by name.

    Raises:
        ValueError: its keys and values have no weights of their own, as in GPT-2.
    """
    names = [
        name
        for name, _ in model.model.named_parameters()
        if name.endswith(("k_proj.weight", "v_proj.weight"))
    ]
    if len(names) != 2 * model.n_layers:
        raise ValueError(
            f"{model.name}: expected weights k_proj and v_proj in every layer, found {len(names)}"
        )
    shared = {id(p): p for name, p in model.model.named_parameters() if name not in names}
    other = replace(model, model=copy.deepcopy(model.model, shared))
    return other, {name: other.model.get_parameter(name) for name in names}


def answer_loss(model: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """−log p(answer | prompt), mean over its tokens, in nats; with gradients."""
    tokens = torch.tensor([[*prompt, *answer]], device=model.device)
    logits = model.model(input_ids=tokens, use_cache=False, logits_to_keep=len(answer) + 1).logits
    return nn.functional.cross_entropy(logits[0, :-1], tokens[0, -len(answer) :])


def layer_losses(model: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """The sum over layers of `answer_loss` as if the model ended there, with gradients in that layer only.

    So a layer learns only from what it and those below it compute (Deutch et al. 2024): it is given the
    residual stream as a constant, and its output goes through the model's last norm and readout.
    """
    tokens = torch.tensor([[*prompt, *answer]], device=model.device)
    base, head, ends = model.model.base_model, model.model.get_output_embeddings(), []

    def cut(module: nn.Module, args: tuple) -> tuple:
        return (args[0].detach(), *args[1:])

    def keep(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        ends.append(output[0, -len(answer) - 1 : -1])

    hooks = [layer.register_forward_pre_hook(cut) for layer in base.layers]
    hooks += [layer.register_forward_hook(keep) for layer in base.layers]
    try:
        base(input_ids=tokens, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    logits = head(base.norm(torch.stack(ends)))  # (layers, answer, vocab)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[0, -len(answer) :].repeat(len(ends))
    ) * len(ends)


def untrained(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """The negative control: a model of the same shape with the random weights that training starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.model.config)
    return replace(
        model, name=f"untrained {model.name}", model=fresh.to(model.device, model.model.dtype).eval()
    )
