"""Exercises whose check says in words what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from course_lib.page.diagnoses import close, cut, difference, error_line, form
from course_lib.page.numbering import check_number


class _Result(NamedTuple):
    """What a function made of one input: its answer or an error, and whether it changed its arguments."""

    value: Any
    error: Exception | None
    changed: bool

    def like(self, other: _Result) -> bool:
        if self.error or other.error:
            return type(self.error) is type(other.error)
        return close(self.value, other.value)


@dataclass(frozen=True)
class Exercise:
    """A function to write, what it is tried on, and the wrong answers that are recognised.

    Attributes:
        number: Place among the exercises of the chapter, from 1.
        reference: The right function. It returns numbers, texts, tensors, NumPy arrays, or lists, tuples,
            dicts and dataclasses of these.
        inputs: Name of an input: makes its arguments, always the same ones, from a seeded generator. The
            names are read after "on" and "works for"; the simplest comes first.
        mistakes: What a wrong function does, as a predicate of "your function": that wrong function.

    Raises:
        ValueError: A malformed number, no inputs, a message that is not one line, or a reference that
            fails, returns nothing, changes its arguments or is not the same twice.
    """

    number: int
    reference: Callable[..., Any]
    inputs: Mapping[str, Callable[[torch.Generator], tuple[Any, ...]]]
    mistakes: Mapping[str, Callable[..., Any]]

    def __post_init__(self) -> None:
        check_number("exercise", self.number)
        if not self.inputs:
            raise ValueError(f"inputs of exercise {self.number} must not be empty")
        for message in (*self.inputs, *self.mistakes):
            if not message.strip() or "\n" in message:
                raise ValueError(
                    f"inputs and mistakes of exercise {self.number} need names of one line, got {message!r}"
                )
        for name in self.inputs:
            right = self._run(self.reference, name)
            if problem := _malformed(right, right.value):
                raise ValueError(f"reference of exercise {self.number} on {name!r}: {problem}")
        if problem := self.diagnose(self.reference):
            raise ValueError(f"reference of exercise {self.number}: {problem}")

    def check(self, answer: Callable[..., Any]) -> None:
        """Prints whether a function is right on all inputs, else what is wrong with it."""
        problem, n = self.diagnose(answer), len(self.inputs)
        if problem:
            print(f"✗ Exercise {self.number}, not yet: {problem}")
        else:
            print(f"✓ Exercise {self.number}: right on {n} fresh input{'s' * (n > 1)}")

    def diagnose(self, answer: Callable[..., Any]) -> str | None:
        """Finds what is wrong with a function.

        Args:
            answer: The function.

        Returns:
            One line: the message of a mistake that gives the same results on all inputs, else what is wrong
            on the first input that is not right. None for a right function.
        """
        if not callable(answer):
            return f"expected a function, got {cut(repr(answer))}: hand over its name, without calling it"
        names = list(self.inputs)
        results = [self._run(answer, name) for name in names]
        right = [self._run(self.reference, name).value for name in names]
        malformed = [_malformed(*pair) for pair in zip(results, right, strict=True)]
        wrong = [i for i, bad in enumerate(malformed) if bad or not close(results[i].value, right[i])]
        if not wrong:
            return None
        if results[0].error is None:  # an error on all inputs does not tell which mistake it was
            for message, mistake in self.mistakes.items():
                same = (
                    result.like(self._run(mistake, name)) for result, name in zip(results, names, strict=True)
                )
                if all(same):
                    return message
        first = wrong[0]
        problem = malformed[first]
        if problem is None and not results[first].like(self._run(answer, names[first])):
            problem = "a second call with the same arguments gives another answer"
        if problem is None:
            problem = difference([(results[i].value, right[i]) for i in wrong if malformed[i] is None])
        if first == 0:
            return f"on {names[0]} {problem}"
        return f"works for {', '.join(names[:first])} but fails on {names[first]}: {problem}"

    def _run(self, function: Callable[..., Any], name: str) -> _Result:
        """Calls a function with arguments of its own, so that no other call sees what it does to them."""
        given, kept = (self._arguments(name) for _ in range(2))
        try:
            value = function(*given)
        except Exception as error:
            return _Result(None, error, False)
        return _Result(value, None, not close(given, kept))

    def _arguments(self, name: str) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(list(self.inputs).index(name))
        return copy.deepcopy(self.inputs[name](generator))


def _malformed(result: _Result, right: Any) -> str | None:
    """What is wrong with a result before its values are compared."""
    if result.error:
        return f"it raises {error_line(type(result.error).__name__, str(result.error))}"
    if result.value is None:
        return "it returns nothing: is a return missing?"
    if result.changed:
        return "it changes its arguments: make new values instead"
    return form(result.value, right)
