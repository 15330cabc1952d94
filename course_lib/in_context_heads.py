"""Chapter 10: where labels are gathered, and the heads through which they reach the last token.

Yu & Ananiadou (2024) propose two steps. In shallow layers each demonstration is merged into its label token,
and the query into the last token. In deep layers a few in-context heads attend from the last token to labels
of demonstrations that are like the query; their value-output matrices carry the label. Wang et al. (2023),
"Label Words are Anchors", cut attention to show the same two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from course_lib import lm
from course_lib.demonstrations import Case, Format

Head = tuple[int, int]  # layer, head


class Layout(NamedTuple):
    """A few-shot prompt, and what stands where in it."""

    tokens: list[int]
    texts: list[range]  # of each demonstration, in front of its label
    labels: list[int]  # of each demonstration, the first token of its label
    query: range  # behind the last demonstration, in front of the last token

    @property
    def last(self) -> int:
        """Position of the last token, which says the answer."""
        return len(self.tokens) - 1


def layout(model: lm.LanguageModel, format: Format, case: Case, query: str) -> Layout:
    """Writes a prompt and says where its parts are.

    Args:
        model: whose tokens the prompt is made of.
        format: how prompts are written.
        case: of which the demonstrations are shown.
        query: the text that is asked for.

    Raises:
        ValueError: the tokens of a demonstration change with what follows.
    """
    shown = case.demonstrations
    tokens, _ = format.tokens(model, shown, query)
    texts, labels, behind = [], [], len(model.document_start)
    for i, (x, y) in enumerate(shown):
        front, answer = format.tokens(model, shown[:i], x, y)
        if tokens[: len(front) + len(answer)] != front + answer:
            raise ValueError(f"demonstration {i + 1}: its tokens are others when more follows")
        texts.append(range(behind, len(front)))
        labels.append(len(front))
        behind = len(front) + len(answer)
    return Layout(tokens, texts, labels, range(behind, len(tokens) - 1))


# Cutting the way


CUTS = ("texts to labels", "query to last", "labels to last", "texts to last")


def links(where: Layout, cut: str) -> list[tuple[int, int, float]]:
    """What `lm.Weigh` needs to cut one of the `CUTS` in a prompt.

    "texts to labels" hides its own text from each label; the others hide the query, the labels or the texts
    of the demonstrations from the last token.

    Raises:
        ValueError: no cut is called so.
    """
    if cut == "texts to labels":
        return [(y, t, 0.0) for y, text in zip(where.labels, where.texts, strict=True) for t in text]
    hidden = {
        "query to last": where.query,
        "labels to last": where.labels,
        "texts to last": [t for text in where.texts for t in text],
    }
    if cut not in hidden:
        raise ValueError(f"cut={cut!r}: expected one of {', '.join(CUTS)}")
    return [(where.last, t, 0.0) for t in hidden[cut]]


class Answers(NamedTuple):
    """What a model says of the labels after N prompts."""

    logits: torch.Tensor  # (N, labels)
    log_p: torch.Tensor  # (N, labels) among all tokens

    def chosen(self, group: int) -> torch.Tensor:
        """(N,) the label chosen, without the tilt to a label that the `group` prompts of a case share."""
        among = self.logits.log_softmax(-1).unflatten(0, (-1, group))
        return (among - among.mean(1, keepdim=True)).argmax(-1).flatten()


def ask(
    model: lm.LanguageModel,
    prompts: Sequence[Layout],
    labels: Sequence[int],
    write: Sequence[lm.Write] = (),
    weigh: Sequence[lm.Weigh] = (),
) -> Answers:
    """Reads off the labels, each by the first token of its answer.

    Args:
        model: a language model.
        prompts: N prompts.
        labels: the token of each label.
        write: see `lm.forward`.
        weigh: see `lm.forward`.
    """
    logits = lm.forward(model, [p.tokens for p in prompts], write=write, weigh=weigh).logits.float()
    return Answers(logits[:, labels].cpu(), logits.log_softmax(-1)[:, labels].cpu())


def label_tokens(model: lm.LanguageModel, format: Format, labels: Sequence[str]) -> list[int]:
    """The first token of each label, as it is written behind a query.

    Raises:
        ValueError: two labels begin with the same token.
    """
    tokens = [format.tokens(model, [], "x", y)[1][0] for y in labels]
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"labels={list(labels)}: expected first tokens that differ, got {tokens}")
    return tokens


# What each head does for the answer


def direct(
    model: lm.LanguageModel, prompts: Sequence[Layout], labels: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the heads write at the last token, read as logits of the labels.

    The final logits are a sum over what all parts of the model have written, divided by the last norm's
    scale; this is the part of each head. Norms between a head's output and the residual stream, as in Gemma,
    are left out.

    Args:
        model: a language model.
        prompts: N prompts.
        labels: the token of each label.

    Returns:
        (N, layers, heads, labels) parts, and (N, labels) the final logits, both less their mean over labels.
    """
    layers = range(model.n_layers)
    read = lm.Read(residual=layers[-1:], heads=layers)
    out = lm.forward(model, [p.tokens for p in prompts], read)
    towards = lm.unembedding(model)[labels]
    towards = (towards - towards.mean(0)).to(out.heads)  # (labels, d)
    logits = out.logits[:, labels]
    logits = logits - logits.mean(-1, keepdim=True)
    whole = out.residual[:, 0, 0] @ towards.T  # (N, labels), before the norm's scale
    scale = (whole * logits).sum(-1) / whole.square().sum(-1)  # (N,)
    write = lm.output_projections(model) @ towards.T  # (layers, heads, head_dim, labels)
    parts = torch.einsum("nlhk,lhkc,n->nlhc", out.heads[:, :, 0], write, scale)
    return parts.cpu(), logits.cpu()


def gain(parts: torch.Tensor, logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How much each head's part adds to the log-probability of the right label, among the labels.

    Args:
        parts: (N, layers, heads, labels), see `direct`.
        logits: (N, labels).
        right: (N,) the right labels.

    Returns:
        (N, layers, heads) in nats.
    """
    index = right[:, None, None, None].expand(*parts.shape[:3], 1)
    without = (logits[:, None, None] - parts).log_softmax(-1).gather(-1, index)[..., 0]
    return logits.log_softmax(-1).gather(-1, right[:, None])[:, :, None] - without


def one_by_one(
    model: lm.LanguageModel,
    prompts: Sequence[Layout],
    labels: Sequence[int],
    values: torch.Tensor | None = None,
) -> Answers:
    """What the model says if at the last token one head returns something else, for each head in turn.

    All prompts but their last tokens are computed once for all heads.

    Args:
        model: a language model.
        prompts: N prompts.
        labels: the token of each label.
        values: (layers, heads, head_dim) what each head returns; None: zero.

    Returns:
        Answers with (N, layers, heads, labels) logits and log-probabilities.
    """
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    found = []
    for prompt in prompts:  # the logits of all heads are in memory together
        write = [
            lm.Write(layer, 0.0 if values is None else values[layer, head], head=head, prompts=[i])
            for i, (layer, head) in enumerate(every)
        ]
        found.append(ask(model, [prompt] * len(every), labels, write))
    shape = len(prompts), model.n_layers, model.n_heads, len(labels)
    return Answers(*(torch.stack(part).view(shape) for part in zip(*found, strict=True)))


# Two towers


class Labels(NamedTuple):
    """What the heads do with the k labels of N prompts."""

    attention: torch.Tensor  # (N, layers, heads, k) from the last token to each label
    written: (
        torch.Tensor
    )  # (N, layers, heads, k, labels) a label's value through W_O, as logits of the labels


def at_labels(model: lm.LanguageModel, prompts: Sequence[Layout], labels: Sequence[int]) -> Labels:
    """Attention to the labels of demonstrations, and what the value-output matrices make of each.

    Args:
        model: a language model.
        prompts: N prompts of k demonstrations each.
        labels: the token of each label.
    """
    layers = range(model.n_layers)
    towards = lm.unembedding(model)[labels]
    write = lm.output_projections(model) @ (towards - towards.mean(0)).T  # (layers, heads, head_dim, labels)
    attention, written = [], []
    for prompt in prompts:
        out = lm.forward(model, [prompt.tokens], lm.Read(attention=layers))
        attention.append(out.attention[0, :, 0][..., prompt.labels])
        values = lm.values(model, prompt.tokens, layers)[:, :, prompt.labels]  # (layers, heads, k, head_dim)
        written.append(torch.einsum("lhjk,lhkc->lhjc", values, write))
    return Labels(torch.stack(attention).cpu(), torch.stack(written).cpu())


def vote(attention: torch.Tensor, shown: torch.Tensor, n_labels: int) -> torch.Tensor:
    """The attention that each label receives, over the demonstrations that have it.

    Args:
        attention: (N, ..., k) weights of the k demonstrations.
        shown: (N, k) the label of each demonstration.
        n_labels: how many labels there are.

    Returns:
        (N, ..., n_labels).
    """
    one_hot = torch.nn.functional.one_hot(shown, n_labels).to(attention)  # (N, k, labels)
    between = [1] * (attention.ndim - 2)
    return (attention[..., None] * one_hot.view(len(shown), *between, *one_hot.shape[1:])).sum(-2)
