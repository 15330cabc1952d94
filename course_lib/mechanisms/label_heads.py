"""Locate and project, the heads: what each does for the answer, and what its scores agree with.

Heads are taken away one by one, and their attention to labels is compared with what two towers, a sentence
encoder or the right label would prefer. What is found on some prompts is to be tested on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from course_lib import lm
from course_lib.fewshot import Case, Classification, LaidOut, label_attention, label_scores, lay_out, layout

# What each head does for the answer


def without_direct_part(model: lm.LanguageModel, laid_out: LaidOut) -> torch.Tensor:
    """What the model says without what one head writes at the last token, for each head in turn.

    The final logits are a sum over what all parts of the model have written, divided by the last norm's
    scale; the part of one head is taken away, what others make of it stays. Norms between a head's output and
    the residual stream, as in Gemma, and the bias of the last norm are left out.

    Args:
        model: a language model.
        laid_out: N prompts.

    Returns:
        (N, layers, heads, labels) log p of the labels, on the CPU.
    """
    layers = range(model.n_layers)
    out = lm.forward(model, laid_out.prompts, lm.Read(residual=layers[-1:], heads=layers))
    towards, write = (
        lm.unembedding(model),
        lm.output_projections(model),
    )  # (V, d), (layers, heads, head_dim, d)
    found = []
    for logits, residual, each in zip(out.logits, out.residual[:, 0, 0], out.heads[:, :, 0], strict=True):
        whole = towards @ residual  # the logits before the norm's scale
        scale = whole @ logits / whole.square().sum()
        parts = scale * torch.einsum("lhk,lhkd->lhd", each, write) @ towards.T  # (layers, heads, V)
        without = logits - parts
        found.append((without[..., laid_out.labels] - without.logsumexp(-1, keepdim=True)).cpu())
    return torch.stack(found)


def without_head(
    model: lm.LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[int],
    values: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the model says if at the last token one head returns something else, for each head in turn.

    All prompts but their last tokens are computed once for all heads.

    Args:
        model: a language model.
        prompts: N lists of token ids.
        labels: the first token of each label.
        values: (layers, heads, head_dim) what each head returns; None: zero.

    Returns:
        (N, layers, heads, labels) log p of the labels, on the CPU.
    """
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    found = []
    for prompt in prompts:  # the logits of all heads are in memory together
        write = [
            lm.Write(layer, 0.0 if values is None else values[layer, head], head=head, prompts=[i])
            for i, (layer, head) in enumerate(every)
        ]
        found.append(label_scores(model, [prompt] * len(every), labels, write=write))
    return torch.stack(found).unflatten(1, (model.n_layers, model.n_heads))


def head_effects(whole: torch.Tensor, without: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How much each head adds to the log-probability of the right label, among all tokens.

    Args:
        whole: (N, labels) log p after N prompts.
        without: (N, layers, heads, labels) log p without each head.
        right: (N,) the right labels.

    Returns:
        (N, layers, heads) in nats.
    """
    index = right[:, None, None, None].expand(*without.shape[:3], 1)
    return whole.gather(-1, right[:, None])[..., None] - without.gather(-1, index)[..., 0]


class HeadMeasures(NamedTuple):
    """What is found of the heads, the mean over prompts: (layers, heads) each."""

    gain: torch.Tensor  # nats that the right label loses if the head's part of the logits is taken away
    effect: torch.Tensor  # nats that it loses if the head returns zero
    carried: torch.Tensor  # nats that all labels gain if a zero-shot prompt gets the head's few-shot mean
    attention: torch.Tensor  # to the labels of the demonstrations, together
    own: torch.Tensor  # share of labels of which the value, written out, raises itself most
    raised: torch.Tensor  # what it adds to the logits of the labels shown, above the mean of all labels


def head_measures(model: lm.LanguageModel, laid_out: LaidOut) -> HeadMeasures:
    """What each head does for the right label at the last token."""
    whole = label_scores(model, laid_out.prompts, laid_out.labels)
    ablated = without_head(model, laid_out.prompts, laid_out.labels)
    seen = label_attention(model, laid_out)
    shown = laid_out.shown[:, None, None, :, None].expand(*seen.written.shape[:-1], 1)
    return HeadMeasures(
        gain=head_effects(whole, without_direct_part(model, laid_out), laid_out.right).mean(0),
        effect=head_effects(whole, ablated, laid_out.right).mean(0),
        carried=carried_log_p(model, laid_out),
        attention=seen.attention.sum(-1).mean(0),
        own=(seen.written.argmax(-1) == shown[..., 0]).float().mean((0, 3)),
        raised=(seen.attention * seen.written.gather(-1, shown)[..., 0]).sum(-1).mean(0),
    )


def carried_log_p(model: lm.LanguageModel, laid_out: LaidOut) -> torch.Tensor:
    """What the few-shot mean of each head does in zero-shot prompts: (layers, heads) nats for all labels."""
    read = lm.Read(heads=range(model.n_layers))
    means = lm.forward(model, laid_out.prompts, read).heads[:, :, 0].mean(0)
    bare = lay_out(model, laid_out.task, [Case([], case.queries) for case in laid_out.cases]).prompts
    before = label_scores(model, bare, laid_out.labels).logsumexp(-1)  # (N,)
    after = without_head(model, bare, laid_out.labels, means).logsumexp(-1)  # (N, layers, heads)
    return (after - before[:, None, None]).mean(0)


def in_context_heads(found: HeadMeasures, n: int) -> list[lm.Head]:
    """The n heads (layer, head) highest by the worse of two ranks: by gain, and by ablation effect."""

    def ranks(values: torch.Tensor) -> torch.Tensor:
        return values.flatten().argsort(descending=True, stable=True).argsort()

    worse = torch.maximum(ranks(found.gain), ranks(found.effect))
    return [divmod(int(i), found.gain.shape[1]) for i in worse.argsort(stable=True)[:n]]


def head_groups(found: HeadMeasures, prefix: torch.Tensor, n: int) -> dict[str, list[lm.Head]]:
    """The n heads that stand out, in four ways; `prefix` (layers, heads) are prefix-matching scores."""
    return {
        "in-context": in_context_heads(found, n),
        "induction": lm.strongest_heads(prefix, n),
        "raising": lm.strongest_heads(found.raised, n),
        "lowering": lm.strongest_heads(-found.raised, n),
    }


# Two towers


def two_tower_scores(model: lm.LanguageModel, task: Classification, case: Case) -> torch.Tensor:
    """How alike a query and a demonstration are to each head, if neither has seen anything else.

    Each demonstration is put alone in front of the query, and the query is kept from seeing it: one tower
    makes a key at the label, the other a query at the last token. Their score is that of the model's
    attention, less that of the document start, always at the same distance; it is not a number in layers
    whose window hides the document start.

    Args:
        model: a language model with a document start.
        task: how prompts are written.
        case: k demonstrations, Q queries.

    Returns:
        (Q, layers, heads, k), on the CPU.

    Raises:
        ValueError: see `layout`; the model has no document start.
    """
    if not model.document_start:
        raise ValueError(f"{model.name} has no document start to compare scores with")
    alone = [
        layout(model, task.format, Case([shown], []), x)
        for x, _ in case.queries
        for shown in case.demonstrations
    ]
    start = len(model.document_start)
    apart = [
        [(t, s, 0.0) for t in (*p.query, *p.query_frame) for s in range(start, p.query.start)] for p in alone
    ]
    layers = range(model.n_layers)
    seen = lm.forward(
        model, [p.tokens for p in alone], lm.Read(attention=layers), weigh=[lm.Weigh(layers, apart)]
    ).attention[:, :, 0]  # (Q k, layers, heads, T), without the factors
    at = torch.tensor([p.labels for p in alone], device=seen.device)[:, None, None]
    scores = (seen.gather(-1, at.expand(*seen.shape[:-1], 1)) / seen[..., :1]).log()[..., 0]
    return scores.unflatten(0, (len(case.queries), -1)).movedim(1, -1).cpu()


def query_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation over demonstrations of the same query, without what a place in the prompt has on average.

    Args:
        a: (N, ..., k) numbers of N queries and k demonstrations.
        b: (N, ..., k), of a shape that broadcasts with that of a.

    Returns:
        (...).
    """

    def centred(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x - x.mean(0)

    a, b = centred(a), centred(b)
    return (a * b).sum((0, -1)) / (a.square().sum((0, -1)) * b.square().sum((0, -1))).sqrt()


class Preferences(NamedTuple):
    """What the scores of the heads (layers, heads) for labels agree with, see `query_correlation`."""

    apart: torch.Tensor  # with the scores of two towers
    alike: torch.Tensor  # with how alike the texts are to MiniLM
    right: torch.Tensor  # with whether a demonstration has the label that is right for the query


def preferences(model: lm.LanguageModel, task: Classification, case: Case) -> Preferences:
    """Which queries prefer which demonstrations of the same prompt, and why."""
    laid_out = lay_out(model, task, [case])
    shown, asked = ([x for x, _ in pairs] for pairs in (case.demonstrations, case.queries))
    own = label_attention(model, laid_out).scores  # (Q, layers, heads, k)
    alike = lm.embed(asked) @ lm.embed(shown).T
    right = (laid_out.shown == laid_out.right[:, None]).float()
    return Preferences(
        query_correlation(own, two_tower_scores(model, task, case)),
        query_correlation(own, alike[:, None, None]),
        query_correlation(own, right[:, None, None]),
    )
