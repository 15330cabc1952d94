"""Figures and exercises are numbered within their chapter."""

from __future__ import annotations


def check_number(kind: str, number: int) -> None:
    """Raises a ValueError for what is not the place of a figure or exercise in its chapter: 1, 2, 3, …"""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"number must be the place of the {kind} in its chapter, 1 or more, got {number!r}")
