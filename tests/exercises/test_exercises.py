"""Every exercise of the book knows its right answer and its mistakes; checks say in words what is wrong."""

import importlib
import itertools
import pkgutil
import warnings
from dataclasses import dataclass

import pytest
import torch

from course_lib import exercises
from course_lib.page.exercises import Exercise

MODULES = [
    importlib.import_module(f"{exercises.__name__}.{module.name}")
    for module in pkgutil.iter_modules(exercises.__path__)
]
ALL = [value for module in MODULES for value in vars(module).values() if isinstance(value, Exercise)]
MISTAKES = [(exercise, message) for exercise in ALL for message in exercise.mistakes]


# The exercises of the book


def test_the_exercises_of_a_module_are_numbered_in_order():
    assert {"1.1", "1.2", "1.3", "1.4", "1.5"} <= {exercise.number for exercise in ALL}
    for module in MODULES:
        numbers = [value.number for value in vars(module).values() if isinstance(value, Exercise)]
        [chapter] = {number.partition(".")[0] for number in numbers}
        assert numbers == [f"{chapter}.{n}" for n in range(1, len(numbers) + 1)]


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_the_reference_passes(exercise, capsys):
    assert exercise.check(exercise.reference) is None  # a notebook would show anything else
    n = len(exercise.inputs)
    assert capsys.readouterr().out == f"✓ Exercise {exercise.number}: right on {n} fresh inputs\n"


@pytest.mark.parametrize(("exercise", "message"), MISTAKES, ids=lambda value: getattr(value, "number", value))
def test_each_mistake_is_told_by_its_own_message(exercise, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be in the output of the notebook
        assert exercise.diagnose(exercise.mistakes[message]) == message


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: {}["missing"], "it raises KeyError: 'missing'"),
        (lambda *_: None, "it returns nothing: is a return missing?"),
        (lambda *_: object(), "the answer is of type object, expected "),
    ],
)
def test_each_exercise_tells_answers_without_a_value(exercise, answer, message):
    assert exercise.diagnose(answer).startswith(f"on {next(iter(exercise.inputs))} {message}")


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)
def test_each_exercise_prints_the_same_twice(exercise, capsys):
    printed = []
    for _ in range(2):
        for answer in (exercise.reference, *exercise.mistakes.values(), lambda *_: -1, lambda *_: None):
            exercise.check(answer)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


# Exercises of the tests

ROW = torch.tensor([0.5, -1.0, 2.0])
INPUTS = {"a row": lambda _: (ROW,), "a batch": lambda _: (torch.stack([ROW, 2 * ROW]),)}
CALLS = itertools.count()


def exercise_of(reference, inputs=INPUTS, mistakes=()):
    return Exercise("3.1", reference, inputs, dict(mistakes))


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
        ({"number": "3"}, r"number .*\"1\.2\", got '3'"),
        ({"number": "03.1"}, "number"),
        ({"inputs": {}}, r"inputs of exercise 3\.1 must not be empty"),
        ({"inputs": {" ": lambda _: (ROW,)}}, "names of one line, got ' '"),
        ({"mistakes": {"": softmax}}, "names of one line, got ''"),
        ({"mistakes": {"two\nlines": softmax}}, "names of one line"),
        ({"reference": lambda x: x.nothing}, "reference of exercise 3.1 on 'a row': it raises Attr"),
        ({"reference": only_a_row}, "reference of exercise 3.1 on 'a batch': it raises RuntimeError"),
        ({"reference": lambda x: None}, "on 'a row': it returns nothing"),
        ({"reference": in_place}, "on 'a row': it changes its arguments"),
        ({"reference": lambda x: x + next(CALLS)}, "reference of exercise 3.1: on a row a second call"),
    ],
)
def test_a_malformed_exercise_is_refused(changes, message):
    parts = {"number": "3.1", "reference": softmax, "inputs": INPUTS, "mistakes": {}}
    with pytest.raises(ValueError, match=message):
        Exercise(**{**parts, **changes})
