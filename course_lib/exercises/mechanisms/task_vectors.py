"""Exercises of Task vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from course_lib.mechanisms import task_vectors as tv
from course_lib.page.exercises import Exercise

# 1 Patch it


def _patch(stream: torch.Tensor, lengths: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    patched = stream.clone()
    patched[torch.arange(len(stream)), lengths - 1] = theta
    return patched


def _at(place: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The mistake of writing at another position, given by the lengths."""

    def mistake(stream: torch.Tensor, lengths: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        patched = stream.clone()
        patched[torch.arange(len(stream)), place(lengths).clamp(max=stream.shape[1] - 1)] = theta
        return patched

    return mistake


def _crossed(stream: torch.Tensor, lengths: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    patched = stream.clone()
    patched[:, lengths - 1] = theta
    return patched


def _streams(lengths: list[int], time: int, d: int) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda generator: (
        torch.randn(len(lengths), time, d, generator=generator),
        torch.tensor(lengths),
        torch.randn(len(lengths), d, generator=generator),
    )


patch = Exercise(
    1,
    reference=_patch,
    inputs={
        "prompts of different lengths": _streams([3, 5, 2], 6, 4),
        "prompts of one length": _streams([4, 4], 4, 3),
        "one prompt": _streams([2], 6, 5),
    },
    mistakes={
        "writes at the end of the row: a shorter prompt ends before, behind it is padding": _at(
            lambda lengths: torch.full_like(lengths, 10**6)
        ),
        "writes one position too far: positions count from 0, so the last one is length − 1": _at(
            lambda lengths: lengths
        ),
        "writes at the first token": _at(torch.zeros_like),
        "adds θ to what is there: the patch replaces it": lambda stream, lengths, theta: _patch(
            stream, lengths, theta + stream[torch.arange(len(stream)), lengths - 1]
        ),
        "writes at every position up to the last: only the arrow is patched": lambda stream, lengths, theta: (
            torch.where((torch.arange(stream.shape[1]) < lengths[:, None])[..., None], theta[:, None], stream)
        ),
        "writes the first prompt's θ into all: each has its own": lambda stream, lengths, theta: _patch(
            stream, lengths, theta[:1].expand_as(theta)
        ),
        "writes one position too early: positions count from 0, so the last one is length − 1": _at(
            lambda lengths: lengths - 2
        ),
        "writes into every prompt at every prompt's position: pair them with torch.arange": (
            lambda stream, lengths, theta: _crossed(stream, lengths, theta)
        ),
        "writes from the last token on: behind it is padding": lambda stream, lengths, theta: torch.where(
            (torch.arange(stream.shape[1]) >= lengths[:, None] - 1)[..., None], theta[:, None], stream
        ),
        "returns the stream as it was": lambda stream, lengths, theta: stream.clone(),
    },
)


# 2 Within and between


def _distances(vectors: torch.Tensor) -> torch.Tensor:
    return torch.stack([part.mean() for part in tv.cosine_distances(vectors)])


def _matrix(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine distances of all pairs, and which pairs are of one task."""
    unit = normalize(vectors.flatten(0, 1), dim=-1)
    owner = torch.arange(len(vectors)).repeat_interleave(vectors.shape[1])
    return 1 - unit @ unit.T, owner[:, None] == owner


def _with_itself(vectors: torch.Tensor) -> torch.Tensor:
    distance, same = _matrix(vectors)
    return torch.stack([distance[same].mean(), distance[~same].mean()])


def _euclidean(vectors: torch.Tensor) -> torch.Tensor:
    _, same = _matrix(vectors)
    distance = torch.cdist(vectors.flatten(0, 1), vectors.flatten(0, 1))
    return torch.stack([distance[same & ~torch.eye(len(same)).bool()].mean(), distance[~same].mean()])


def _products(vectors: torch.Tensor) -> torch.Tensor:
    _, same = _matrix(vectors)
    flat = vectors.flatten(0, 1)
    distance = 1 - flat @ flat.T
    return torch.stack([distance[same & ~torch.eye(len(same)).bool()].mean(), distance[~same].mean()])


def _all_pairs(vectors: torch.Tensor) -> torch.Tensor:
    within, between = tv.cosine_distances(vectors)
    return torch.stack([within.mean(), torch.cat([within, between]).mean()])


def _of_means(vectors: torch.Tensor) -> torch.Tensor:
    within, _ = tv.cosine_distances(vectors)
    _, between = tv.cosine_distances(vectors.mean(1, keepdim=True))
    return torch.stack([within.mean(), between.mean()])


def _task_vectors(tasks: int, n: int, d: int) -> Callable[..., tuple[torch.Tensor]]:
    def make(generator: torch.Generator) -> tuple[torch.Tensor]:
        centres = torch.randn(tasks, 1, d, generator=generator)
        return (2 * centres + torch.randn(tasks, n, d, generator=generator) + 0.5,)

    return make


within_between = Exercise(
    2,
    reference=_distances,
    inputs={
        "two tasks with three vectors each": _task_vectors(2, 3, 4),
        "five tasks with four vectors each": _task_vectors(5, 4, 8),
        "two tasks with two vectors each": _task_vectors(2, 2, 3),
    },
    mistakes={
        "counts a vector's distance to itself, which is 0, among those within": _with_itself,
        "gives Euclidean distances: the cosine does not see lengths": _euclidean,
        "gives similarities: the distance is one minus the cosine": lambda vectors: 1 - _distances(vectors),
        "takes all pairs as between: only those of two different tasks are": _all_pairs,
        "compares the tasks' mean vectors: take all pairs of single ones": _of_means,
        "does not scale the vectors to length one: the cosine is the product of unit vectors": _products,
        "mixes up whose vector is whose: repeat_interleave gives 0 0 1 1, repeat 0 1 0 1": lambda vectors: (
            _distances(
                vectors.flatten(0, 1).unflatten(0, (vectors.shape[1], vectors.shape[0])).transpose(0, 1)
            )
        ),
        "sums the distances: give their means": lambda vectors: torch.stack(
            [part.sum() for part in tv.cosine_distances(vectors)]
        ),
        "returns between before within": lambda vectors: _distances(vectors).flip(0),
    },
)


# 3 How many answers?


def _effective(hits: torch.Tensor, correction: int = 1) -> torch.Tensor:
    p, n = hits.mean(), hits.numel()
    variance = hits.mean(1).var(correction=correction) / len(hits)
    by_chance = p * (1 - p) / n
    return n * (by_chance / variance).clamp(max=1) if variance > 0 else torch.tensor(float(n))


def _no_limit(hits: torch.Tensor) -> torch.Tensor:
    p, variance = hits.mean(), hits.mean(1).var() / len(hits)
    return p * (1 - p) / variance if variance > 0 else torch.tensor(float(hits.numel()))


def _answers(n: int, q: int, spread: float) -> Callable[..., tuple[torch.Tensor]]:
    def make(generator: torch.Generator) -> tuple[torch.Tensor]:
        chance = 0.5 + spread * (torch.rand(n, 1, generator=generator) - 0.5)
        return ((torch.rand(n, q, generator=generator) < chance).float(),)

    return make


effective = Exercise(
    3,
    reference=_effective,
    inputs={
        "trials that go all right or all wrong": lambda _: (torch.tensor([[1.0] * 5, [0.0] * 5] * 4),),
        "ten trials of five queries": _answers(10, 5, 1.0),
        "trials that are all alike": lambda _: (torch.tensor([[1.0, 0.0, 1.0]] * 6),),
        "all answers right": lambda _: (torch.ones(4, 3),),
        "trials that differ less than coins": lambda _: (
            torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 0]]),
        ),
    },
    mistakes={
        "counts every answer: those of one trial are not independent": lambda hits: torch.tensor(
            float(hits.numel())
        ),
        "counts the trials: their answers are not copies of each other": lambda hits: torch.tensor(
            float(len(hits))
        ),
        "divides the trials' variance by N: with N − 1 it is without bias": lambda hits: _effective(hits, 0),
        "can exceed the number of answers: it is at most that": _no_limit,
        "takes the variance of single answers: take that of the trials' means": lambda hits: (
            hits.numel()
            * (hits.mean() * (1 - hits.mean()) / hits.numel() / (hits.var() / len(hits))).clamp(max=1)
            if hits.var() > 0
            else torch.tensor(float(hits.numel()))
        ),
        "takes the variance over the queries: the trials are the rows": lambda hits: _effective(hits.T),
        "is upside down: the more the trials vary, the fewer answers they are worth": lambda hits: (
            hits.numel() ** 2 / _effective(hits)
        ),
        "gives the share that counts: multiply it by the number of answers": lambda hits: (
            _effective(hits) / hits.numel()
        ),
        "forgets that the mean of N trials varies N times less than one trial": lambda hits: (
            hits.numel() * (hits.mean() * (1 - hits.mean()) / hits.numel() / hits.mean(1).var()).clamp(max=1)
            if hits.mean(1).var() > 0
            else torch.tensor(float(hits.numel()))
        ),
    },
)


# 4 Whose answers does it raise?


def _raised(log_probs: torch.Tensor, answers: list[list[int]], axis: int = 0) -> torch.Tensor:
    above = log_probs - log_probs.mean(axis, keepdim=True)
    return torch.stack([above[:, tokens].mean(1) for tokens in answers], dim=1)


def _lens(tasks: int, vocabulary: int, answers: list[list[int]]) -> Callable[..., tuple]:
    return lambda generator: (
        (3 * torch.randn(tasks, vocabulary, generator=generator)).log_softmax(-1),
        answers,
    )


raised = Exercise(
    4,
    reference=_raised,
    inputs={
        "three tasks": _lens(3, 9, [[8, 0], [1, 2, 3], [4]]),
        "four tasks with answers in common": _lens(4, 20, [[0, 1, 2], [2, 3], [7], [11, 12, 13, 19]]),
        "two tasks": _lens(2, 6, [[0, 1], [4]]),
    },
    mistakes={
        "does not take off the tasks' mean: some tokens are likely under all vectors": lambda lens, answers: (
            torch.stack([lens[:, tokens].mean(1) for tokens in answers], dim=1)
        ),
        "takes off the mean over the vocabulary: take that over the tasks": lambda lens, answers: _raised(
            lens, answers, axis=1
        ),
        "takes off the mean of the other tasks: take that of all, the own one too": lambda lens, answers: (
            _raised(lens, answers) * len(lens) / (len(lens) - 1)
        ),
        "takes the largest of a task's answers: take their mean": lambda lens, answers: torch.stack(
            [(lens - lens.mean(0))[:, tokens].amax(1) for tokens in answers], dim=1
        ),
        "is transposed: rows are vectors, columns are answers": lambda lens, answers: (
            _raised(lens, answers).T
        ),
        "sums over a task's answers: tasks with many of them would win": lambda lens, answers: torch.stack(
            [(lens - lens.mean(0))[:, tokens].sum(1) for tokens in answers], dim=1
        ),
        "works with probabilities: differences of logarithms are asked": lambda lens, answers: _raised(
            lens.exp(), answers
        ),
        "returns the diagonal only: how each vector raises every task's answers is asked": (
            lambda lens, answers: _raised(lens, answers).diagonal().clone()
        ),
    },
)
