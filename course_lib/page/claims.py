"""Claims: sentences of the book that are executed."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from course_lib.page.tables import number, scalar


class ClaimError(AssertionError):
    """A measured value is outside the range that its statement allows."""


def claim(
    statement: str,
    measured: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    digits: int = 2,
) -> None:
    """Asserts a statement and prints it with the measured value and the accepted range.

    The measured value is printed between "measured" and "·", where the comparison of notebook outputs
    masks it (`tests/nbval.cfg`): the range guards the value, the comparison guards the words and the range.

    Args:
        statement: One sentence that states the result.
        measured: A number (Python, NumPy, or a 0-d tensor) with a range, or a bool without one.
        at_least: Smallest accepted value.
        at_most: Largest accepted value; equal to `at_least` for an exact count.
        digits: Decimals to print of floats.

    Raises:
        ClaimError: The value is outside the range, NaN or infinite, or False.
        TypeError: `measured` is not a number.
        ValueError: The statement is not one line, a number has no range, a bool has one, or the bounds cross.
    """
    if not statement.strip() or "\n" in statement:
        raise ValueError(f"statement must be one line of text, got {statement!r}")
    value = scalar(measured)
    if isinstance(value, bool):
        if at_least is not None or at_most is not None:
            raise ValueError(f"measured is a bool, which takes no at_least and at_most, in {statement!r}")
        if not value:
            raise ClaimError(f"{statement}: does not hold")
        print(f"✓ {statement}\n  holds")
        return
    if not isinstance(value, Real):
        raise TypeError(f"measured must be a number, got {type(measured).__name__} in {statement!r}")
    if at_least is None and at_most is None:
        raise ValueError(f"measured is a number, which needs at_least or at_most, in {statement!r}")
    low = -math.inf if at_least is None else at_least
    high = math.inf if at_most is None else at_most
    if not low <= high:
        raise ValueError(f"at_least={at_least} must not exceed at_most={at_most} in {statement!r}")
    accepted = _accepted(at_least, at_most, digits)
    if not (math.isfinite(value) and low <= value <= high):
        raise ClaimError(f"{statement}: measured {value!r}, accepted {accepted}")
    print(f"✓ {statement}\n  measured {number(value, digits)} · accepted {accepted}")


def _accepted(at_least: float | None, at_most: float | None, digits: int) -> str:
    if at_least is not None and at_least == at_most:
        return f"exactly {_bound(at_least, digits)}"
    bounds = (("≥", at_least), ("≤", at_most))
    return " and ".join(f"{sign} {_bound(bound, digits)}" for sign, bound in bounds if bound is not None)


def _bound(bound: float, digits: int) -> str:
    """Rounds a bound for print only where this does not change it."""
    text = number(bound, digits)
    return text if float(text) == bound else repr(scalar(bound))
