"""Demonstrations become one vector, which can be read from one pass and written into another.

Hendel et al. (2023), "In-Context Learning Creates Task Vectors", read in-context learning as T([S, x]) =
f(x; θ) with θ = A(S): the first layers turn the demonstrations S into a task vector θ, the others apply it to
the query x. θ is the residual stream at the last token of a prompt that asks a dummy query x′.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import normalize

from course_lib import lm
from course_lib.data.tasks import Task
from course_lib.fewshot import Case, Format, Pair, contexts_of, prompts_and_answers, score, unscored
from course_lib.stats import Interval, share_interval

ARROW = Format()  # "{x}→{y}", one pair a line
PROMPTS_AT_A_TIME = 64  # whose logits for all layers are in memory together
Scoring = Literal["first", "full"]  # an answer is right by its first token, or by all of them


def draw(task: Task, shots: int = 5, n_cases: int = 10, n_queries: int = 5, seed: int = 0) -> list[Case]:
    """Cases whose demonstrations, dummy and queries are all different pairs of a task.

    Args:
        task: the pairs to draw from.
        shots: number of demonstrations.
        n_cases: number of cases, drawn independently of each other.
        n_queries: number of queries of a case.
        seed: another seed draws others.

    Raises:
        ValueError: the task has too few pairs, or a number is not positive.
    """
    needed = shots + 1 + n_queries
    if min(shots, n_cases, n_queries) < 1:
        raise ValueError(f"shots={shots}, n_cases={n_cases}, n_queries={n_queries}: expected at least 1")
    if needed > len(task.pairs):
        raise ValueError(
            f"task {task.name!r} has {len(task.pairs)} pairs here: {shots} demonstrations, a dummy and "
            f"{n_queries} queries need {needed}"
        )
    generator = random.Random(seed)
    drawn = [generator.sample(task.pairs, needed) for _ in range(n_cases)]
    return [Case(pairs[:shots], pairs[shots + 1 :], pairs[shots][0]) for pairs in drawn]


def task_vectors(model: lm.LanguageModel, cases: Sequence[Case], format: Format = ARROW) -> torch.Tensor:
    """A(S): the residual stream after each layer at the last token of the dummy's prompt.

    Args:
        model: a language model of L layers and width d.
        cases: N cases.
        format: how prompts are written.

    Returns:
        (N, L, d): θ for every layer where it may be read.
    """
    prompts = [format.tokens(model, case.demonstrations, case.dummy)[0] for case in cases]
    return lm.forward(model, prompts, lm.Read(residual=range(model.n_layers))).residual[:, :, 0]


def task_vector(
    model: lm.LanguageModel, demonstrations: Sequence[Pair], dummy: str, format: Format = ARROW
) -> torch.Tensor:
    """The task vector of some demonstrations, read at a dummy query, after each layer: (L, d).

    Raises:
        ValueError: the dummy is one of the demonstrated queries, whose answer the model could copy.
    """
    if dummy in [x for x, _ in demonstrations]:
        raise ValueError(f"dummy={dummy!r} is among the demonstrations: expected another query")
    return task_vectors(model, [Case(demonstrations, [], dummy)], format)[0]


def answered(
    model: lm.LanguageModel,
    cases: Sequence[Case],
    patches: Sequence[torch.Tensor | None] = (None,),
    layer: int | None = None,
    *,
    demonstrations: bool = False,
    scoring: Scoring = "first",
    format: Format = ARROW,
) -> torch.Tensor:
    """Which queries the model answers right, with or without demonstrations, once for each patch.

    Args:
        model: a language model of width d.
        cases: N cases of Q queries each.
        patches: P times (N, d), one vector for each case, to replace the residual stream at the prompt's
            last token; None replaces nothing.
        layer: the layer, counted from 0, after which it is replaced.
        demonstrations: whether they are in the prompt.
        scoring: "first": the most likely token is the answer's first. "full": so is every further token,
            the answer's own tokens being in front of it, hence greedy decoding writes the whole answer.
        format: how prompts are written.

    Returns:
        (P, N, Q): 1.0 where the answer is right, else 0.0.

    Raises:
        ValueError: a patch without a layer, or `scoring` is neither "first" nor "full".
    """
    if layer is None and any(patch is not None for patch in patches):
        raise ValueError("layer=None: expected the layer after which to write the patches")
    prompts, answers = _questions(model, cases, demonstrations, scoring, format)
    n_queries = len(cases[0].queries)
    writes = [
        lm.Write(
            layer,
            patch.repeat_interleave(n_queries, 0),
            prompts=range(i * len(prompts), (i + 1) * len(prompts)),
        )
        for i, patch in enumerate(patches)
        if patch is not None
    ]
    hits = score(model, prompts * len(patches), answers * len(patches), write=writes).greedy
    return hits.float().view(len(patches), len(cases), n_queries)


def demonstrated(
    model: lm.LanguageModel, cases: Sequence[Case], scoring: Scoring = "first", format: Format = ARROW
) -> tuple[torch.Tensor, torch.Tensor]:
    """The task vectors (N, L, d) and the right answers (N, Q) after the demonstrations, in one pass.

    The same as `task_vectors` and `answered`, which read the demonstrations once each.
    """
    prompts, answers = _questions(model, cases, True, scoring, format)
    contexts, scored = contexts_of(prompts, answers), unscored(answers)
    dummies = [format.tokens(model, case.demonstrations, case.dummy)[0] for case in cases]
    tokens = [*dummies, *(context.tokens for context in contexts)]
    out = lm.forward(model, tokens, lm.Read(residual=range(model.n_layers)))
    scored.add(contexts, out.logits[len(cases) :])
    return out.residual[: len(cases), :, 0], scored.greedy.float().view(len(cases), -1)


def sweep(
    model: lm.LanguageModel, cases: Sequence[Case], vectors: torch.Tensor, format: Format = ARROW
) -> torch.Tensor:
    """Which queries are answered right, by the first token, when θ is written after each layer in turn.

    Args:
        model: a language model of L layers and width d.
        cases: N cases of Q queries each, whose demonstrations are not in the prompt.
        vectors: (N, L, d), for each case what to write after each layer.
        format: how prompts are written.

    Returns:
        (L, N, Q): 1.0 where the answer is right, else 0.0.
    """
    prompts, answers = _questions(model, cases, False, "first", format)
    owners = torch.arange(len(cases)).repeat_interleave(len(cases[0].queries))
    best = []
    for i in range(0, len(prompts), PROMPTS_AT_A_TIME):
        part = slice(i, i + PROMPTS_AT_A_TIME)
        written = vectors[owners[part]].transpose(0, 1)  # (L, part, d)
        best.append(lm.sweep_layers(model, prompts[part], written).argmax(-1).cpu())  # (L, part)
    right = torch.tensor([token for [[token]] in answers])
    return (torch.cat(best, 1) == right).float().unflatten(1, (len(cases), -1))


def _questions(
    model: lm.LanguageModel, cases: Sequence[Case], demonstrations: bool, scoring: Scoring, format: Format
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """The prompts of all queries, and what has to be written after each: one answer, in a list."""
    if scoring not in ("first", "full"):
        raise ValueError(f'scoring={scoring!r}: expected "first" or "full"')
    if len({len(case.queries) for case in cases}) != 1:
        raise ValueError("cases: expected some, all with the same number of queries")
    shots = len(cases[0].demonstrations) if demonstrations else 0
    prompts, answers = prompts_and_answers(model, format, cases, [shots])
    return prompts, [[answer[:1] if scoring == "first" else answer] for answer in answers]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One task in the three procedures, on test cases, and the accuracy by layer on development cases."""

    task: str
    category: str
    layer: int  # after which θ is read and written, the best one in `by_layer`
    by_layer: torch.Tensor  # (L,) by the first token
    hits: dict[str, torch.Tensor]  # regular, hypothesis, baseline: (cases, queries)
    majority: float  # share of test pairs with the most frequent answer
    vectors: torch.Tensor  # (cases, L, d) θ of the test cases

    @property
    def regular(self) -> Interval:
        """Demonstrations and query in one prompt."""
        return share_interval(self.hits["regular"])

    @property
    def hypothesis(self) -> Interval:
        """The query alone, with the task vector written in."""
        return share_interval(self.hits["hypothesis"])

    @property
    def baseline(self) -> Interval:
        """The query alone."""
        return share_interval(self.hits["baseline"])


def evaluate(
    model: lm.LanguageModel,
    task: Task,
    *,
    shots: int = 5,
    n_cases: int = 10,
    n_queries: int = 5,
    scoring: Scoring = "first",
    format: Format = ARROW,
    seed: int = 0,
) -> Evaluation:
    """The protocol of Hendel et al. (2023), section 3, on pairs that are cut into halves.

    The layer is the best one for the development half, where answers are scored by their first token; all
    else is measured on the test half.

    Args:
        model: any language model.
        task: at least 2 · (shots + 2) pairs, for instance `tasks.read("my.csv")`.
        shots: number of demonstrations.
        n_cases: cases of the test half; half as many are taken of the development half.
        n_queries: number of queries of a case, fewer where a half has not so many pairs.
        scoring: whether the first token or the full answer has to be right on the test half.
        format: how prompts are written.
        seed: another seed cuts and draws otherwise.

    Raises:
        ValueError: the task has too few pairs, or an option is unknown.
    """
    dev, test = task.split(seed=seed)
    n_queries = max(min(n_queries, len(dev.pairs) - shots - 1, len(test.pairs) - shots - 1), 1)
    tried = draw(dev, shots, max(n_cases // 2, 1), n_queries, seed)
    cases = draw(test, shots, n_cases, n_queries, seed)
    by_layer = sweep(model, tried, task_vectors(model, tried, format), format).mean((1, 2))
    layer = by_layer.tolist().index(by_layer.max())
    vectors, regular = demonstrated(model, cases, scoring, format)
    patches = [vectors[:, layer], None]
    hypothesis, baseline = answered(model, cases, patches, layer, scoring=scoring, format=format)
    hits = {"regular": regular, "hypothesis": hypothesis, "baseline": baseline}
    asked = slice(1 if scoring == "first" else None)
    answers = [tuple(format.tokens(model, [], x, y)[1][asked]) for x, y in test.pairs]
    majority = Counter(answers).most_common(1)[0][1] / len(answers)
    return Evaluation(task.name, task.category, layer, by_layer, hits, majority, vectors)


def average(evaluations: Sequence[Evaluation], kind: str) -> Interval:
    """Mean accuracy over these tasks, with the interval that follows from theirs.

    Distances to the ends add up as independent errors do; the draw of tasks is not covered.
    """
    each = torch.tensor(
        [share_interval(evaluation.hits[kind]) for evaluation in evaluations], dtype=torch.float64
    )
    value, low, high = each.T  # (tasks,)
    mean, below, above = value.mean(), (value - low).norm() / len(each), (high - value).norm() / len(each)
    return Interval(mean.item(), (mean - below).item(), (mean + above).item())


def cosine_distances(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine distances within and between tasks.

    Args:
        vectors: (T, N, d): N task vectors of each of T tasks.

    Returns:
        (T · N(N−1)/2,) between vectors of one task, and (T(T−1)/2 · N²,) between vectors of two.
    """
    T, N, _ = vectors.shape
    unit = normalize(vectors.flatten(0, 1), dim=-1)
    distance = 1 - unit @ unit.T
    rows, columns = torch.triu_indices(T * N, T * N, offset=1, device=vectors.device)
    same = rows // N == columns // N
    return distance[rows[same], columns[same]], distance[rows[~same], columns[~same]]


def vocabulary(model: lm.LanguageModel, vectors: torch.Tensor) -> torch.Tensor:
    """What the residual stream says if it is read out at once: (N, d) → log-probabilities (N, vocab).

    A vector written after the last layer passes through the final norm and the unembedding only
    (nostalgebraist, 2020, the logit lens).
    """
    prompts = [model.document_start or [0]] * len(vectors)
    return lm.forward(model, prompts, write=lm.Write(model.n_layers - 1, vectors)).logits.log_softmax(-1)
