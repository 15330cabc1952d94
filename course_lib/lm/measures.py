"""What chapters measure on a language model again and again, made of `forward`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from course_lib.lm.actions import Attend, Read, Write, checked_prompts
from course_lib.lm.forward import forward
from course_lib.lm.model import LanguageModel
from course_lib.readouts import softmax


def token_losses(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    attend: Sequence[Attend] = (),
    write: Sequence[Write] = (),
) -> torch.Tensor:
    """−log p of every token after the first, given those before it.

    Args:
        model: a language model.
        prompts: N lists of T token ids.
        attend: layers and heads that attend in another way, see `forward`.
        write: activations to overwrite, see `forward`; positions are those of all tokens but the last.

    Returns:
        (N, T − 1), in nats.

    Raises:
        ValueError: the prompts are not equally long or shorter than two tokens, or the model lacks a token.
    """
    prompts = checked_prompts(model, prompts)
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(f"prompts: expected equal lengths of two tokens or more, got {sorted(lengths)}")
    following = torch.tensor([prompt[1:] for prompt in prompts], device=model.device)
    read = Read(logits=True, positions=range(following.shape[1]))
    logits = forward(model, [prompt[:-1] for prompt in prompts], read, write, attend).logits_at
    pairs = zip(logits, following, strict=True)  # one by one: the logits are large
    return torch.stack([cross_entropy(row.float(), tokens, reduction="none") for row, tokens in pairs])


def queries_and_keys(
    model: LanguageModel, prompt: Sequence[int], layers: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the heads of some layers compare: queries and keys (layers, n_heads, T, head_dim) of one prompt.

    Queries are scaled so that the model's attention is `readouts.softmax` at its default temperature, under
    the causal mask and, where a layer has one, its window.
    """
    queries, keys, _ = _attended(model, prompt, layers)
    return queries, keys


def values(model: LanguageModel, prompt: Sequence[int], layers: Sequence[int]) -> torch.Tensor:
    """What the heads of some layers average: values (layers, n_heads, T, head_dim) of one prompt."""
    return _attended(model, prompt, layers)[2]


def _attended(
    model: LanguageModel, prompt: Sequence[int], layers: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values, each (layers, n_heads, T, head_dim)."""
    seen, layers = {}, list(layers)

    def keep(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> tuple:
        group = model.n_heads // k.shape[1]  # heads that share a key and a value
        shared = (x[0].repeat_interleave(group, 0) for x in (k, v))
        seen[layer] = q[0].unflatten(1, (group, -1)).flatten(0, 1), *shared
        return softmax(q, k, v, mask)

    forward(model, [prompt], attend=[Attend(layer, partial(keep, layer)) for layer in layers])
    q, k, v = zip(*(seen[layer] for layer in layers), strict=True)
    return torch.stack(q), torch.stack(k), torch.stack(v)
