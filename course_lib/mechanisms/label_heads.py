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
from course_lib.fewshot.demonstrations import Case, Format, centred


class Layout(NamedTuple):
    """A few-shot prompt, and what stands where in it."""

    tokens: list[int]
    texts: list[range]  # of each demonstration, with what separates it from the one in front
    frames: list[range]  # of each demonstration, what the format writes between its text and its label
    labels: list[int]  # of each demonstration, the first token of its label
    query: range  # the text behind the last demonstration
    asks: range  # the frame behind the query; its last token says the answer

    @property
    def last(self) -> int:
        """Position of the last token."""
        return len(self.tokens) - 1


def layout(model: lm.LanguageModel, format: Format, case: Case, query: str) -> Layout:
    """Writes a prompt and says where its parts are.

    Args:
        model: whose tokens the prompt is made of.
        format: how prompts are written.
        case: of which the demonstrations are shown.
        query: the text that is asked for.

    Raises:
        ValueError: the format has nothing between text and label, or its tokens, or those of a demonstration,
            change with what stands around them.
    """
    frame = model.encode(format.example.partition("{x}")[2].removesuffix("{y}").rstrip(" "))
    if not frame:
        raise ValueError(f"example={format.example!r}: expected something between {{x}} and {{y}}")
    shown = case.demonstrations
    tokens, _ = format.tokens(model, shown, query)
    texts, frames, labels, behind = [], [], [], len(model.document_start)
    for i, (x, y) in enumerate(shown):
        front, answer = format.tokens(model, shown[:i], x, y)
        if tokens[: len(front) + len(answer)] != front + answer or front[-len(frame) :] != frame:
            raise ValueError(f"demonstration {i + 1}: its tokens are others when more follows")
        frames.append(range(len(front) - len(frame), len(front)))
        texts.append(range(behind, frames[-1].start))
        labels.append(len(front))
        behind = len(front) + len(answer)
    asks = range(len(tokens) - len(frame), len(tokens))
    if tokens[asks.start :] != frame:
        raise ValueError(f"query={query!r}: its last token is joined with what follows")
    return Layout(tokens, texts, frames, labels, range(behind, asks.start), asks)


# Cutting the way


CUTS = ("texts to labels", "frames to labels", "query to last", "labels to last", "texts to last")


def links(where: Layout, cut: str) -> list[tuple[int, int, float]]:
    """What `lm.Weigh` needs to cut one of the `CUTS` in a prompt.

    "texts to labels" hides its own text from each label and from the frame in front of it, "frames to labels"
    the frame from the label. The others hide the query, the labels or the texts of the demonstrations from
    the frame behind the query, with the last token.

    Raises:
        ValueError: no cut is called so.
    """
    if cut == "texts to labels":
        pairs = [
            ((*frame, y), text)
            for y, frame, text in zip(where.labels, where.frames, where.texts, strict=True)
        ]
    elif cut == "frames to labels":
        pairs = [((y,), frame) for y, frame in zip(where.labels, where.frames, strict=True)]
    elif cut == "query to last":
        pairs = [(where.asks, where.query)]
    elif cut == "labels to last":
        pairs = [(where.asks, where.labels)]
    elif cut == "texts to last":
        pairs = [(where.asks, text) for text in where.texts]
    else:
        raise ValueError(f"cut={cut!r}: expected one of {', '.join(CUTS)}")
    return [(asks, seen, 0.0) for those, hidden in pairs for asks in those for seen in hidden]


class Answers(NamedTuple):
    """What a model says of the labels after N prompts."""

    logits: torch.Tensor  # (N, labels)
    log_p: torch.Tensor  # (N, labels) among all tokens

    def chosen(self, group: int) -> torch.Tensor:
        """(N,) the label chosen, without the tilt to a label that the `group` prompts of a case share."""
        return centred(self.logits.unflatten(0, (-1, group))).argmax(-1).flatten()


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


def direct(model: lm.LanguageModel, prompts: Sequence[Layout], labels: Sequence[int]) -> Answers:
    """What the model says without what one head writes at the last token, for each head in turn.

    The final logits are a sum over what all parts of the model have written, divided by the last norm's
    scale; the part of one head is taken away, what others make of it stays. Norms between a head's output and
    the residual stream, as in Gemma, and the bias of the last norm are left out.

    Args:
        model: a language model.
        prompts: N prompts.
        labels: the token of each label.

    Returns:
        Answers with (N, layers, heads, labels) logits and log-probabilities.
    """
    layers = range(model.n_layers)
    out = lm.forward(model, [p.tokens for p in prompts], lm.Read(residual=layers[-1:], heads=layers))
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
        picked = without[..., labels]
        found.append((picked.cpu(), (picked - without.logsumexp(-1, keepdim=True)).cpu()))
    return Answers(*(torch.stack(part) for part in zip(*found, strict=True)))


def gain(whole: Answers, without: Answers, right: torch.Tensor) -> torch.Tensor:
    """How much each head adds to the log-probability of the right label, among all tokens.

    Args:
        whole: what the model says of N prompts, see `ask`.
        without: what it says without each head, see `direct` and `one_by_one`.
        right: (N,) the right labels.

    Returns:
        (N, layers, heads) in nats.
    """
    index = right[:, None, None, None].expand(*without.log_p.shape[:3], 1)
    return whole.log_p.gather(-1, right[:, None])[..., None] - without.log_p.gather(-1, index)[..., 0]


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
    """What the heads do with the labels of k demonstrations."""

    attention: torch.Tensor  # (N, layers, heads, k) from the last token to each label
    start: torch.Tensor  # (N, layers, heads) from the last token to the first one
    written: torch.Tensor  # (N, layers, heads, k, labels) its value through W_O, as logits of the labels

    @property
    def scores(self) -> torch.Tensor:
        """(N, layers, heads, k) the score of each label, less that of the first token."""
        return (self.attention / self.start[..., None]).log()


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
    seen = lm.forward(model, [p.tokens for p in prompts], lm.Read(attention=layers)).attention[:, :, 0]
    at = torch.tensor([p.labels for p in prompts], device=seen.device)[:, None, None]
    written: dict[tuple[int, ...], torch.Tensor] = {}  # by what stands before the query
    for prompt in prompts:
        shown = tuple(prompt.tokens[: prompt.labels[-1] + 1])
        if shown not in written:
            values = lm.values(model, shown, layers)[:, :, prompt.labels]  # (layers, heads, k, head_dim)
            written[shown] = torch.einsum("lhjk,lhkc->lhjc", values, write)
    each = [written[tuple(p.tokens[: p.labels[-1] + 1])] for p in prompts]
    attention = seen.gather(-1, at.expand(*seen.shape[:-1], -1))
    return Labels(attention.cpu(), seen[..., 0].cpu(), torch.stack(each).cpu())


def towers(model: lm.LanguageModel, format: Format, case: Case) -> torch.Tensor:
    """How alike a query and a demonstration are to each head, if neither has seen anything else.

    Each demonstration is put alone in front of the query, and the query is kept from seeing it: one tower
    makes a key at the label, the other a query at the last token. Their score is that of the model's
    attention, less that of the document start, always at the same distance; it is not a number in layers
    whose window hides the document start.

    Args:
        model: a language model with a document start.
        format: how prompts are written.
        case: k demonstrations, Q queries.

    Returns:
        (Q, layers, heads, k).

    Raises:
        ValueError: see `layout`; the model has no document start.
    """
    if not model.document_start:
        raise ValueError(f"{model.name} has no document start to compare scores with")
    alone = [
        layout(model, format, Case([shown], []), x) for x, _ in case.queries for shown in case.demonstrations
    ]
    apart = [
        [(t, s, 0.0) for t in (*p.query, *p.asks) for s in range(len(model.document_start), p.query.start)]
        for p in alone
    ]
    layers = range(model.n_layers)
    seen = lm.forward(
        model, [p.tokens for p in alone], lm.Read(attention=layers), weigh=[lm.Weigh(layers, apart)]
    ).attention[:, :, 0]  # (Q k, layers, heads, T), without the factors
    at = torch.tensor([p.labels for p in alone], device=seen.device)[:, None, None]
    scores = (seen.gather(-1, at.expand(*seen.shape[:-1], 1)) / seen[..., :1]).log()[..., 0]
    return scores.unflatten(0, (len(case.queries), -1)).movedim(1, -1).cpu()


def agreement(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
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
