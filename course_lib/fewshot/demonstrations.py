"""Chapter 01: what in-context learning is, and how to measure it.

A language model is asked LLM(I, f(x₁, y₁), …, f(xₖ, yₖ), f(xₖ₊₁, ·)) → ŷ: an instruction I, k demonstrations
and a query, all written by one template f. Nothing in the model changes; only its input does.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from scipy import stats

from course_lib import lm
from course_lib.data import texts

Pair = tuple[str, str]
CONTEXTS_AT_A_TIME = 512  # their logits over the whole vocabulary are in memory together


@dataclass(frozen=True)
class Format:
    """How a prompt is written: the template f of an example, what separates two, and the instruction I."""

    example: str = "{x}→{y}"
    separator: str = "\n"
    instruction: str = ""

    def __post_init__(self) -> None:
        if "{x}" not in self.example or not self.example.endswith("{y}"):
            raise ValueError(f"example={self.example!r}: expected a template with {{x}} that ends with {{y}}")

    def context(self, demonstrations: Sequence[Pair], query: str) -> str:
        """The text in front of the answer; a space before the answer belongs to the answer."""
        examples = [self.example.format(x=x, y=y) for x, y in demonstrations]
        asked = self.example.removesuffix("{y}").format(x=query).rstrip(" ")
        return self.instruction + self.separator.join([*examples, asked])

    def answer(self, y: str) -> str:
        """The text that the model has to write."""
        return " " * (len(self.example) - 3 - len(self.example[:-3].rstrip(" "))) + y

    def tokens(
        self, model: lm.LanguageModel, demonstrations: Sequence[Pair], query: str, y: str = ""
    ) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, which starts with the document start, and of the answer.

        Raises:
            ValueError: the tokenizer joins the end of the context with the beginning of the answer.
        """
        context = self.context(demonstrations, query)
        prompt, whole = model.encode(context), model.encode(context + self.answer(y) if y else context)
        if whole[: len(prompt)] != prompt:
            raise ValueError(f"the answer {self.answer(y)!r} changes the tokens of the text in front of it")
        return [*model.document_start, *prompt], whole[len(prompt) :]


def score(
    model: lm.LanguageModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """How likely each answer is after its prompt, over all tokens of the answer.

    Args:
        model: a language model.
        prompts: N lists of token ids.
        answers: N lists of at least one token id.

    Returns:
        (N,) log p(answer | prompt), the sum over the answer's tokens; and (N,) whether the answer is what
        greedy decoding writes, that is, whether each of its tokens is the most likely one.

    Raises:
        ValueError: an answer is empty, or the numbers of prompts and answers differ.
    """
    if len(prompts) != len(answers) or not all(map(len, answers)):
        raise ValueError(f"answers: expected {len(prompts)} lists, one for each prompt, none of them empty")
    steps: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # context: the (answer, next token) asked there
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for j, token in enumerate(answer):
            steps.setdefault((*prompt, *answer[:j]), []).append((i, token))
    log_p = torch.zeros(len(prompts))
    greedy = torch.ones(len(prompts), dtype=torch.bool)
    contexts = sorted(steps)  # neighbours share their beginnings
    for start in range(0, len(contexts), CONTEXTS_AT_A_TIME):
        part = contexts[start : start + CONTEXTS_AT_A_TIME]
        log_probs = lm.forward(model, part).logits.float().log_softmax(-1)  # (contexts, vocab)
        best = log_probs.argmax(-1).tolist()
        found = [(row, i, token) for row, context in enumerate(part) for i, token in steps[context]]
        rows, owners, tokens = map(list, zip(*found, strict=True))
        log_p.index_add_(0, torch.tensor(owners), log_probs[rows, tokens].cpu())
        for row, i, token in found:
            greedy[i] &= best[row] == token
    return log_p, greedy


@dataclass(frozen=True)
class Case:
    """Demonstrations, in order, and queries to be answered after them."""

    demonstrations: Sequence[Pair]
    queries: Sequence[Pair]


def draw(
    pool: Sequence[Pair], queries: Sequence[Pair], shots: int, n_cases: int, n_queries: int, seed: int = 0
) -> list[Case]:
    """Cases with independent random demonstrations and queries.

    Args:
        pool: pairs to take demonstrations from; none of them may be among the queries.
        queries: pairs to take queries from; they are used up before one comes again.
        shots: number of demonstrations of a case.
        n_cases: number of cases.
        n_queries: number of queries of a case.
        seed: another seed draws others.

    Raises:
        ValueError: the pool is too small, or a query is also in the pool.
    """
    if shots > len(pool) or n_queries > len(queries):
        raise ValueError(f"there are only {len(pool)} demonstrations and {len(queries)} queries to draw from")
    if common := {x for x, _ in pool} & {x for x, _ in queries}:
        raise ValueError(f"queries must not be demonstrations too: {sorted(common)[:3]}")
    generator = random.Random(seed)
    stock: list[Pair] = []
    cases = []
    for _ in range(n_cases):
        if len(stock) < n_queries:
            stock = generator.sample(list(queries), len(queries))
        asked, stock = stock[:n_queries], stock[n_queries:]
        cases.append(Case(generator.sample(list(pool), shots), asked))
    return cases


class Setting(NamedTuple):
    """A task: how its prompts are written, what can be answered, and a case."""

    format: Format
    labels: Sequence[str]
    case: Case


FORMATS = {
    "sentiment": Format("Review: {x}\nSentiment: {y}", "\n\n"),
    "topic": Format("Article: {x}\nTopic: {y}", "\n\n"),
}


def short_texts(task: str, n: int = 500) -> tuple[list[Pair], list[Pair]]:
    """Real texts, 20 words at most, with their labels: a pool of the first n to show, and others to ask for.

    Args:
        task: a key of `FORMATS`.
        n: size of the pool.

    Raises:
        ValueError: there is no such task.
    """
    corpus = texts.load(task)
    pool, queries = (
        [(" ".join(e.text.split()[:20]), corpus.label_names[e.label]) for e in part]
        for part in (corpus.train[:n], corpus.test)
    )
    return pool, queries


def settings(task: str, n: int, n_queries: int = 12, shots: int = 8, seed: int = 1) -> list[Setting]:
    """Cases of real texts, at most 20 words each, labelled by "sentiment" or by "topic".

    Args:
        task: a key of `FORMATS`.
        n: number of cases.
        n_queries: number of queries of a case.
        shots: number of demonstrations of a case.
        seed: another seed draws others.

    Raises:
        ValueError: there is no such task.
    """
    drawn = draw(*short_texts(task), shots, n, n_queries, seed)
    return [Setting(FORMATS[task], texts.load(task).label_names, case) for case in drawn]


def shuffle_answers(cases: Sequence[Case], seed: int = 0) -> list[Case]:
    """The control: the same demonstrations with their answers exchanged among them at random."""
    generator = random.Random(seed)
    shuffled = []
    for case in cases:
        answers = [y for _, y in case.demonstrations]
        generator.shuffle(answers)
        pairs = [(x, y) for (x, _), y in zip(case.demonstrations, answers, strict=True)]
        shuffled.append(Case(pairs, case.queries))
    return shuffled


def orders(case: Case) -> list[Case]:
    """The same demonstrations in every order: k! cases."""
    return [Case(order, case.queries) for order in itertools.permutations(case.demonstrations)]


def asked(
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


def written(
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
    return score(model, *asked(model, format, cases, shots))[1].float().view(len(shots), len(cases), -1)


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
    each = [Case(c.demonstrations, [(x, y) for x, _ in c.queries for y in labels]) for c in cases]
    log_p, _ = score(model, *asked(model, format, each, shots))
    return log_p.view(len(shots), len(cases), -1, len(labels))


def truth(cases: Sequence[Case], labels: Sequence[str]) -> torch.Tensor:
    """(C, Q) the index of each query's right answer among the labels."""
    return torch.tensor([[list(labels).index(y) for _, y in case.queries] for case in cases])


def centred(log_probs: torch.Tensor) -> torch.Tensor:
    """Label log-probabilities without each label's advantage that is the same for all queries of a case.

    Args:
        log_probs: (…, Q, labels).

    Returns:
        (…, Q, labels): log p(label | prompt) among the labels, minus its mean over the Q queries.
    """
    among = log_probs.log_softmax(-1)
    return among - among.mean(-2, keepdim=True)


def top(
    model: lm.LanguageModel, prompts: Sequence[Sequence[int]], n: int = 8
) -> list[list[tuple[str, float]]]:
    """For each prompt the n most likely next tokens, as (text, probability)."""
    best = lm.forward(model, prompts).logits.float().softmax(-1).topk(n)
    return [
        [(model.decode(token), p) for token, p in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def fingerprint(model: lm.LanguageModel) -> str:
    """A checksum of all weights."""
    digest = hashlib.sha256()
    for weight in model.model.state_dict().values():
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def mean_interval(values: torch.Tensor, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values with Student's t interval: (mean, low, high).

    Take one value per case: answers after the same demonstrations are not independent of each other.

    Raises:
        ValueError: fewer than two values.
    """
    values = values.flatten().double()
    if len(values) < 2:
        raise ValueError(f"values: got {len(values)}, expected at least two for an interval")
    mean, n = values.mean().item(), len(values)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std().item() / sqrt(n)
    return mean, mean - half, mean + half


class Accuracy(NamedTuple):
    """A share of right answers with its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy(hits: torch.Tensor) -> Accuracy:
    """The share of right answers, with Wilson's interval.

    Answers after the same demonstrations succeed and fail together, so that Q of them count for less than Q:
    the number of answers is divided by how much more the trials' means vary than coin tosses would. The
    interval covers the draw of trials from the given pairs; it says nothing of other pairs.

    Args:
        hits: (N, Q) answers of N ≥ 2 trials, 0 or 1.

    Raises:
        ValueError: the shape is another.
    """
    if hits.ndim != 2 or len(hits) < 2 or not hits.numel():
        raise ValueError(f"hits: shape {tuple(hits.shape)}, expected (trials, queries) of at least 2 trials")
    p, n = hits.double().mean().item(), hits.numel()
    variance = hits.double().mean(1).var().item() / len(hits)  # of the mean over trials
    if variance > 0:
        n *= min(1.0, p * (1 - p) / n / variance)
    z2 = 1.959964**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Accuracy(p, centre - half if p else 0.0, centre + half if p < 1 else 1.0)  # free of rounding
