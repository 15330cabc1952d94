"""In-context learning beside fine-tuning, on a real model (Dai et al. 2023).

The same demonstrations are shown to a model in a prompt, and taught to a copy of it by gradient descent. Do
the two change what the model does to a query in the same way? An untrained model, random updates and
demonstrations of something else are the controls (Deutch et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from course_lib import lm
from course_lib.fewshot import (
    Case,
    Classification,
    Format,
    Pair,
    label_log_probs,
    right_labels,
    without_tilt,
)

# Fine-tuning


def finetune(
    model: lm.LanguageModel,
    format: Format,
    demonstrations: Sequence[Pair],
    lr: float,
    loss: Callable[..., torch.Tensor] = lm.answer_loss,
) -> lm.LanguageModel:
    """One step of gradient descent on keys and values for each demonstration, in order (Dai et al. 2023).

    Args:
        model: stays as it is.
        format: how a demonstration is written, alone, without the others.
        demonstrations: pairs (x, y) to learn.
        lr: how far each step goes.
        loss: `lm.answer_loss` or `lm.layer_losses`.

    Returns:
        The fine-tuned model, which shares the other weights with the given one.
    """
    tuned, weights = lm.copy_keys_and_values(model)
    for x, y in demonstrations:
        gradients = torch.autograd.grad(loss(tuned, *format.tokens(tuned, [], x, y)), list(weights.values()))
        with torch.no_grad():
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                weight -= lr * gradient
    return tuned


def random_update(
    model: lm.LanguageModel, tuned: lm.LanguageModel, seed: int, times: float = 1.0
) -> lm.LanguageModel:
    """The control: each matrix of keys and values moved as far as by fine-tuning, but in a random direction.

    Args:
        model: stays as it is.
        tuned: the same model after fine-tuning.
        seed: another seed draws other directions.
        times: so many times as far as fine-tuning.
    """
    other, weights = lm.copy_keys_and_values(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in weights.items():
            moved = (tuned.model.get_parameter(name) - weight).norm()
            direction = torch.randn(weight.shape, generator=generator).to(weight)
            weight += times * moved * direction / direction.norm()
    return other


# What the two do to a query


class Look(NamedTuple):
    """What a model does to the Q queries of a case, read at the last token of each prompt."""

    outputs: torch.Tensor  # (Q, layers, heads, head_dim) what the heads write, before the output projection
    scores: torch.Tensor  # (Q, layers, heads, last) attention scores on the last tokens, of mean zero
    choices: torch.Tensor  # (Q,) the most likely label without the tilt


def look(model: lm.LanguageModel, format: Format, case: Case, shots: int, labels: Sequence[str]) -> Look:
    """Asks the queries of a case after its first demonstrations.

    Attention scores are what softmax is taken of, up to a constant that no attention depends on. They are
    kept on as many last tokens as the shortest query has, which are the same with and without demonstrations.

    Args:
        model: a language model.
        format: how prompts are written.
        case: demonstrations and queries.
        shots: how many of the demonstrations are shown.
        labels: the answers to choose from.
    """
    last = min(len(format.tokens(model, [], x)[0]) for x, _ in case.queries) - len(model.document_start)
    prompts = [format.tokens(model, case.demonstrations[:shots], x)[0] for x, _ in case.queries]
    layers = range(model.n_layers)
    out = lm.forward(model, prompts, lm.Read(heads=layers, attention=layers))
    alpha = out.attention[:, :, 0]  # (Q, layers, heads, T)
    near = torch.stack([a[..., len(p) - last : len(p)] for a, p in zip(alpha, prompts, strict=True)])
    scores = near.clamp_min(1e-30).log()
    log_p = label_log_probs(model, format, [case], [shots], labels)[0, 0]  # (Q, labels)
    return Look(out.heads[:, :, 0], scores - scores.mean(-1, keepdim=True), without_tilt(log_p).argmax(-1))


def same_direction(icl: Look, tuned: Look, zero: Look, *, sideways: bool = False) -> torch.Tensor:
    """SimAOU of Dai et al.: cosine of how demonstrations and how fine-tuning change the heads' outputs.

    Args:
        icl: the queries after demonstrations.
        tuned: the queries alone, asked of the fine-tuned model.
        zero: the queries alone, asked of the model as it was.
        sideways: leave out of both changes, head by head, what is along the outputs of `zero`. Two changes
            that both make these shorter agree in that, whatever else they do.

    Returns:
        (layers,) means over queries.
    """
    changes = [each.outputs - zero.outputs for each in (icl, tuned)]
    if sideways:
        along = nn.functional.normalize(zero.outputs, dim=-1)
        changes = [change - (change * along).sum(-1, keepdim=True) * along for change in changes]
    return torch.cosine_similarity(*(change.flatten(2) for change in changes), dim=-1).mean(0)


def same_attention(icl: Look, other: Look) -> torch.Tensor:
    """SimAM of Dai et al.: cosine of two models' attention scores within the query, (layers,) means."""
    return torch.cosine_similarity(icl.scores, other.scores, dim=-1).mean((0, 2))


def recalled(icl: Look, tuned: Look, zero: Look, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rec2FTP of Dai et al., as two masks (Q,) over queries.

    Args:
        icl: as in `same_direction`.
        tuned: as there.
        zero: as there.
        truth: (Q,) the right labels.

    Returns:
        Where fine-tuning turned a wrong answer right; and where demonstrations did. Rec2FTP is the share of
        the first that are in the second, to be compared with the share of all wrong answers that are.
    """
    wrong = zero.choices != truth
    return wrong & (tuned.choices == truth), wrong & (icl.choices == truth)


# Updates beside each other


UPDATES = (
    "gradient descent",
    "layer-causal",
    "wrong labels",
    "the other task",
    "random direction",
    "random, × 50",
)
LR, SHOTS = 0.003, 8
Lesson = tuple[Classification, Case]  # a task, and one case of it


def updated(model: lm.LanguageModel, update: str, lesson: Lesson, other: Lesson) -> lm.LanguageModel:
    """A model after one of the `UPDATES` by the demonstrations of a case; `other` is a case of another task.

    Raises:
        ValueError: no update is called so.
    """
    if update not in UPDATES:
        raise ValueError(f"update={update!r}: expected one of {', '.join(UPDATES)}")
    task, shown = lesson[0], lesson[1].demonstrations
    if update == "layer-causal":
        return finetune(model, task.format, shown, LR, lm.layer_losses)
    if update == "wrong labels":
        next_label = dict(zip(task.labels, [*task.labels[1:], task.labels[0]], strict=True))
        return finetune(model, task.format, [(x, next_label[y]) for x, y in shown], LR)
    if update == "the other task":
        return finetune(model, other[0].format, other[1].demonstrations, LR)
    tuned = finetune(model, task.format, shown, LR)
    if update == "gradient descent":
        return tuned
    return random_update(model, tuned, seed=0, times=50 if update == "random, × 50" else 1)


def compare_updates(
    model: lm.LanguageModel, lesson: Lesson, other: Lesson, updates: Sequence[str] = UPDATES
) -> list[dict[str, Any]]:
    """In-context learning beside each update, on one case: a row of numbers each.

    Args:
        model: a language model.
        lesson: the task and the case that is shown and taught.
        other: a case of another task.
        updates: some of `UPDATES`.
    """
    task, case = lesson
    right = right_labels([case], task.labels)[0]
    zero, icl = (look(model, task.format, case, shots, task.labels) for shots in (0, SHOTS))
    rows = []
    for update in updates:
        tuned = look(updated(model, update, lesson, other), task.format, case, 0, task.labels)
        by_tuning, by_icl = recalled(icl, tuned, zero, right)
        moved = [(each.outputs - zero.outputs).flatten(2).norm(dim=-1).mean() for each in (tuned, icl)]
        found = {
            "direction": same_direction(icl, tuned, zero).mean(),
            "sideways": same_direction(icl, tuned, zero, sideways=True).mean(),
            "attention": same_attention(icl, tuned).mean(),
            "attention before": same_attention(icl, zero).mean(),
            "size": moved[0] / moved[1],
            "calibrated accuracy": [(each.choices == right).double().mean() for each in (zero, icl, tuned)],
            "recalled": [
                (by_tuning & by_icl).sum(),
                by_tuning.sum(),
                by_icl.sum(),
                (zero.choices != right).sum(),
            ],
        }
        rows.append({"update": update, **{name: _plain(value) for name, value in found.items()}})
    return rows


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list) else round(float(value), 4)
