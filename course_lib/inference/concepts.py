"""In-context learning as inference of a latent concept (Xie et al. 2021).

Pretraining draws a concept, then a document given the concept. Here a concept is the transition structure of
a Markov chain or of a hidden Markov model, so p(concept | prompt) and the predictive are known exactly, and a
transformer that was pretrained on such documents can be held against them.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot import Case, Format, Pair, prompts_and_answers, score
from course_lib.readouts import hull
from course_lib.scratch.recipe import Recipe
from course_lib.scratch.training import Plan
from course_lib.scratch.transformer import Config, logits
from course_lib.synthetic.markov import Mixture, hidden_markov, infer, kl, sample

# A transformer that was pretrained on documents


def predict(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """p(next token) after each of the first t = 1 … T tokens.

    Args:
        model: a `Transformer` trained on documents.
        tokens: (N, T).

    Returns:
        (N, T, V) in float64.
    """
    return logits(model, tokens).double().softmax(-1)


def implied_posterior(predictive: torch.Tensor, by_concept: torch.Tensor) -> torch.Tensor:
    """The weights on the concepts that explain a predictive best: its projection onto their convex hull.

    Args:
        predictive: (..., V) probabilities of the next token.
        by_concept: (..., K, V), see `Inference`.

    Returns:
        (..., K) weights of sum one; unique if the concepts' predictives are affinely independent.
    """
    return hull.project(predictive[..., None, :], by_concept[..., None, :, :]).coordinates[..., 0, :]


def answers(predictive: torch.Tensor, tokens: torch.Tensor, length: int, gap: int = 1) -> torch.Tensor:
    """Whether the last token of each example is the one found likeliest, the delimiter left out.

    Args:
        predictive: (N, T, V + 1) of the token after each of the first 1 … T tokens.
        tokens: (N, T), a prompt made by `markov.prompt`.
        length: tokens of an example.
        gap: tokens between two examples.

    Returns:
        (N, n) for n examples, 0 or 1: answered after 0 … n − 1 whole examples.
    """
    last = torch.arange(length - 1, tokens.shape[1], length + gap)
    return (predictive[:, last - 1, :-1].argmax(-1) == tokens[:, last]).double()


def evaluate(model: nn.Module, mixture: Mixture, *, n: int = 300, length: int = 64) -> dict[str, float]:
    """KL from the exact predictive to the model's on fresh documents, in nats a token."""
    tokens, _ = sample(mixture, n, length, torch.Generator().manual_seed(1))
    exact = infer(mixture, tokens).predictive[:, 1:]
    return {"KL": kl(exact, predict(model, tokens)).mean().item()}


GINC = hidden_markov(K=8, V=8, seed=1)


def _plan(mixture: Mixture, steps: int) -> Plan:
    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        return sample(mixture, n, 64, generator)[0]

    config = Config(vocab=9, length=80, layers=4, heads=4, d=64, rotary=True)
    return Plan(config, Recipe(steps=steps), draw, partial(evaluate, mixture=mixture))


PLANS = {"concepts": _plan(GINC, 3000), "concepts-single": _plan(GINC.only(0), 1000)}


# The real model: demonstrations of one of two tasks


class Item(NamedTuple):
    """A query, and its answer in either of two tasks, A and B."""

    x: str
    a: str
    b: str


def letters(generator: random.Random, ambiguous: bool) -> Item:
    """A list of three to five letters. A: its first; B: its last. They are the same if it is ambiguous."""
    drawn = generator.sample(string.ascii_lowercase, generator.randint(3, 5))
    if ambiguous:
        drawn[-1] = drawn[0]
    return Item(",".join(drawn), drawn[0], drawn[-1])


def sentence(generator: random.Random, ambiguous: bool) -> Item:
    """A sentence of `texts.two_concepts`. A: its sentiment; B: its topic."""
    if ambiguous:
        raise ValueError("ambiguous=True: a sentiment is never a topic")
    drawn = generator.choice(texts.two_concepts())
    return Item(drawn.text, drawn.sentiment.capitalize(), drawn.topic.capitalize())


def draw_cases(
    item: Callable[[random.Random, bool], Item],
    pattern: str,
    n: int,
    n_queries: int,
    seed: int,
    avoid: Container[str] = (),
) -> list[Case]:
    """Cases with demonstrations by a pattern such as "??AAB": ambiguous ones, then two of A, then one of B.

    Each query stands twice, with its answer in task A and with its answer in task B.

    Args:
        item: `letters` or `sentence`.
        pattern: of "A", "B", "?" for an ambiguous query, and "x" for the answer to some other query.
        n: cases.
        n_queries: of each, which are never ambiguous and not among the demonstrations.
        seed: another seed draws others; patterns of one length get the same queries.
        avoid: queries that must not occur.

    Raises:
        ValueError: the pattern has another letter.
    """
    if set(pattern) - set("AB?x"):
        raise ValueError(f"pattern={pattern!r}: expected letters A, B, ? and x")
    generator, cases = random.Random(seed), []
    for _ in range(n):
        distinct: dict[str, Item] = {}
        while len(distinct) < len(pattern) + n_queries:
            place = len(distinct) - n_queries
            drawn = item(generator, place >= 0 and pattern[place] == "?")
            if drawn.x not in avoid:
                distinct.setdefault(drawn.x, drawn)
        items = list(distinct.values())
        shown = [
            (i.x, {"B": i.b, "x": item(generator, False).a}.get(task, i.a))
            for i, task in zip(items[n_queries:], pattern, strict=True)
        ]
        cases.append(Case(shown, [(i.x, y) for i in items[:n_queries] for y in (i.a, i.b)]))
    return cases


def clear_demonstrations(item: Callable[[random.Random, bool], Item], seed: int) -> list[Sequence[Pair]]:
    """Six demonstrations of A, and the same queries as demonstrations of B."""
    return [draw_cases(item, task * 6, n=1, n_queries=1, seed=seed)[0].demonstrations for task in "AB"]


def halves_exchanged(cases: Sequence[Case]) -> list[Case]:
    """The same demonstrations, the second half of them first."""
    half = len(cases[0].demonstrations) // 2
    return [replace(c, demonstrations=[*c.demonstrations[half:], *c.demonstrations[:half]]) for c in cases]


def answer_log_probs(model: lm.LanguageModel, format: Format, cases: Sequence[Case]) -> torch.Tensor:
    """How likely the model finds the answers of task A and of task B.

    Args:
        model: a language model.
        format: how prompts are written.
        cases: N cases of n demonstrations and Q queries, made by `draw_cases`.

    Returns:
        (N, n + 1, Q, 2) log p(answer | the first 0 … n demonstrations, query), over the answer's tokens.
    """
    shots = range(len(cases[0].demonstrations) + 1)
    prompts, answers = prompts_and_answers(model, format, cases, shots)
    both = list(zip(answers[::2], answers[1::2], strict=True))
    return score(model, prompts[::2], both).log_p.view(len(shots), len(cases), -1, 2).transpose(0, 1)


def two_hypotheses(
    model: lm.LanguageModel, format: Format, cases: Sequence[Case], references: Sequence[Sequence[Pair]]
) -> torch.Tensor:
    """What `answer_log_probs` were if the model weighed two tasks by Bayes' rule; nothing in it is fitted.

    The likelihood of an answer under a task is the model's own, after clear demonstrations of that task:
    p(y | x, A). Both tasks are as likely at first; each demonstration multiplies their odds by
    p(y | x, A) / p(y | x, B); and an answer has the probability Σ p(y | x, task) p(task | demonstrations).

    Args:
        model: a language model.
        format: how prompts are written.
        cases: N cases of n demonstrations and Q queries, made by `draw_cases`.
        references: clear demonstrations of A, and of B.

    Returns:
        (N, n + 1, Q, 2), as `answer_log_probs`.
    """
    pairs = [pair for part in ("demonstrations", "queries") for case in cases for pair in getattr(case, part)]
    clear = [Case(shown, pairs) for shown in references]
    prompts, answers = prompts_and_answers(model, format, clear, [len(references[0])])
    log_p = score(model, prompts, [[answer] for answer in answers]).log_p
    N, n, Q = len(cases), len(cases[0].demonstrations), len(cases[0].queries) // 2
    seen, answer = log_p.view(2, -1).split([N * n, N * Q * 2], 1)
    log_evidence = nn.functional.pad(seen.view(2, N, n).cumsum(-1), (1, 0))  # (task, N, n + 1)
    log_posterior = log_evidence.log_softmax(0)
    each = log_posterior[..., None, None] + answer.view(2, N, 1, Q, 2)  # (task, N, n + 1, Q, 2)
    return each.logsumexp(0)


def log_odds(log_probs: torch.Tensor) -> torch.Tensor:
    """Mean over the queries of log p(answer of A) − log p(answer of B): (N, n + 1, Q, 2) to (N, n + 1)."""
    return (log_probs[..., 0] - log_probs[..., 1]).mean(-1)
