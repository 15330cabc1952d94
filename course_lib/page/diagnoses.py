"""What is wrong with an answer, in words: compares what a function returned with what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from itertools import combinations
from numbers import Real
from typing import Any

import numpy as np
import torch

from course_lib.page.tables import scalar

Part = tuple[str, Any, Any]  # a place in an answer, what is there, and what is right there
Numbers = list[tuple[torch.Tensor, torch.Tensor]]  # given and right
_TOLERANCE = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}  # sums in another order, in float32
_AXES = (-1, -2, -3)  # along which probabilities may sum to one
_AROUND = 15  # characters to show before and after the first difference of two texts


def close(got: Any, right: Any) -> bool:
    """Whether an answer is right, up to rounding in float32."""
    return form(got, right) is None and all(_equal(g, r) for _, g, r in _parts(got, right))


def form(got: Any, right: Any, at: str = "") -> str | None:
    """Says what is wrong with the type, length, keys or shape of an answer, whatever its values.

    Args:
        got: A number, text, tensor or NumPy array, or a list, tuple, dict or dataclass of these.
        right: The right answer. A list counts as a tuple, and a tensor of one number as a number.
        at: The place in a larger answer.

    Returns:
        A sentence, or None for an answer of the right form.
    """
    got, right = _plain(got), _plain(right)
    have, want = _kind(got), _kind(right)
    number_in_tensor = want == "a number" and have in _TENSORS and _tensor(got).numel() == 1
    if have != want and not number_in_tensor:
        return f"{_subject(at)} is {have}, expected {want}"
    if isinstance(right, Mapping) and set(got) != set(right):
        return f"{_subject(at)} has the keys {list(got)}, expected {list(right)}"
    if isinstance(right, (Mapping, list, tuple)):
        if len(got) != len(right):
            return f"{_subject(at)} has {len(got)} parts, expected {len(right)}"
        keys = right if isinstance(right, Mapping) else range(len(right))
        return next(filter(None, (form(got[k], right[k], f"{at}[{k!r}]") for k in keys)), None)
    if want in _TENSORS and got.shape != right.shape:
        shapes = f"{_subject(at)} has shape {tuple(got.shape)}, expected {tuple(right.shape)}"
        return shapes + _shape_hint(_tensor(got), _tensor(right))
    return None


def difference(answers: Sequence[tuple[Any, Any]]) -> str:
    """Says how wrong answers of the right form differ from the right ones.

    Args:
        answers: Pairs of an answer and the right one, for at least one input; each pair differs.

    Returns:
        A sentence about what all of them have in common, else about the first, else about one place in it.
    """
    parts = [part for pair in answers for part in _parts(*pair)]
    at, got, right = next(part for part in parts if not _equal(*part[1:]))
    for group in (parts, list(_parts(*answers[0]))):
        numbers = [(g, r) for _, g, r in group if isinstance(r, torch.Tensor)]
        for recognise in _RELATIONS if isinstance(right, torch.Tensor) else ():
            if found := recognise(numbers):
                return f"the answer {found}"
    if all(_reordered(*pair) for pair in answers):
        return "the answer has the right parts in another order"
    if isinstance(right, str):
        return _text_difference(at, got, right)
    if not isinstance(right, torch.Tensor):
        return f"{_subject(at)} is {cut(repr(got))}, expected {cut(repr(right))}"
    place = _near(got, right).logical_not().nonzero()[0].tolist()
    value, expected = (_show(tensor[tuple(place)].item()) for tensor in (got, right))
    return f"{_subject(at + str(place) * bool(place))} is {value}, expected {expected}"


def cut(text: str) -> str:
    """The first line of a text, and no more than 100 characters of it."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 100 else line[:99] + "…"


def error_line(name: str, message: str) -> str:
    """An error in one line: the name of its type and the beginning of its message."""
    return cut(f"{name}: {message}".removesuffix(": "))


# Answers are taken apart into numbers and texts.

_TENSORS = ("a tensor", "a NumPy array")
_KINDS = {str: "text", Real: "a number", list: "a list or tuple", tuple: "a list or tuple", Mapping: "a dict"}


def _plain(value: Any) -> Any:
    value = scalar(value)
    return vars(value) if is_dataclass(value) and not isinstance(value, type) else value


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "a tensor of complex numbers" if value.is_complex() else "a tensor"
    if isinstance(value, np.ndarray):
        return "a NumPy array" if value.dtype.kind in "biuf" else f"a NumPy array of {value.dtype}"
    for kind, name in _KINDS.items():
        if isinstance(value, kind):
            return name
    return f"of type {type(value).__name__}"


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy(order="C"))  # torch takes no negative strides
    if isinstance(value, int) and abs(value) < 2**63:
        return torch.tensor(value)
    return torch.tensor(float(value), dtype=torch.float64)


def _parts(got: Any, right: Any, at: str = "") -> Iterator[Part]:
    """Walks two answers of the same form; numbers come as tensors."""
    got, right = _plain(got), _plain(right)
    if isinstance(right, (Mapping, list, tuple)):
        for key in right if isinstance(right, Mapping) else range(len(right)):
            yield from _parts(got[key], right[key], f"{at}[{key!r}]")
    elif _kind(right) in ("a number", *_TENSORS):
        yield at, _tensor(got).reshape(_tensor(right).shape), _tensor(right)
    else:
        yield at, got, right


def _near(got: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.isclose(got.double(), right.double(), **_TOLERANCE)


def _equal(got: Any, right: Any) -> bool:
    return bool(_near(got, right).all()) if isinstance(right, torch.Tensor) else got == right


def _show(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"


def _subject(at: str) -> str:
    return f"the answer at {at}" if at else "the answer"


def _shape_hint(got: torch.Tensor, right: torch.Tensor) -> str:
    if axes := _exchanged([(got, right)]):
        return f": it {axes}"
    if got.ndim != right.ndim and got.squeeze().shape == right.squeeze().shape:
        return f": an axis of length one is {'left over' if got.ndim > right.ndim else 'missing'}"
    if got.shape == (*right.shape, *right.shape[-1:]):
        n = right.shape[-1]
        return f": did ({n}, 1) meet ({n},) and broadcast?"
    return ""


def _reordered(got: Any, right: Any) -> bool:
    """Whether an answer has the right numbers, or the right texts, in another order."""
    _, given, wanted = zip(*_parts(got, right), strict=True)
    if all(isinstance(part, torch.Tensor) for part in wanted):
        given, wanted = _flat(list(zip(given, wanted, strict=True)))
        return _equal(given.sort()[0], wanted.sort()[0])
    return all(isinstance(part, str) for part in wanted) and sorted(given) == sorted(wanted)


def _text_difference(at: str, got: str, right: str) -> str:
    n = next((n for n in range(min(len(got), len(right))) if got[n] != right[n]), min(len(got), len(right)))
    have, want = (repr(text[n : n + _AROUND]) if text[n:] else "the end" for text in (got, right))
    after = f"after {right[max(0, n - _AROUND) : n]!r}" if n else "at the beginning"
    return f"{_subject(at)} has {have} {after}, expected {want}"


# Relations between all given and all right numbers; each is a predicate of "the answer", or None.


def _flat(numbers: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
    given, right = zip(*numbers, strict=True)
    return tuple(torch.cat([tensor.flatten().double() for tensor in side]) for side in (given, right))


def _telling(right: torch.Tensor) -> bool:
    """Whether a relation that holds for these numbers can hardly hold by chance."""
    return len(right) > 2 and right.min() < right.max()


def _not_finite(numbers: Numbers) -> str | None:
    given, right = _flat(numbers)
    bad = int((right.isfinite() & ~given.isfinite()).sum())
    return f"is NaN or infinite in {bad} of {len(right)} places" if bad else None


def _whole(numbers: Numbers) -> str | None:
    _, right = _flat(numbers)
    fractions = right[right.isfinite() & (right % 1 != 0)]
    if not len(fractions) or any(given.is_floating_point() for given, _ in numbers):
        return None
    return f"has whole numbers only, expected fractions such as {_show(fractions[0].item())}"


def _log_or_exp(numbers: Numbers) -> str | None:
    given, right = _flat(numbers)
    if _telling(right) and _equal(given.exp(), right):
        return "is the logarithm of what is expected: is an exp missing?"
    if _telling(right) and _equal(given.log(), right):
        return "is the exponential of what is expected: is a log missing?"
    return None


def _flipped(numbers: Numbers) -> str | None:
    given, right = _flat(numbers)
    return "has the sign flipped" if _equal(-given, right) else None


def _unnormalised(numbers: Numbers) -> str | None:
    for name, scale in (("sums", torch.Tensor.double), ("has exponentials that sum", torch.exp)):
        tensors = [(scale(given), scale(right)) for given, right in numbers if right.ndim]
        for axis in _AXES:
            if not tensors or not all(_sums_to_one(right, axis) for _, right in tensors):
                continue
            for given, _ in tensors:
                if not _sums_to_one(given, axis):
                    sums = given.sum(axis).flatten()
                    total = sums[~_near(sums, torch.ones_like(sums))][0].item()
                    other = next((f", as along axis {a}" for a in _AXES if _sums_to_one(given, a)), "")
                    return f"{name} to {_show(total)} along axis {axis}, expected 1{other}"
    return None


def _sums_to_one(tensor: torch.Tensor, axis: int) -> bool:
    if tensor.ndim < -axis:
        return False
    sums = tensor.sum(axis)
    return _equal(sums, torch.ones_like(sums))


def _factor(numbers: Numbers) -> str | None:
    given, right = _flat(numbers)
    factor = (given @ right) / (right @ right)
    known = _telling(right[right != 0]) and given.any() and _equal(given, factor * right)
    return f"is {_show(factor.item())} times what is expected" if known else None


def _offset(numbers: Numbers) -> str | None:
    given, right = _flat(numbers)
    offset = (given - right).mean()
    if not (_telling(right) and _equal(given - offset, right)):
        return None
    return f"is too {'large' if offset > 0 else 'small'} by {_show(abs(offset.item()))} everywhere"


def _exchanged(numbers: Numbers) -> str | None:
    axes = range(min(right.ndim for _, right in numbers))
    for i, j in combinations(axes, 2):
        turned = [(g.transpose(i, j), r) for g, r in numbers if g.ndim == r.ndim]
        if len(turned) == len(numbers) and all(g.shape == r.shape and _equal(g, r) for g, r in turned):
            return f"has the right numbers, transposed: axes {i} and {j} are exchanged"
    return None


_RELATIONS: tuple[Callable[[Numbers], str | None], ...] = (
    _not_finite,
    _whole,
    _log_or_exp,  # before the sums: a logarithm does not sum to one either
    _flipped,
    _unnormalised,
    _factor,
    _offset,
    _exchanged,
)
