"""Chapter 08: demonstrations become one vector, which can be read from one pass and written into another.

Hendel et al. (2023), "In-Context Learning Creates Task Vectors", read in-context learning as T([S, x]) =
f(x; θ) with θ = A(S): the first layers turn the demonstrations S into a task vector θ, the others apply it to
the query x. θ is the residual stream at the last token of a prompt that asks a dummy query x′.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import normalize

from course_lib import lm
from course_lib.data.tasks import Task
from course_lib.fewshot.demonstrations import Accuracy, Format, Pair, accuracy

ARROW = Format()  # "{x}→{y}", one pair a line
PROMPTS_AT_A_TIME = 64  # whose logits for all layers are in memory together
Scoring = Literal["first", "full"]  # an answer is right by its first token, or by all of them


@dataclass(frozen=True)
class Trial:
    """Demonstrations S, a dummy query x′ to read the task vector at, and queries to answer."""

    demonstrations: Sequence[Pair]
    dummy: str
    queries: Sequence[Pair]


def draw(task: Task, shots: int = 5, n_trials: int = 10, n_queries: int = 5, seed: int = 0) -> list[Trial]:
    """Trials whose demonstrations, dummy and queries are all different pairs of a task.

    Args:
        task: the pairs to draw from.
        shots: number of demonstrations.
        n_trials: number of trials, drawn independently of each other.
        n_queries: number of queries of a trial.
        seed: another seed draws others.

    Raises:
        ValueError: the task has too few pairs, or a number is not positive.
    """
    needed = shots + 1 + n_queries
    if min(shots, n_trials, n_queries) < 1:
        raise ValueError(f"shots={shots}, n_trials={n_trials}, n_queries={n_queries}: expected at least 1")
    if needed > len(task.pairs):
        raise ValueError(
            f"task {task.name!r} has {len(task.pairs)} pairs here: {shots} demonstrations, a dummy and "
            f"{n_queries} queries need {needed}"
        )
    generator = random.Random(seed)
    drawn = [generator.sample(task.pairs, needed) for _ in range(n_trials)]
    return [Trial(pairs[:shots], pairs[shots][0], pairs[shots + 1 :]) for pairs in drawn]


def task_vectors(model: lm.LanguageModel, trials: Sequence[Trial], format: Format = ARROW) -> torch.Tensor:
    """A(S): the residual stream after each layer at the last token of the dummy's prompt.

    Args:
        model: a language model of L layers and width d.
        trials: N trials.
        format: how prompts are written.

    Returns:
        (N, L, d): θ for every layer where it may be read.
    """
    prompts = [format.tokens(model, trial.demonstrations, trial.dummy)[0] for trial in trials]
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
    return task_vectors(model, [Trial(demonstrations, dummy, [])], format)[0]


def right(
    model: lm.LanguageModel,
    trials: Sequence[Trial],
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
        trials: N trials of Q queries each.
        patches: P times (N, d), one vector for each trial, to replace the residual stream at the prompt's
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
    steps = _steps(model, trials, demonstrations, scoring, format)
    owners, arrows = [step.trial for step in steps], [step.arrow for step in steps]
    writes = [
        lm.Write(layer, patch[owners], arrows, prompts=range(i * len(steps), (i + 1) * len(steps)))
        for i, patch in enumerate(patches)
        if patch is not None
    ]
    logits = lm.forward(model, [step.context for step in steps] * len(patches), write=writes).logits
    return torch.stack([_hits(steps, part) for part in logits.split(len(steps))])


def demonstrated(
    model: lm.LanguageModel, trials: Sequence[Trial], scoring: Scoring = "first", format: Format = ARROW
) -> tuple[torch.Tensor, torch.Tensor]:
    """The task vectors (N, L, d) and the right answers (N, Q) after the demonstrations, in one pass.

    The same as `task_vectors` and `right`, which read the demonstrations once each.
    """
    steps = _steps(model, trials, True, scoring, format)
    dummies = [format.tokens(model, trial.demonstrations, trial.dummy)[0] for trial in trials]
    contexts = [*dummies, *(step.context for step in steps)]
    out = lm.forward(model, contexts, lm.Read(residual=range(model.n_layers)))
    return out.residual[: len(trials), :, 0], _hits(steps, out.logits[len(trials) :])


def sweep(
    model: lm.LanguageModel, trials: Sequence[Trial], vectors: torch.Tensor, format: Format = ARROW
) -> torch.Tensor:
    """Which queries are answered right, by the first token, when θ is written after each layer in turn.

    Args:
        model: a language model of L layers and width d.
        trials: N trials of Q queries each, whose demonstrations are not in the prompt.
        vectors: (N, L, d), for each trial what to write after each layer.
        format: how prompts are written.

    Returns:
        (L, N, Q): 1.0 where the answer is right, else 0.0.
    """
    steps = _steps(model, trials, False, "first", format)
    prompts, owners = [step.context for step in steps], [step.trial for step in steps]
    best = []
    for i in range(0, len(prompts), PROMPTS_AT_A_TIME):
        part = slice(i, i + PROMPTS_AT_A_TIME)
        written = vectors[owners[part]].transpose(0, 1)  # (L, part, d)
        best.append(lm.sweep_layers(model, prompts[part], written).argmax(-1).cpu())  # (L, part)
    wanted = torch.tensor([step.token for step in steps])
    return (torch.cat(best, 1) == wanted).float().unflatten(1, (len(trials), -1))


class Step(NamedTuple):
    """A token that has to be written after a context."""

    trial: int
    query: int  # of all queries
    arrow: int  # position of the last token in front of the answer
    context: list[int]
    token: int


def _steps(
    model: lm.LanguageModel, trials: Sequence[Trial], demonstrations: bool, scoring: Scoring, format: Format
) -> list[Step]:
    """All tokens that have to be right, query by query."""
    if scoring not in ("first", "full"):
        raise ValueError(f'scoring={scoring!r}: expected "first" or "full"')
    if len({len(trial.queries) for trial in trials}) != 1:
        raise ValueError("trials: expected some, all with the same number of queries")
    steps, query = [], 0
    for i, trial in enumerate(trials):
        for x, y in trial.queries:
            prompt, answer = format.tokens(model, trial.demonstrations if demonstrations else [], x, y)
            for j, token in enumerate(answer[:1] if scoring == "first" else answer):
                steps.append(Step(i, query, len(prompt) - 1, prompt + answer[:j], token))
            query += 1
    return steps


def _hits(steps: Sequence[Step], logits: torch.Tensor) -> torch.Tensor:
    """(N, Q) whether all tokens of an answer are the most likely ones, from logits (steps, vocab)."""
    hits = torch.ones(steps[-1].trial + 1, (steps[-1].query + 1) // (steps[-1].trial + 1))
    for step, best in zip(steps, logits.argmax(-1).tolist(), strict=True):
        hits.view(-1)[step.query] *= best == step.token
    return hits


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One task in the three procedures, on test trials, and the accuracy by layer on development trials."""

    task: str
    category: str
    layer: int  # after which θ is read and written, the best one in `by_layer`
    by_layer: torch.Tensor  # (L,) by the first token
    hits: dict[str, torch.Tensor]  # regular, hypothesis, baseline: (trials, queries)
    majority: float  # share of test pairs with the most frequent answer
    vectors: torch.Tensor  # (trials, L, d) θ of the test trials

    @property
    def regular(self) -> Accuracy:
        """Demonstrations and query in one prompt."""
        return accuracy(self.hits["regular"])

    @property
    def hypothesis(self) -> Accuracy:
        """The query alone, with the task vector written in."""
        return accuracy(self.hits["hypothesis"])

    @property
    def baseline(self) -> Accuracy:
        """The query alone."""
        return accuracy(self.hits["baseline"])


def evaluate(
    model: lm.LanguageModel,
    task: Task,
    *,
    shots: int = 5,
    n_trials: int = 10,
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
        n_trials: trials of the test half; half as many are taken of the development half.
        n_queries: number of queries of a trial, fewer where a half has not so many pairs.
        scoring: whether the first token or the full answer has to be right on the test half.
        format: how prompts are written.
        seed: another seed cuts and draws otherwise.

    Raises:
        ValueError: the task has too few pairs, or an option is unknown.
    """
    dev, test = task.split(seed=seed)
    n_queries = max(min(n_queries, len(dev.pairs) - shots - 1, len(test.pairs) - shots - 1), 1)
    tried = draw(dev, shots, max(n_trials // 2, 1), n_queries, seed)
    trials = draw(test, shots, n_trials, n_queries, seed)
    by_layer = sweep(model, tried, task_vectors(model, tried, format), format).mean((1, 2))
    layer = by_layer.tolist().index(by_layer.max())
    vectors, regular = demonstrated(model, trials, scoring, format)
    patches = [vectors[:, layer], None]
    hypothesis, baseline = right(model, trials, patches, layer, scoring=scoring, format=format)
    hits = {"regular": regular, "hypothesis": hypothesis, "baseline": baseline}
    asked = slice(1 if scoring == "first" else None)
    answers = [tuple(format.tokens(model, [], x, y)[1][asked]) for x, y in test.pairs]
    majority = Counter(answers).most_common(1)[0][1] / len(answers)
    return Evaluation(task.name, task.category, layer, by_layer, hits, majority, vectors)


def average(evaluations: Sequence[Evaluation], kind: str) -> Accuracy:
    """Mean accuracy over these tasks, with the interval that follows from theirs.

    Distances to the ends add up as independent errors do; the draw of tasks is not covered.
    """
    each = torch.tensor([accuracy(evaluation.hits[kind]) for evaluation in evaluations], dtype=torch.float64)
    value, low, high = each.T  # (tasks,)
    mean, below, above = value.mean(), (value - low).norm() / len(each), (high - value).norm() / len(each)
    return Accuracy(mean.item(), (mean - below).item(), (mean + above).item())


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
