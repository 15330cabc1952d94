"""Every exercise of the book knows its right answer and its mistakes."""

import importlib
import pkgutil
import warnings

import pytest

from course_lib import exercises
from course_lib.page.exercises import Exercise

NAMES = [
    module.name
    for module in pkgutil.walk_packages(exercises.__path__, f"{exercises.__name__}.")
    if not module.ispkg
]
MODULES = [importlib.import_module(name) for name in NAMES]
ALL = [
    pytest.param(value, id=f"{module.__name__.removeprefix(exercises.__name__)[1:]}-{value.number}")
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, Exercise)
]
MISTAKES = [
    pytest.param(exercise, message, id=f"{parameter.id}-{message}")
    for parameter in ALL
    for exercise in parameter.values
    for message in exercise.mistakes
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_exercises_of_a_module_are_numbered_in_order(module):
    numbers = [value.number for value in vars(module).values() if isinstance(value, Exercise)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


@pytest.mark.parametrize("exercise", ALL)
def test_the_reference_passes(exercise, capsys):
    assert exercise.check(exercise.reference) is None  # a notebook would show anything else
    n = len(exercise.inputs)
    assert capsys.readouterr().out == f"✓ Exercise {exercise.number}: right on {n} fresh inputs\n"


@pytest.mark.parametrize(("exercise", "message"), MISTAKES)
def test_each_mistake_is_told_by_its_own_message(exercise, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be in the output of the notebook
        assert exercise.diagnose(exercise.mistakes[message]) == message


@pytest.mark.parametrize("exercise", ALL)
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


@pytest.mark.parametrize("exercise", ALL)
def test_each_exercise_prints_the_same_twice(exercise, capsys):
    printed = []
    for _ in range(2):
        for answer in (exercise.reference, *exercise.mistakes.values(), lambda *_: -1, lambda *_: None):
            exercise.check(answer)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
