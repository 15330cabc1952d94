"""How likely answers are, and which of them are right: the one way in which the book scores answers.

*Accuracy* is raw: the share of queries whose most likely answer is right. The *tilt* of a prompt is the mean,
over its queries, of each label's log-probability among the labels; without the tilt, accuracy is *calibrated
accuracy*. All results lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from course_lib import lm
from course_lib.fewshot.cases import Case
from course_lib.fewshot.formats import Format

CONTEXTS_AT_A_TIME = 512  # their logits over the whole vocabulary are in memory together
Tokens = Sequence[int]


class Context(NamedTuple):
    """A prompt with the beginning of an answer, and the tokens of answers that may come next."""

    tokens: tuple[int, ...]
    owner: int  # the prompt it begins with; of equal ones the first, unless they are kept apart
    asked: list[tuple[int, int, int]]  # prompt, answer, token


class Scored(NamedTuple):
    """What a model says of A answers to each of N prompts, on the CPU."""

    log_p: torch.Tensor  # (N, A) log p(answer | prompt), the sum over the answer's tokens, in nats
    greedy: torch.Tensor  # (N, A) whether greedy decoding writes it: each of its tokens is the likeliest

    def add(self, contexts: Sequence[Context], logits: torch.Tensor) -> None:
        """Adds what logits (contexts, vocab) say of the tokens that are asked in each context."""
        log_probs = logits.float().log_softmax(-1)
        best = log_probs.argmax(-1).tolist()
        found = [(row, *step) for row, context in enumerate(contexts) for step in context.asked]
        rows, i, a, tokens = map(list, zip(*found, strict=True))
        where = torch.tensor(i), torch.tensor(a)
        self.log_p.index_put_(where, log_probs[rows, tokens].cpu(), accumulate=True)
        for row, prompt, answer, token in found:
            self.greedy[prompt, answer] &= best[row] == token


def unscored(answers: Sequence[Sequence[Tokens]]) -> Scored:
    """Room for the scores of answers, (N, A)."""
    shape = len(answers), len(answers[0])
    return Scored(torch.zeros(shape), torch.ones(shape, dtype=torch.bool))


def contexts_of(
    prompts: Sequence[Tokens], answers: Sequence[Sequence[Tokens]], apart: bool = False
) -> list[Context]:
    """All contexts in which a token of an answer is asked, each once; neighbours share their beginnings.

    Args:
        prompts: N lists of token ids.
        answers: for each prompt A answers, each a list of at least one token id.
        apart: keep equal prompts apart, because something is done to each of them.

    Raises:
        ValueError: an answer is empty, or prompts differ in how many answers they have.
    """
    numbers = set(map(len, answers))
    if len(prompts) != len(answers) or len(numbers) != 1 or not all(a and all(map(len, a)) for a in answers):
        raise ValueError(
            f"answers: expected {len(prompts)} lists, one for each prompt, of as many answers each, "
            "none of them empty"
        )
    found: dict[tuple[tuple[int, ...], int], Context] = {}
    for i, (prompt, each) in enumerate(zip(prompts, answers, strict=True)):
        for a, answer in enumerate(each):
            for j, token in enumerate(answer):
                tokens, owner = (*prompt, *answer[:j]), i if apart else 0
                context = found.setdefault((tokens, owner), Context(tokens, i, []))
                context.asked.append((i, a, token))
    return [found[key] for key in sorted(found)]


def score(
    model: lm.LanguageModel,
    prompts: Sequence[Tokens],
    answers: Sequence[Sequence[Tokens]],
    *,
    write: Sequence[lm.Write] = (),
    attend: Sequence[lm.Attend] = (),
    weigh: Sequence[lm.Weigh] = (),
) -> Scored:
    """How likely answers are after their prompts, over all tokens of each answer.

    Args:
        model: a language model.
        prompts: N lists of token ids.
        answers: for each prompt A answers, each a list of at least one token id.
        write: activations to overwrite, see `lm.forward`; positions are those of the prompts.
        attend: layers and heads that attend in another way, see there.
        weigh: factors of attention, see there; links are those of the prompts.

    Raises:
        ValueError: see `contexts_of` and `lm.forward`.
    """
    contexts = contexts_of(prompts, answers, apart=bool(write or weigh))
    scored = unscored(answers)
    for start in range(0, len(contexts), CONTEXTS_AT_A_TIME):
        part = contexts[start : start + CONTEXTS_AT_A_TIME]
        owners = [context.owner for context in part]
        writes = [moved for w in write if (moved := _write_for(w, owners, prompts))]
        weighs = [replace(w, links=[_links_for(w, owner, prompts) for owner in owners]) for w in weigh]
        tokens = [context.tokens for context in part]
        scored.add(part, lm.forward(model, tokens, None, writes, attend, weighs).logits)
    return scored


def _write_for(write: lm.Write, owners: Sequence[int], prompts: Sequence[Tokens]) -> lm.Write | None:
    """The same write in contexts, each the prompt of its owner and part of an answer; None: in none."""
    chosen = range(len(prompts)) if write.prompts is None else write.prompts
    number = {prompt: k for k, prompt in enumerate(chosen)}
    at = [c for c, owner in enumerate(owners) if owner in number]
    if not at:
        return None
    each, position, value = [number[owners[c]] for c in at], write.position, write.value
    if position is not None:
        given = [position] * len(number) if isinstance(position, int) else list(position)
        position = [given[k] % len(prompts[owners[c]]) for c, k in zip(at, each, strict=True)]
    if isinstance(value, torch.Tensor) and value.ndim == 2:
        value = value[each]
    return replace(write, prompts=at, position=position, value=value)


def _links_for(weigh: lm.Weigh, owner: int, prompts: Sequence[Tokens]) -> list[tuple[int, int, float]]:
    n = len(prompts[owner])
    return [(q % n, k % n, factor) for q, k, factor in weigh.links[owner]]


def label_scores(
    model: lm.LanguageModel,
    prompts: Sequence[Tokens],
    labels: Sequence[int],
    *,
    write: Sequence[lm.Write] = (),
    weigh: Sequence[lm.Weigh] = (),
) -> torch.Tensor:
    """How likely the first token of each label is after N prompts: (N, labels) log p among all tokens.

    Args:
        model: a language model.
        prompts: N lists of token ids.
        labels: the first token of each label, see `label_tokens`.
        write: see `score`.
        weigh: see `score`.
    """
    answers = [[[token] for token in labels]] * len(prompts)
    return score(model, prompts, answers, write=write, weigh=weigh).log_p


def prompts_and_answers(
    model: lm.LanguageModel, format: Format, cases: Sequence[Case], shots: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and right answers, as token ids, after the first k demonstrations of each case.

    Prompts of a case share their beginnings, so that many k cost little more than the largest.

    Returns:
        len(shots) · C · Q prompts for C cases of Q queries each, and as many answers.
    """
    pairs = [
        format.tokens(model, case.demonstrations[:k], x, y)
        for k in shots
        for case in cases
        for x, y in case.queries
    ]
    return [prompt for prompt, _ in pairs], [answer for _, answer in pairs]


def answered(
    model: lm.LanguageModel, format: Format, cases: Sequence[Case], shots: Sequence[int]
) -> torch.Tensor:
    """Which queries the model, writing freely, answers right.

    Args:
        model: a language model.
        format: how prompts are written.
        cases: C cases of Q queries each.
        shots: numbers k of demonstrations, the first k of each case.

    Returns:
        (len(shots), C, Q): 1.0 where greedy decoding writes the answer, else 0.0.
    """
    prompts, answers = prompts_and_answers(model, format, cases, shots)
    hits = score(model, prompts, [[answer] for answer in answers]).greedy
    return hits.float().view(len(shots), len(cases), -1)


def label_log_probs(
    model: lm.LanguageModel,
    format: Format,
    cases: Sequence[Case],
    shots: Sequence[int],
    labels: Sequence[str],
) -> torch.Tensor:
    """How likely each label is as the answer, over all of its tokens, after the first k demonstrations.

    Args:
        model: a language model.
        format: how prompts are written.
        cases: C cases of Q queries each.
        shots: numbers k of demonstrations, the first k of each case.
        labels: the answers to choose from.

    Returns:
        (len(shots), C, Q, len(labels)) log p(label | prompt).
    """
    each = [replace(case, queries=[(x, y) for x, _ in case.queries for y in labels]) for case in cases]
    prompts, answers = prompts_and_answers(model, format, each, shots)
    n = len(labels)
    groups = [answers[i : i + n] for i in range(0, len(answers), n)]
    return score(model, prompts[::n], groups).log_p.view(len(shots), len(cases), -1, n)


def tilt(log_p: torch.Tensor) -> torch.Tensor:
    """The tilt of prompts to labels: (…, Q, labels) log p to (…, labels), the mean over Q queries of a case.

    In nats, of log p(label | prompt) among the labels. For two labels, the tilt to the second less that to
    the first is the mean log-odds.
    """
    return log_p.log_softmax(-1).mean(-2)


def without_tilt(log_p: torch.Tensor) -> torch.Tensor:
    """(…, Q, labels) log p(label | prompt) among the labels, less the tilt of the case's prompts."""
    return log_p.log_softmax(-1) - tilt(log_p)[..., None, :]


def accuracy(log_p: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(…,) the share of queries whose most likely label is right.

    Args:
        log_p: (…, Q, labels).
        right: (…, Q) indices of the right labels.
    """
    return (log_p.argmax(-1) == right).double().mean(-1)


def calibrated_accuracy(log_p: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(…,) accuracy without the tilt; it uses all queries of a case, but not their right answers."""
    return accuracy(without_tilt(log_p), right)


def label_measures(log_p: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the log-probabilities of labels say of each query.

    Args:
        log_p: (…, Q, labels) among all tokens, of Q queries of a case.
        right: (…, Q) indices of the right labels.

    Returns:
        (…, Q) each: "right", whether the most likely label is; "calibrated", whether it is without the tilt;
        "log p" of the right label among the labels, in nats; "mass", the probability of all labels together.
    """
    return {
        "right": log_p.argmax(-1) == right,
        "calibrated": without_tilt(log_p).argmax(-1) == right,
        "log p": log_p.log_softmax(-1).gather(-1, right[..., None])[..., 0],
        "mass": log_p.logsumexp(-1).exp(),
    }


def top(model: lm.LanguageModel, prompts: Sequence[Tokens], n: int = 8) -> list[list[tuple[str, float]]]:
    """For each prompt the n most likely next tokens, as (text, probability)."""
    best = lm.forward(model, prompts).logits.float().softmax(-1).topk(n)
    return [
        [(model.decode(token), p) for token, p in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
