"""The query to drag: what Python accepts and says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dragged import ALT, QUERY, VALUES, show

from course_lib.page import PALETTE, drag, figures

MIME = "application/vnd.jupyter.widget"


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_state_is_plain_numbers_and_escaped_texts(make):
    state, _ = show(make(VALUES), make(QUERY), c=np.float64(2.5))
    assert np.allclose(state["values"], VALUES)
    assert np.allclose(state["query"], QUERY)
    assert state["c"] == 2.5
    assert state["alt"] == "Five values around the origin &amp; a query outside of their hull."
    assert state["caption"] == "<strong>Figure 1.</strong> It follows &lt; q"


def test_text_says_what_is_shown_and_is_the_same_twice():
    (_, one), (_, two) = show(c=30), show(c=30)
    assert one["text/plain"].splitlines() == [
        "Figure 1. It follows < q",
        f"[{ALT}]",
        "values (1, 0.2), (0.3, 1.1), (-0.9, 0.7), (-0.6, -0.8), (0.5, -0.6); query (1.3, 1.2); "
        "inverse temperature 30",
    ]
    assert one["text/plain"] == two["text/plain"]
    assert one[f"{MIME}-view+json"]["model_id"]


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (ValueError, {"values": VALUES[:2]}, r"values of figure 1 .* n from 3 to 8, got \(2, 2\)"),
        (ValueError, {"values": [[0, 0]] * 9}, r"values .* got \(9, 2\)"),
        (ValueError, {"values": [[0, 0, 0]] * 4}, r"values .* got \(4, 3\)"),
        (ValueError, {"values": [1, 2, 3]}, r"values .* got \(3,\)"),
        (ValueError, {"values": [[0, 1], [1, 0], [math.nan, 0]]}, "values .* finite"),
        (TypeError, {"values": [[0, 1], [1, 0], [1]]}, "values .* array of numbers"),
        (TypeError, {"values": "text"}, "values .* array of numbers"),
        (TypeError, {"values": torch.ones(3, 2, requires_grad=True)}, "values .* array of numbers"),
        (ValueError, {"query": [1, 2, 3]}, r"query .* \(2,\), got \(3,\)"),
        (ValueError, {"query": [1, math.inf]}, "query .* finite"),
        (TypeError, {"query": {}}, "query .* array of numbers"),
        (ValueError, {"c": 0}, r"c of figure 1 must be 0\.1 to 100, got 0"),
        (ValueError, {"c": 101}, "c .* got 101"),
        (ValueError, {"c": math.nan}, "c .* got nan"),
        (TypeError, {"c": "1"}, "c .* number, got str"),
        (ValueError, {"alt": "short"}, "alt"),
    ],
)
def test_wrong_arguments_are_named(error, changes, message):
    with pytest.raises(error, match=message):
        show(**changes)


def test_colours_are_those_of_the_figures():
    css = Path(drag.__file__).with_suffix(".css").read_text(encoding="utf-8").upper()
    for rule, colour in [("SOFTMAX { COLOR", "blue"), ("PROJECTION { COLOR", "vermilion")]:
        assert f".DRAG-{rule}: {PALETTE[colour].upper()}" in css
    assert f"STROKE: {PALETTE['green']}".upper() in css
    assert f"BACKGROUND: {figures.BACKGROUND}".upper() in css
