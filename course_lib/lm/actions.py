"""What can be asked of a forward pass: activations to read, activations to write, other ways to attend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from course_lib.lm.model import LanguageModel


@dataclass(frozen=True)
class Read:
    """What to keep of a forward pass: activations of some layers at some positions.

    Attributes:
        residual: layers, counted from 0, whose output (the residual stream after the layer) is kept.
        heads: layers whose per-head outputs are kept, as they are before the output projection.
        attention: layers whose attention weights are kept.
        logits: whether the logits are kept, too, besides those after the last token.
        positions: P positions in every prompt, or one list of P positions for each; -1 is the last token.
    """

    residual: Sequence[int] = ()
    heads: Sequence[int] = ()
    attention: Sequence[int] = ()
    logits: bool = False
    positions: Sequence[int] | Sequence[Sequence[int]] = (-1,)


@dataclass(frozen=True)
class Write:
    """An activation to overwrite: the residual stream after a layer, or one head's output in it.

    Attributes:
        layer: the layer, counted from 0.
        value: a number, a vector (d,), or one vector per prompt (N, d), where d is the width of the residual
            stream, or of a head if `head` is given. The number 0 ablates.
        position: in every prompt, or one position for each; None writes at all positions.
        head: the head whose output is written, before the output projection; None: the residual stream.
        add: add the value instead of replacing what is there.
        prompts: the N prompts in which it is written, by number; None: in all.
    """

    layer: int
    value: torch.Tensor | float
    position: int | Sequence[int] | None = -1
    head: int | None = None
    add: bool = False
    prompts: Sequence[int] | None = None


@dataclass(frozen=True)
class Attend:
    """Another way to attend in a layer.

    Attributes:
        layer: the layer, counted from 0.
        readout: what takes the place of softmax, see `course_lib.readouts.averages`: called with queries
            (B, kv, m, head_dim), scaled so that the model itself takes the softmax of scores / √head_dim,
            keys and values (B, kv, n, head_dim), and a mask (B, 1, m, n), where kv counts key-value heads and
            m runs over all queries that share them; returns outputs (B, kv, m, head_dim) and weights.
        heads: the query heads in which it does so; None: all.
    """

    layer: int
    readout: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    heads: Sequence[int] | None = None


@dataclass(frozen=True)
class Weigh:
    """Attention from one position to another, times a factor before the weights are made to sum to one.

    Attributes:
        layers: the layers, counted from 0.
        links: for each prompt triples (position that asks, position that is seen, factor); 0 cuts the link.
        heads: the query heads in which it is so; None: all.
    """

    layers: Sequence[int]
    links: Sequence[Sequence[tuple[int, int, float]]]
    heads: Sequence[int] | None = None


@dataclass(frozen=True)
class Output:
    """What `forward` returns for N prompts, the longest of T tokens."""

    logits: torch.Tensor  # (N, vocab) after each prompt's last token
    logits_at: torch.Tensor | None = None  # (N, P, vocab) after the reading positions
    residual: torch.Tensor | None = None  # (N, layers, P, d)
    heads: torch.Tensor | None = None  # (N, layers, P, n_heads, head_dim)
    attention: torch.Tensor | None = None  # (N, layers, P, n_heads, T), zero behind the reading position


def empty_output(model: LanguageModel, prompts: list[list[int]], read: Read, n_positions: int) -> Output:
    """Room for what `forward` returns."""
    config, n = model.model.config, len(prompts)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def room(*shape: int) -> torch.Tensor:
        return torch.empty(n, *shape, device=model.device, dtype=model.model.dtype)

    def empty(layers: Sequence[int], *shape: int) -> torch.Tensor | None:
        return room(len(layers), n_positions, *shape) if layers else None

    return Output(
        logits=room(config.vocab_size),
        logits_at=room(n_positions, config.vocab_size) if read.logits else None,
        residual=empty(read.residual, config.hidden_size),
        heads=empty(read.heads, model.n_heads, head_dim),
        attention=empty(read.attention, model.n_heads, max(map(len, prompts))),
    )


def checked_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The prompts as lists of integers, of which the model knows every one."""
    prompts = [[int(token) for token in prompt] for prompt in prompts]
    if not prompts:
        raise ValueError("prompts is empty: expected at least one list of token ids")
    vocab, longest = model.model.config.vocab_size, model.model.config.max_position_embeddings
    for i, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= longest:
            raise ValueError(f"prompts[{i}] has {len(prompt)} tokens: expected 1 to {longest}")
        if not 0 <= min(prompt) <= max(prompt) < vocab:
            raise ValueError(f"prompts[{i}] has a token outside 0 … {vocab - 1}")
    return prompts


def check_layers(model: LanguageModel, layers: Iterable[int]) -> None:
    """Raises a ValueError for a layer that the model does not have."""
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise ValueError(f"layer {layer}: expected 0 … {model.n_layers - 1}")


def checked_positions(prompts: list[list[int]], positions: Sequence) -> np.ndarray:
    """(N, P) positions counted from the start."""
    lengths = np.array([len(prompt) for prompt in prompts])[:, None]
    given = np.asarray(positions, int)
    if given.ndim not in (1, 2) or (given.ndim == 2 and len(given) != len(prompts)):
        raise ValueError(f"positions: shape {given.shape}, expected (P,) or ({len(prompts)}, P)")
    given = np.broadcast_to(given, (len(prompts), given.shape[-1]))
    outside = (given < -lengths) | (given >= lengths)
    if outside.any():
        i, j = np.argwhere(outside)[0]
        raise ValueError(f"position {given[i, j]} is outside prompts[{i}] of {lengths[i, 0]} tokens")
    return np.where(given < 0, given + lengths, given)


def checked_write(model: LanguageModel, prompts: list[list[int]], write: Write) -> Write:
    """The write with prompts listed, positions counted from the start, its value on the model's device."""
    check_layers(model, [write.layer])
    if write.head is not None:
        check_head(model, write.head)
    chosen = list(range(len(prompts)) if write.prompts is None else write.prompts)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(prompts))):
        raise ValueError(f"prompts={chosen}: expected different numbers 0 … {len(prompts) - 1}")
    position, value = write.position, write.value
    if position is not None:
        each = [position] if isinstance(position, int) else [[t] for t in position]
        position = checked_positions([prompts[i] for i in chosen], each)[:, 0]
    if isinstance(value, torch.Tensor) and value.ndim:
        config = model.model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = config.hidden_size if write.head is None else head_dim
        if value.shape not in {(width,), (len(chosen), width)}:
            shape = tuple(value.shape)
            raise ValueError(f"value: shape {shape}, expected ({width},) or ({len(chosen)}, {width})")
        value = value.to(model.device, model.model.dtype)
    return replace(write, prompts=chosen, position=position, value=value)


def checked_attend(model: LanguageModel, attend: Attend) -> Attend:
    """The same, with the heads listed."""
    check_layers(model, [attend.layer])
    if not callable(attend.readout):
        raise ValueError(f"readout: expected a function, got {attend.readout!r}")
    heads = list(range(model.n_heads) if attend.heads is None else attend.heads)
    for head in heads:
        check_head(model, head)
    return replace(attend, heads=heads)


def checked_weigh(model: LanguageModel, prompts: list[list[int]], weigh: Weigh) -> Weigh:
    """The same, with the heads listed and positions counted from the start."""
    check_layers(model, weigh.layers)
    heads = list(range(model.n_heads) if weigh.heads is None else weigh.heads)
    for head in heads:
        check_head(model, head)
    if len(weigh.links) != len(prompts):
        raise ValueError(
            f"links: got {len(weigh.links)} lists, expected one for each of {len(prompts)} prompts"
        )
    links = []
    for i, (prompt, each) in enumerate(zip(prompts, weigh.links, strict=True)):
        n = len(prompt)
        counted = [(q + n * (q < 0), k + n * (k < 0), float(factor)) for q, k, factor in each]
        for q, k, factor in counted:
            if not (0 <= k <= q < n and factor >= 0):
                raise ValueError(
                    f"links[{i}] has ({q}, {k}, {factor}): expected a position of {n} tokens, one not "
                    "behind it, and a factor of at least 0"
                )
        cut = Counter(q for q, _, factor in counted if factor == 0)
        if whole := [q for q, number in cut.items() if number > q]:
            raise ValueError(f"links[{i}] cuts all that position {whole[0]} sees")
        links.append(counted)
    return replace(weigh, links=links, heads=heads)


def check_head(model: LanguageModel, head: int) -> None:
    """Raises a ValueError for a head that the model does not have."""
    if not 0 <= head < model.n_heads:
        raise ValueError(f"head {head}: expected 0 … {model.n_heads - 1}")
