"""One engine for everything the course does to a language model: score, read, write, attend otherwise.

`forward` runs any number of prompts. What prompts share at their beginning is computed once: they are packed
into one sequence (see `packing`) that passes through the model at once (see `passes`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm  # in a notebook, too, TQDM_DISABLE=1 turns it off

from course_lib.lm.actions import (
    Attend,
    Output,
    Read,
    Weigh,
    Write,
    check_layers,
    checked_attend,
    checked_positions,
    checked_prompts,
    checked_weigh,
    checked_write,
    empty_output,
)
from course_lib.lm.model import LanguageModel
from course_lib.lm.packing import SHARED, Blocks, Packing, Problem, batches, pack, stack
from course_lib.lm.passes import Pass

MAX_TOKENS = 2048  # rows computed at a time: bounds the memory, and suits a CPU's caches


@torch.no_grad()
def forward(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    read: Read | None = None,
    write: Write | Sequence[Write] = (),
    attend: Attend | Sequence[Attend] = (),
    weigh: Weigh | Sequence[Weigh] = (),
    *,
    max_tokens: int = MAX_TOKENS,
) -> Output:
    """Run prompts through a model, computing shared prefixes once.

    Args:
        model: a language model.
        prompts: N lists of token ids of any lengths, which start with `model.document_start`.
        read: activations to keep; what is read has been written before.
        write: activations to overwrite, one after another.
        attend: layers and heads that attend in another way; `read` still gives softmax's attention weights.
        weigh: factors of attention from one position to another; `read` gives the weights without them.
        max_tokens: how many tokens are computed at a time.

    Returns:
        The logits after each prompt's last token, and what was read.

    Raises:
        ValueError: a prompt, layer, head, position, value or readout does not fit the model, a layer is both
            to attend in another way and to be weighed, or the model's architecture attends in a way that this
            engine does not know.
    """
    read = read or Read()
    prompts = checked_prompts(model, prompts)
    positions = checked_positions(prompts, read.positions)  # (N, P)
    writes = [checked_write(model, prompts, w) for w in ([write] if isinstance(write, Write) else write)]
    attends = [checked_attend(model, a) for a in ([attend] if isinstance(attend, Attend) else attend)]
    weighs = [checked_weigh(model, prompts, w) for w in ([weigh] if isinstance(weigh, Weigh) else weigh)]
    if both := {a.layer for a in attends} & {layer for w in weighs for layer in w.layers}:
        raise ValueError(f"attend and weigh: layer {min(both)} is in both, expected it in one of them")
    check_layers(model, [*read.residual, *read.heads, *read.attention])
    out = empty_output(model, prompts, read, positions.shape[1])
    symbols = _symbols(prompts, writes, weighs)
    for batch in _progress(batches(symbols, max_tokens)):
        packing = pack([prompts[i] for i in batch], [symbols[i] for i in batch])
        blocks = packing.blocks(model.device)
        run = Pass(model.model, lambda layer, blocks=blocks: blocks)
        for a in attends:
            run.readouts[a.layer].append((a.readout, a.heads))
        for w in weighs:
            _plan_weigh(run, w, batch, packing)
        for w in writes:
            _plan_write(run, w, batch, packing)
        _plan_read(run, read, positions[batch], batch, packing, out)
        keep = [path[-1:] for path in packing.paths]
        if read.logits:
            keep += [path[where] for path, where in zip(packing.paths, positions[batch], strict=True)]
        logits = run.logits(packing.tokens, packing.depth, np.concatenate(keep))
        out.logits[batch] = logits[: len(batch)]
        if read.logits:
            out.logits_at[batch] = logits[len(batch) :].unflatten(0, (len(batch), -1))
    return out


@torch.no_grad()
def sweep_layers(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    vectors: torch.Tensor,
    *,
    max_tokens: int = MAX_TOKENS,
) -> torch.Tensor:
    """Overwrite the residual stream at each prompt's last token, after each layer in turn, in one pass.

    A prompt's other tokens are the same for every layer, and below the patch so is the last token: the rows
    of the patched tokens join the sequence one layer after another, each attending to its prompt and itself.

    Args:
        model: a language model.
        prompts: N lists of token ids, which start with `model.document_start`.
        vectors: (L, N, d), what to write after layer l = 0 … L−1 of all L layers.
        max_tokens: how many tokens are computed at a time.

    Returns:
        (L, N, vocab): the logits when vectors[l] is written after layer l.

    Raises:
        ValueError: see `forward`; the shape of `vectors` is not (L, N, d).
    """
    prompts = checked_prompts(model, prompts)
    config, device, n_layers = model.model.config, model.device, model.n_layers
    if vectors.shape != (n_layers, len(prompts), config.hidden_size):
        expected = (n_layers, len(prompts), config.hidden_size)
        raise ValueError(f"vectors: shape {tuple(vectors.shape)}, expected (layers, prompts, d) = {expected}")
    vectors = vectors.to(device, model.model.dtype)
    stems = [prompt[:-1] for prompt in prompts]
    parts, places = [], []
    for batch in _progress(batches(stems, max_tokens, extra=n_layers)):
        packing = pack([stems[i] for i in batch])
        n, stem_rows = len(batch), len(packing.tokens)
        depth = np.r_[packing.depth, np.tile([len(stems[i]) for i in batch], n_layers)]
        tokens = np.r_[packing.tokens, np.zeros(n_layers * n, int)]
        patched = stem_rows + np.arange(n_layers * n).reshape(n_layers, n)  # the row of layer l, prompt i
        run = Pass(model.model, _growing_blocks(packing, depth, patched, device))
        run.rows = lambda layer, n=n, stem_rows=stem_rows: stem_rows + layer * n
        for layer in range(n_layers):
            joining = vectors[layer, batch]
            run.residual[layer].append(lambda hidden, joining=joining: torch.cat([hidden, joining]))
        in_order = np.argsort(batch)
        keep = patched[:, in_order].ravel()
        parts.append(run.logits(tokens, depth, keep).view(n_layers, n, -1))
        places += [batch[i] for i in in_order]
    # one part is in order: it is not copied, as it may be large
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)[:, np.argsort(places)]


def _growing_blocks(
    packing: Packing, depth: np.ndarray, patched: np.ndarray, device: torch.device
) -> Callable[[int], list[Blocks]]:
    """For each layer the blocks of the stems, and those of the patched rows that are there by then."""
    runs = np.arange(len(patched))
    problems = [
        Problem(own, runs, np.r_[path, own], np.r_[np.full(len(path), SHARED), runs])
        for path, own in zip(packing.paths, patched.T, strict=True)
    ]
    stems, tips = packing.blocks(device), stack(problems, depth, device)

    def at(layer: int) -> list[Blocks]:
        if layer == 0:
            return stems
        rows = int(patched[layer - 1, -1]) + 1
        grown = [
            replace(
                tip,
                queries=tip.queries[:, :layer],
                keys=tip.keys.clamp(max=rows - 1),  # rows still to come are masked
                mask=tip.mask[:, :, :layer],
                distance=tip.distance[:, :, :layer],
                slots=torch.arange(len(tip.queries) * layer, device=device),
            )
            for tip in tips
        ]
        return stems + grown

    return at


def _plan_weigh(run: Pass, weigh: Weigh, batch: list[int], packing: Packing) -> None:
    """Add the factors of the prompts `batch` to a pass."""
    factors = np.ones((len(packing.tokens), len(packing.tokens)), np.float32)
    for i, path in zip(batch, packing.paths, strict=True):
        for q, k, factor in weigh.links[i]:
            factors[path[q], path[k]] = factor
    log_factors = torch.from_numpy(factors).to(run.model.device).log()
    for layer in weigh.layers:
        run.factors[layer].append((log_factors, weigh.heads))


def _plan_write(run: Pass, write: Write, batch: list[int], packing: Packing) -> None:
    """Add a write's action to a pass over the prompts `batch`."""
    value, position = write.value, write.position
    number = {prompt: k for k, prompt in enumerate(write.prompts)}
    written = [(number[i], path) for i, path in zip(batch, packing.paths, strict=True) if i in number]
    if not written:
        return
    paths = [path if position is None else path[[position[k]]] for k, path in written]
    rows = np.concatenate(paths)
    if _per_prompt(write):
        value = value[np.repeat([k for k, _ in written], [len(path) for path in paths])]  # (rows, d)
    else:
        rows = np.unique(rows)  # the same value: a shared row is written once
    rows = torch.from_numpy(rows).to(run.model.device)

    def act(activation: torch.Tensor) -> torch.Tensor:
        activation = activation.clone()
        target = activation if write.head is None else activation[:, write.head]
        target[rows] = target[rows] + value if write.add else value
        return activation

    (run.residual if write.head is None else run.heads)[write.layer].append(act)


def _plan_read(
    run: Pass, read: Read, positions: np.ndarray, batch: list[int], packing: Packing, out: Output
) -> None:
    """Add the actions that keep activations at `positions` (n, P) of the prompts `batch`."""
    device = run.model.device
    rows = np.array([path[where] for path, where in zip(packing.paths, positions, strict=True)])
    rows = torch.from_numpy(rows).to(device)  # (n, P)
    for j, layer in enumerate(read.residual):
        run.residual[layer].append(lambda hidden, j=j: _keep(out.residual, batch, j, hidden, hidden[rows]))
    for j, layer in enumerate(read.heads):
        run.heads[layer].append(lambda heads, j=j: _keep(out.heads, batch, j, heads, heads[rows]))
    if not read.attention:
        return
    time = np.arange(out.attention.shape[-1])
    keys = np.array([np.resize(path, len(time)) for path in packing.paths])  # (n, T), repeated behind the end
    distance = torch.from_numpy(positions[:, :, None] - time).to(device)  # (n, P, T)
    keys = torch.from_numpy(keys).to(device)

    def weights(query: torch.Tensor, key: torch.Tensor, scaling: float, window: int | None) -> torch.Tensor:
        asked = query[rows].unflatten(2, (key.shape[1], -1))  # (n, P, kv, group, head_dim)
        scores = (
            torch.einsum("npkgd,ntkd->npkgt", asked, key[keys]).flatten(2, 3) * scaling
        )  # (n, P, heads, T)
        seen = (distance >= 0) & (distance < (window or torch.inf))
        return scores.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1)

    for j, layer in enumerate(read.attention):
        run.attention[layer].append(lambda *args, j=j: _keep(out.attention, batch, j, None, weights(*args)))


def _keep(
    store: torch.Tensor, batch: list[int], j: int, activation: torch.Tensor, part: torch.Tensor
) -> torch.Tensor:
    store[batch, j] = part
    return activation


def _symbols(prompts: list[list[int]], writes: list[Write], weighs: list[Weigh]) -> list[list[int]]:
    """The prompts with another number wherever an action makes a token differ from its equals elsewhere."""
    symbols = [list(prompt) for prompt in prompts]
    numbers: dict[tuple, int] = {}
    for w, write in enumerate(writes):
        if write.position is None and not _per_prompt(write) and len(write.prompts) == len(prompts):
            continue  # the same everywhere
        for k, i in enumerate(write.prompts):
            prompt = symbols[i]
            for t in range(len(prompt)) if write.position is None else [write.position[k]]:
                mark = (prompt[t], w, k if _per_prompt(write) else None)
                prompt[t] = -1 - numbers.setdefault(mark, len(numbers))
    for w, weigh in enumerate(weighs):
        for prompt, links in zip(symbols, weigh.links, strict=True):
            asking: dict[int, list] = defaultdict(list)
            for q, k, factor in links:
                asking[q].append((k, factor))
            for t, seen in asking.items():
                mark = (prompt[t], "weigh", w, tuple(seen))
                prompt[t] = -1 - numbers.setdefault(mark, len(numbers))
    return symbols


def _per_prompt(write: Write) -> bool:
    return isinstance(write.value, torch.Tensor) and write.value.ndim == 2


def _progress(groups: list[list[int]]) -> Iterable[list[int]]:
    return tqdm(groups, desc="forward", delay=5, leave=False)
