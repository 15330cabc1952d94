"""Chapter 07, second half: in-context learning beside fine-tuning, on a real model (Dai et al. 2023).

The same demonstrations are shown to a model in a prompt, and taught to a copy of it by gradient descent. Do
the two change what the model does to a query in the same way? An untrained model, random updates and
demonstrations of something else are the controls (Deutch et al. 2024).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from course_lib import lm
from course_lib.fewshot.demonstrations import (
    FORMATS,
    Case,
    Format,
    Pair,
    Setting,
    centred,
    label_log_probs,
    settings,
    truth,
)
from course_lib.studies import results

# Fine-tuning


def sharing(model: lm.LanguageModel) -> tuple[lm.LanguageModel, dict[str, nn.Parameter]]:
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


def answer_loss(model: lm.LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """−log p(answer | prompt), mean over its tokens, in nats; with gradients."""
    tokens = torch.tensor([[*prompt, *answer]], device=model.device)
    logits = model.model(input_ids=tokens, use_cache=False, logits_to_keep=len(answer) + 1).logits
    return nn.functional.cross_entropy(logits[0, :-1], tokens[0, -len(answer) :])


def layer_losses(model: lm.LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
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


def finetune(
    model: lm.LanguageModel,
    format: Format,
    demonstrations: Sequence[Pair],
    lr: float,
    loss: Callable[..., torch.Tensor] = answer_loss,
) -> lm.LanguageModel:
    """One step of gradient descent on keys and values for each demonstration, in order (Dai et al. 2023).

    Args:
        model: stays as it is.
        format: how a demonstration is written, alone, without the others.
        demonstrations: pairs (x, y) to learn.
        lr: how far each step goes.
        loss: `answer_loss` or `layer_losses`.

    Returns:
        The fine-tuned model, which shares the other weights with the given one.
    """
    tuned, weights = sharing(model)
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
    other, weights = sharing(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in weights.items():
            moved = (tuned.model.get_parameter(name) - weight).norm()
            direction = torch.randn(weight.shape, generator=generator).to(weight)
            weight += times * moved * direction / direction.norm()
    return other


def untrained(model: lm.LanguageModel, seed: int = 0) -> lm.LanguageModel:
    """The negative control: a model of the same shape with the random weights that training starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.model.config)
    return replace(
        model, name=f"untrained {model.name}", model=fresh.to(model.device, model.model.dtype).eval()
    )


# What the two do to a query


class Look(NamedTuple):
    """What a model does to the Q queries of a case, read at the last token of each prompt."""

    outputs: torch.Tensor  # (Q, layers, heads, head_dim) what the heads write, before the output projection
    scores: torch.Tensor  # (Q, layers, heads, last) attention scores on the last tokens, of mean zero
    choices: torch.Tensor  # (Q,) the label chosen, without the tilt to a label that all queries share


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
    return Look(out.heads[:, :, 0], scores - scores.mean(-1, keepdim=True), centred(log_p).argmax(-1))


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


# The table of the chapter


UPDATES = (
    "gradient descent",
    "layer-causal",
    "wrong labels",
    "the other task",
    "random direction",
    "random, × 50",
)
LR, SHOTS = 0.003, 8


def taught(model: lm.LanguageModel, update: str, here: Setting, there: Setting) -> lm.LanguageModel:
    """A model after one of the `UPDATES`; `there` is a setting of the other task."""
    shown = here.case.demonstrations
    if update == "layer-causal":
        return finetune(model, here.format, shown, LR, layer_losses)
    if update == "wrong labels":
        next_label = dict(zip(here.labels, [*here.labels[1:], here.labels[0]], strict=True))
        return finetune(model, here.format, [(x, next_label[y]) for x, y in shown], LR)
    if update == "the other task":
        return finetune(model, there.format, there.case.demonstrations, LR)
    tuned = finetune(model, here.format, shown, LR)
    if update == "gradient descent":
        return tuned
    return random_update(model, tuned, seed=0, times=50 if update == "random, × 50" else 1)


def measure(
    model: lm.LanguageModel, here: Setting, there: Setting, updates: Sequence[str] = UPDATES
) -> list[dict[str, Any]]:
    """In-context learning beside each update, on one case: a row of a results file each."""
    right = truth([here.case], here.labels)[0]
    zero, icl = (look(model, here.format, here.case, shots, here.labels) for shots in (0, SHOTS))
    rows = []
    for update in updates:
        tuned = look(taught(model, update, here, there), here.format, here.case, 0, here.labels)
        by_tuning, by_icl = recalled(icl, tuned, zero, right)
        moved = [(each.outputs - zero.outputs).flatten(2).norm(dim=-1).mean() for each in (tuned, icl)]
        found = {
            "direction": same_direction(icl, tuned, zero).mean(),
            "sideways": same_direction(icl, tuned, zero, sideways=True).mean(),
            "attention": same_attention(icl, tuned).mean(),
            "attention before": same_attention(icl, zero).mean(),
            "size": moved[0] / moved[1],
            "accuracy": [(each.choices == right).double().mean() for each in (zero, icl, tuned)],
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both tasks on a model and on an untrained one, and writes a results file."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.learning.finetuning", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="with k_proj and v_proj, as Llama has them")
    parser.add_argument("--cases", type=int, default=10, help="of each task")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results file")
    given = parser.parse_args(arguments)
    model = lm.load(given.model)
    drawn = {task: settings(task, given.cases) for task in FORMATS}
    rows = []
    for task, other in (("sentiment", "topic"), ("topic", "sentiment")):
        for i, (here, there) in enumerate(zip(drawn[task], drawn[other], strict=True)):
            for who, asked in (("trained", model), ("untrained", untrained(model))):
                named = {"task": task, "case": i, "model": who}
                rows += [named | row for row in measure(asked, here, there)]
                print(
                    *named.values(),
                    *(f"{r['update']} {r['direction']:.2f}" for r in rows[-len(UPDATES) :]),
                    sep=", ",
                )
    command = f"python -m course_lib.learning.finetuning --model {given.model} --cases {given.cases}"
    about = {"lr": LR, "shots": SHOTS, "queries": 12, "device": model.device.type}
    path = given.out / f"finetuning-{Path(given.model).name}.json"
    results.save(path, rows, model=given.model, command=command, settings=about)


if __name__ == "__main__":
    main()
