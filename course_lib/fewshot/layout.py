"""What stands where in a few-shot prompt, and the links of attention to cut between its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from course_lib import lm
from course_lib.fewshot.cases import Case, right_labels, shown_labels
from course_lib.fewshot.classification import Classification
from course_lib.fewshot.formats import Format


class Layout(NamedTuple):
    """A few-shot prompt, and what stands where in it."""

    tokens: list[int]
    texts: list[range]  # of each demonstration, with what separates it from the one in front
    frames: list[range]  # of each demonstration, what the format writes between its text and its label
    labels: list[int]  # of each demonstration, the first token of its label
    query: range  # the text behind the last demonstration
    query_frame: range  # the frame behind the query; its last token says the answer

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
    query_frame = range(len(tokens) - len(frame), len(tokens))
    if tokens[query_frame.start :] != frame:
        raise ValueError(f"query={query!r}: its last token is joined with what follows")
    return Layout(tokens, texts, frames, labels, range(behind, query_frame.start), query_frame)


def label_tokens(model: lm.LanguageModel, format: Format, labels: Sequence[str]) -> list[int]:
    """The first token of each label, as it is written behind a query.

    Raises:
        ValueError: two labels begin with the same token.
    """
    tokens = [format.tokens(model, [], "x", y)[1][0] for y in labels]
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"labels={list(labels)}: expected first tokens that differ, got {tokens}")
    return tokens


@dataclass(frozen=True)
class LaidOut:
    """The prompts of C cases of Q queries and k demonstrations each, laid out in the tokens of a model."""

    task: Classification
    cases: list[Case]
    layouts: list[Layout]  # of C Q prompts
    labels: list[int]  # the first token of each label

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of the C Q prompts."""
        return [each.tokens for each in self.layouts]

    @cached_property
    def right(self) -> torch.Tensor:
        """(C Q,) the index of each query's right label."""
        return right_labels(self.cases, self.task.labels).flatten()

    @cached_property
    def shown(self) -> torch.Tensor:
        """(C Q, k) the indices of the labels of the demonstrations in front of each query."""
        return shown_labels(self.cases, self.task.labels).repeat_interleave(self.n_queries, 0)

    @property
    def n_queries(self) -> int:
        """Q, the number of queries of a case."""
        return len(self.layouts) // len(self.cases)

    def per_case(self, values: torch.Tensor) -> torch.Tensor:
        """(C, ...) the mean over the queries of each case of values (C Q, ...)."""
        return values.float().unflatten(0, (len(self.cases), -1)).mean(1)


def lay_out(model: lm.LanguageModel, task: Classification, cases: Sequence[Case]) -> LaidOut:
    """Lays out the prompts of cases of a task, all with as many demonstrations and queries.

    Raises:
        ValueError: see `layout` and `label_tokens`; the cases differ in their numbers.
    """
    numbers = {(len(case.demonstrations), len(case.queries)) for case in cases}
    if len(numbers) != 1:
        raise ValueError(f"cases: expected as many demonstrations and queries in each, got {sorted(numbers)}")
    layouts = [layout(model, task.format, case, x) for case in cases for x, _ in case.queries]
    return LaidOut(task, list(cases), layouts, label_tokens(model, task.format, task.labels))


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
        pairs = [(where.query_frame, where.query)]
    elif cut == "labels to last":
        pairs = [(where.query_frame, where.labels)]
    elif cut == "texts to last":
        pairs = [(where.query_frame, text) for text in where.texts]
    else:
        raise ValueError(f"cut={cut!r}: expected one of {', '.join(CUTS)}")
    return [(asks, seen, 0.0) for those, hidden in pairs for asks in those for seen in hidden]
