"""The check of an exercise says in words what is wrong."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.page.exercises import Exercise

ROW = torch.tensor([0.5, -1.0, 2.0])
BATCH = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, 1.5], [-1.5, 0.2, 0.3], [2.5, -0.5, 1.2]])
INPUTS = {"a row": lambda _: (ROW,), "a batch": lambda _: (BATCH,)}
CALLS = itertools.count()


def exercise_of(reference, inputs=INPUTS, mistakes=()):
    return Exercise(3, reference, inputs, dict(mistakes))


def softmax(x):
    return x.softmax(-1)


def three(x):
    return x.mean().item(), x.min().item(), x.max().item()


def in_place(x):
    x += 1
    return x.softmax(-1)


def only_a_row(x):
    return x.exp() / x.exp().dot(torch.ones(3))


def positive(x):
    return x.relu().log()  # minus infinity elsewhere


def mapped(function):
    return lambda x: {"a": [0, function(x)]}


def words(*texts):
    return lambda x: list(texts)


# the right function, a wrong one, the message as a regular expression
WRONG = {
    "raises": (softmax, lambda x: x.nothing, "on a row it raises AttributeError: 'Tensor' object has no.*"),
    "raises without a word": (softmax, lambda x: next(iter(())), "on a row it raises StopIteration"),
    "raises later": (softmax, only_a_row, "works for a row but fails on a batch: it raises RuntimeError: .*"),
    "wrong, and raises later": (
        softmax,
        lambda x: 2 * only_a_row(x),
        "on a row the answer sums to 2 along axis -1, expected 1",
    ),
    "returns nothing": (softmax, lambda x: None, r"on a row it returns nothing: is a return missing\?"),
    "changes inputs": (softmax, in_place, "on a row it changes its arguments: make new values instead"),
    "text": (softmax, str, "on a row the answer is text, expected a tensor"),
    "an array": (
        softmax,
        lambda x: softmax(x).numpy(),
        "on a row the answer is a NumPy array, expected a tensor",
    ),
    "complex": (softmax, lambda x: x + 0j, "on a row the answer is a tensor of complex numbers, expected .*"),
    "an array of text": (
        torch.Tensor.numpy,
        lambda x: x.numpy().astype(str),
        "on a row the answer is a NumPy array of <U.*, expected a NumPy array",
    ),
    "a list": (
        softmax,
        lambda x: x.tolist(),
        "on a row the answer is a list or tuple, expected a tensor",
    ),
    "stacked": (
        three,
        lambda x: torch.tensor(three(x)),
        "on a row the answer is a tensor, expected a list or tuple",
    ),
    "too short": (three, lambda x: three(x)[:2], "on a row the answer has 2 parts, expected 3"),
    "keys": (
        mapped(softmax),
        lambda x: {"b": 0},
        r"on a row the answer has the keys \['b'\], expected \['a'\]",
    ),
    "inside": (
        mapped(softmax),
        mapped(len),
        r"on a row the answer at \['a'\]\[1\] is a number, expected a tensor",
    ),
    "shape": (
        softmax,
        lambda x: softmax(x)[:2],
        r"on a row the answer has shape \(2,\), expected \(3,\)",
    ),
    "transposed": (
        softmax,
        lambda x: softmax(x).T if x.ndim > 1 else softmax(x),
        r"works for a row but fails on a batch: the answer has shape \(3, 4\), expected \(4, 3\): "
        "it has the right numbers, transposed: axes 0 and 1 are exchanged",
    ),
    "transposed square": (
        lambda x: x @ x.T.roll(1, 0) if x.ndim > 1 else x,
        lambda x: x.roll(1, 1) @ x.T if x.ndim > 1 else x,
        "works for a row but fails on a batch: the answer has the right numbers, transposed: "
        "axes 0 and 1 are exchanged",
    ),
    "an axis more": (
        softmax,
        lambda x: softmax(x)[..., None],
        r"on a row the answer has shape \(3, 1\), expected \(3,\): an axis of length one is left over",
    ),
    "an axis less": (
        lambda x: softmax(x)[None],
        softmax,
        r"on a row the answer has shape \(3,\), expected \(1, 3\): an axis of length one is missing",
    ),
    "broadcast": (
        softmax,
        lambda x: softmax(x)[..., None] - x[..., None, :],
        r"on a row the answer has shape \(3, 3\), expected \(3,\): did \(3, 1\) meet \(3,\) and broadcast\?",
    ),
    "not finite": (softmax, lambda x: x.log(), "on a row the answer is NaN or infinite in 5 of 15 places"),
    "whole numbers": (
        torch.sin,
        lambda x: x.long(),
        r"on a row the answer has whole numbers only, expected fractions such as 0\.479426",
    ),
    "logarithm": (
        softmax,
        lambda x: x.log_softmax(-1),
        r"on a row the answer is the logarithm of what is expected: is an exp missing\?",
    ),
    "exponential": (
        lambda x: x.log_softmax(-1),
        softmax,
        r"on a row the answer is the exponential of what is expected: is a log missing\?",
    ),
    "sign": (softmax, lambda x: -softmax(x), "on a row the answer has the sign flipped"),
    "sums": (softmax, torch.exp, r"on a row the answer sums to 9\.40566 along axis -1, expected 1"),
    "sums of differences": (
        softmax,
        lambda x: softmax(x) - 1 / 6,
        r"on a row the answer sums to 0\.5 along axis -1, expected 1",
    ),
    "sums elsewhere": (
        softmax,
        lambda x: x.softmax(0),
        r"works for a row but fails on a batch: the answer sums to .* along axis -1, expected 1, "
        "as along axis -2",
    ),
    "exponentials": (
        lambda x: x.log_softmax(-1),
        lambda x: x,
        r"on a row the answer has exponentials that sum to 9\.40566 along axis -1, expected 1",
    ),
    "factor": (torch.sin, lambda x: -2 * x.sin(), "on a row the answer is -2 times what is expected"),
    "factor by size": (
        torch.sin,
        lambda x: x.sin() * len(x),
        "on a row the answer is 3 times what is expected",
    ),
    "zeros": (torch.sin, torch.zeros_like, r"on a row the answer at \[0\] is 0, expected 0\.479426"),
    "too small": (torch.sin, lambda x: x.sin() - 0.5, r"on a row the answer is too small by 0\.5 everywhere"),
    "too large": (torch.sin, lambda x: x.sin() + 2, r"on a row the answer is too large by 2 everywhere"),
    "order": (
        torch.sin,
        lambda x: x.sin().flip(-1),
        "on a row the answer has the right parts in another order",
    ),
    "order of parts": (
        three,
        lambda x: three(x)[::-1],
        "on a row the answer has the right parts in another order",
    ),
    "order of texts": (
        words("hot", "cold"),
        words("cold", "hot"),
        "on a row the answer has the right parts in another order",
    ),
    "a later place": (
        torch.sin,
        lambda x: x.sin() * (x < 2.2),
        r"works for a row but fails on a batch: the answer at \[3, 0\] is 0, expected 0\.598472",
    ),
    "with a gradient": (
        torch.sin,
        lambda x: x.clone().requires_grad_().cos(),
        r"on a row the answer at \[0\] is 0\.877583, expected 0\.479426",
    ),
    "beside infinity": (
        positive,
        lambda x: positive(x).where(x < 1, torch.zeros(())),
        r"on a row the answer at \[2\] is 0, expected 0\.693147",
    ),
    "whole beside infinity": (
        lambda x: x.round().where(x > 0, -torch.inf),
        lambda x: x.long(),
        r"on a row the answer at \[1\] is -1, expected -inf",
    ),
    "a place in a dict": (
        mapped(torch.sin),
        mapped(torch.cos),
        r"on a row the answer at \['a'\]\[1\]\[0\] is 0\.877583, expected 0\.479426",
    ),
    "a count": (len, lambda x: 1000001, "on a row the answer is 1000001, expected 3"),
    "a fact": (lambda x: x.ndim > 1, lambda x: x.ndim == 1, "on a row the answer is True, expected False"),
    "a set": (lambda x: {len(x)}, lambda x: {3}, r"works for a row .* the answer is \{3\}, expected \{4\}"),
    "random": (
        torch.sin,
        lambda x: x + next(CALLS),
        "on a row a second call with the same arguments gives another answer",
    ),
    "text in the middle": (
        words("a cold and rainy winter morning"),
        words("a cold and sunny winter morning"),
        r"on a row the answer at \[0\] has 'sunny winter mo' after 'a cold and ', expected 'rainy winter mo'",
    ),
    "text at the beginning": (
        words("Q: hot"),
        words("hot"),
        r"on a row the answer at \[0\] has 'hot' at the beginning, expected 'Q: hot'",
    ),
    "text at the end": (
        words("one\n"),
        words("one"),
        r"on a row the answer at \[0\] has the end after 'one', expected '\\n'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_thing_wrong_is_told(name, capsys):
    reference, wrong, message = WRONG[name]
    exercise_of(reference).check(wrong)
    out = capsys.readouterr().out
    assert re.fullmatch(f"✗ Exercise 3, not yet: {message}\n", out), out


def test_a_result_is_not_a_function():
    problem = exercise_of(softmax).diagnose(ROW)
    assert problem == (
        "expected a function, got tensor([ 0.5000, -1.0000,  2.0000]): hand over its name, without calling it"
    )


def test_two_numbers_do_not_make_a_rule():
    exercise = exercise_of(lambda x: float(len(x)))  # 3, then 4
    assert exercise.diagnose(lambda x: 2.0 * len(x)) == "on a row the answer is 6, expected 3"
    assert exercise.diagnose(lambda x: 7.0 - len(x)) == "on a row the answer is 4, expected 3"
    large = exercise_of(lambda x: (x > 1.9) * 0.5)  # twice 0.5, among zeros
    assert large.diagnose(lambda x: (x > 1.9) * 1.5) == "on a row the answer at [2] is 1.5, expected 0.5"


def test_the_message_of_an_exception_is_cut():
    def answer(x):
        raise ValueError("much " * 100 + "\n✓ Exercise 3: right")

    problem = exercise_of(softmax).diagnose(answer)
    assert problem.startswith("on a row it raises ValueError: much much ")
    assert problem.endswith("…")
    assert len(problem) < 130


RIGHT = {
    "a tensor of one number": (lambda x: x.mean().item(), lambda x: x.mean()[None]),
    "a NumPy number": (lambda x: x.mean().item(), lambda x: np.float64(x.mean())),
    "a fraction": (lambda x: 0.25, lambda x: Fraction(1, 4)),
    "a number for a tensor of none": (torch.mean, lambda x: x.mean().item()),
    "a list for a tuple": (three, lambda x: list(three(x))),
    "whole numbers as floats": (lambda x: x.argmax(-1), lambda x: x.argmax(-1).double()),
    "another order of sums": (softmax, lambda x: x.double().exp() / x.double().exp().sum(-1, keepdim=True)),
    "with a gradient": (softmax, lambda x: softmax(x.clone().requires_grad_())),
    "a reversed array": (lambda x: x.flip(-1).numpy(), lambda x: x.numpy()[..., ::-1]),
    "a huge number": (lambda x: 2.0**100, lambda x: 2**100),
    "minus infinity": (positive, lambda x: x.clamp_min(0).log()),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_same_in_another_form_is_right(name):
    reference, answer = RIGHT[name]
    assert exercise_of(reference).diagnose(answer) is None


# Properties

NOISE = st.floats(0.001, 100) | st.floats(-100, -0.001)


@given(st.integers(0, 11), NOISE)
def test_a_wrong_number_anywhere_never_passes(place, noise):
    def answer(x):
        result = x.tanh()  # within 1, so that the noise is above the tolerance
        if x.ndim > 1:
            result.view(-1)[place] += noise
        return result

    problem = exercise_of(torch.tanh).diagnose(answer)
    assert problem.startswith("works for a row but fails on a batch: the answer ")


NUMBERS = st.integers() | st.floats() | st.fractions() | st.complex_numbers() | st.booleans()
LEAVES = NUMBERS | st.text() | st.none() | st.binary() | st.decimals() | st.just(softmax)
SHAPES = st.lists(st.integers(0, 3), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
TENSORS = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), SHAPES, DTYPES)
ARRAYS = st.builds(np.zeros, SHAPES, st.sampled_from(["f2", "f4", "u1", "?", "U3", "O", "c8"]))
ANYTHING = st.recursive(
    LEAVES | TENSORS | ARRAYS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=2), parts, max_size=3),
    max_leaves=4,
)


@given(ANYTHING, st.sampled_from([softmax, three, len, mapped(softmax), words("hot"), torch.Tensor.numpy]))
def test_any_answer_is_told_in_one_line(value, reference):
    problem = exercise_of(reference).diagnose(lambda x: value)
    assert len(problem.splitlines()) == 1
