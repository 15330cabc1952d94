"""Classification: texts with one of a few labels, written by one format."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from course_lib import lm
from course_lib.data import texts
from course_lib.fewshot.cases import Case, draw
from course_lib.fewshot.formats import Format, Pair

FORMATS = {
    "sentiment": Format("Review: {x}\nSentiment: {y}", "\n\n"),
    "topic": Format("Article: {x}\nTopic: {y}", "\n\n"),
}
TWO_LABELS = {"sentiment": ("negative", "positive"), "topic": ("business", "sports")}
WORDS = 20  # of a text; what comes behind them is not shown


@dataclass(frozen=True)
class Classification:
    """A task: how examples are written, the labels, a pool of examples to show, and queries to ask."""

    name: str
    format: Format
    labels: tuple[str, ...]
    pool: tuple[Pair, ...]
    queries: tuple[Pair, ...]

    @cached_property
    def pool_vectors(self) -> torch.Tensor:
        """(n, d) embeddings of the pool, on the CPU, see `lm.embed`."""
        return lm.embed([x for x, _ in self.pool])

    @cached_property
    def query_vectors(self) -> torch.Tensor:
        """(Q, d) embeddings of the queries, on the CPU."""
        return lm.embed([x for x, _ in self.queries])

    @property
    def pool_labels(self) -> torch.Tensor:
        """(n,) the index of each label in the pool."""
        return torch.tensor([self.labels.index(y) for _, y in self.pool])

    @property
    def query_labels(self) -> torch.Tensor:
        """(Q,) the index of each query's right label."""
        return torch.tensor([self.labels.index(y) for _, y in self.queries])

    def only(self, labels: Sequence[str]) -> Classification:
        """The same task with some of its labels.

        Raises:
            ValueError: it has no such label.
        """
        if unknown := set(labels) - set(self.labels):
            raise ValueError(f"labels: {sorted(unknown)} are not among {', '.join(self.labels)}")
        pool, queries = (tuple(p for p in part if p[1] in labels) for part in (self.pool, self.queries))
        return replace(self, labels=tuple(labels), pool=pool, queries=queries)

    def sampled(self, n_queries: int, seed: int = 0) -> Classification:
        """The same task with some of its queries, drawn at random; fewer are the first of more."""
        drawn = random.Random(seed).sample(self.queries, len(self.queries))
        return replace(self, queries=tuple(drawn[:n_queries]))

    def cases(self, n: int, n_queries: int = 12, shots: int = 8, seed: int = 1) -> list[Case]:
        """Cases of random demonstrations from the pool, see `draw`.

        Args:
            n: number of cases.
            n_queries: number of queries of a case.
            shots: number of demonstrations of a case.
            seed: another seed draws others.

        Raises:
            ValueError: there are not so many examples.
        """
        return draw(self.pool, self.queries, shots, n, n_queries, seed)


def short_texts(name: str, n: int = 500) -> Classification:
    """Real texts, 20 words at most: the first n of one half of a corpus to show, the other half to ask.

    Args:
        name: "sentiment" (film reviews) or "topic" (news).
        n: size of the pool.

    Raises:
        ValueError: there is no such task.
    """
    corpus = texts.load(name)
    pool, queries = (
        tuple((" ".join(e.text.split()[:WORDS]), corpus.label_names[e.label]) for e in part)
        for part in (corpus.train[:n], corpus.test)
    )
    return Classification(name, FORMATS[name], corpus.label_names, pool, queries)
