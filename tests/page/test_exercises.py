"""Checks of exercises say in words what is wrong."""

import itertools
from dataclasses import dataclass

import pytest
import torch

from course_lib.page.exercises import Exercise

ROW = torch.tensor([0.5, -1.0, 2.0])
INPUTS = {"a row": lambda _: (ROW,), "a batch": lambda _: (torch.stack([ROW, 2 * ROW]),)}
CALLS = itertools.count()


def exercise_of(reference, inputs=INPUTS, mistakes=()):
    return Exercise(3, reference, inputs, dict(mistakes))


def softmax(x):
    return x.softmax(-1)


def in_place(x):
    x += 1
    return x.softmax(-1)


def only_a_row(x):
    return x.exp() / x.exp().dot(torch.ones(3))


# Mistakes


def test_a_mistake_is_named_only_if_all_results_agree():
    mistakes = {"takes the first": lambda x: x[0], "fails on a batch": only_a_row}
    exercise = exercise_of(softmax, mistakes=mistakes.items())
    assert exercise.diagnose(lambda x: x[0].clone()) == "takes the first"
    assert exercise.diagnose(lambda x: x.exp() / x.exp() @ torch.eye(3)).startswith(
        "on a row the answer sums"
    )
    assert exercise.diagnose(lambda x: only_a_row(x) if x.ndim < 2 else x.dot(x)) == "fails on a batch"
    another = exercise.diagnose(lambda x: only_a_row(x) if x.ndim < 2 else {}["x"])
    assert another.startswith("works for a row but fails on a batch: it raises KeyError")


def test_an_error_on_the_first_input_names_no_mistake():
    exercise = exercise_of(softmax, mistakes={"divides by zero": lambda x: 1 / 0}.items())
    assert exercise.diagnose(lambda x: 0 // 0).startswith("on a row it raises ZeroDivisionError")


# Arguments


@dataclass
class Pair:
    words: list[str]
    number: torch.Tensor


SHARED = Pair(["hot", "cold"], torch.ones(2))


def count(pair):
    return len(pair.words) + pair.number.sum().item()


@pytest.mark.parametrize(
    "change",
    [
        lambda pair: pair.words.append("mild"),
        lambda pair: pair.words.sort(),
        lambda pair: pair.number.add_(1),
        lambda pair: setattr(pair, "number", 0),
    ],
)
def test_changed_arguments_are_told_and_reach_no_other_call(change):
    exercise = exercise_of(count, {"a pair": lambda _: (SHARED,), "the pair": lambda _: (SHARED,)})

    def answer(pair):
        result = count(pair)
        change(pair)
        return result

    assert exercise.diagnose(answer) == "on a pair it changes its arguments: make new values instead"
    assert exercise.diagnose(count) is None
    assert SHARED.words == ["hot", "cold"]
    assert SHARED.number.sum() == 2


def test_each_input_has_a_generator_of_its_own_that_starts_the_same():
    seen = []
    random = {name: lambda g: (torch.rand(3, generator=g),) for name in ("one", "two")}
    exercise = exercise_of(softmax, random)
    exercise.diagnose(lambda x: seen.append(x) or softmax(x))
    exercise.diagnose(lambda x: seen.append(x) or softmax(x))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 0}, "number must be the place of the exercise in its chapter, 1 or more, got 0"),
        ({"number": "3"}, "number .* got '3'"),
        ({"number": True}, "number .* got True"),
        ({"inputs": {}}, "inputs of exercise 3 must not be empty"),
        ({"inputs": {" ": lambda _: (ROW,)}}, "names of one line, got ' '"),
        ({"mistakes": {"": softmax}}, "names of one line, got ''"),
        ({"mistakes": {"two\nlines": softmax}}, "names of one line"),
        ({"reference": lambda x: x.nothing}, "reference of exercise 3 on 'a row': it raises Attr"),
        ({"reference": only_a_row}, "reference of exercise 3 on 'a batch': it raises RuntimeError"),
        ({"reference": lambda x: None}, "on 'a row': it returns nothing"),
        ({"reference": in_place}, "on 'a row': it changes its arguments"),
        ({"reference": lambda x: x + next(CALLS)}, "reference of exercise 3: on a row a second call"),
    ],
)
def test_a_malformed_exercise_is_refused(changes, message):
    parts = {"number": 3, "reference": softmax, "inputs": INPUTS, "mistakes": {}}
    with pytest.raises(ValueError, match=message):
        Exercise(**{**parts, **changes})
