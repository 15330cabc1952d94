"""Claims and tables: what they print and refuse, and what the comparison of outputs sees of it."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbval.plugin import get_sanitize_patterns

from course_lib.page import ClaimError, claim, interval, table
from course_lib.page import tables as tables_module
from course_lib.page.tables import number

CONFIG = Path(__file__).parents[1] / "nbval.cfg"


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    outputs = []
    monkeypatch.setattr(tables_module, "display", outputs.append)
    return outputs


def sanitised(text):
    for regex, replace in get_sanitize_patterns(CONFIG.read_text(encoding="utf-8")):
        text = re.sub(regex, replace, text)
    return text


# Claims


@pytest.mark.parametrize("measured", [0.87, np.float32(0.87), np.array(0.87), torch.tensor(0.87)])
def test_claim_prints_statement_value_and_range(capsys, measured):
    claim("Patched accuracy keeps 80 %", measured, at_least=0.80)
    assert capsys.readouterr().out == "✓ Patched accuracy keeps 80 %\n  measured 0.87 · accepted ≥ 0.80\n"


@pytest.mark.parametrize("measured", [True, np.True_, torch.tensor(True)])
def test_claim_of_a_fact(capsys, measured):
    claim("Weights sum to one", measured)
    assert capsys.readouterr().out == "✓ Weights sum to one\n  holds\n"


@pytest.mark.parametrize(
    ("bounds", "accepted"),
    [
        ({"at_least": 2, "at_most": 4}, "≥ 2 and ≤ 4"),
        ({"at_most": 3.125}, "≤ 3.125"),
        ({"at_least": 3, "at_most": 3}, "exactly 3"),
        ({"at_least": 1e-7}, "≥ 1.0e-07"),
        ({"at_least": np.float64(0.125)}, "≥ 0.125"),
    ],
)
def test_claim_prints_bounds_without_changing_them(capsys, bounds, accepted):
    claim("There are three", 3, **bounds)
    assert capsys.readouterr().out.endswith(f"measured 3 · accepted {accepted}\n")


@pytest.mark.parametrize("measured", [0.79999, 0.9001, math.nan, math.inf, torch.tensor(math.nan)])
def test_claim_outside_its_range_names_everything(capsys, measured):
    with pytest.raises(ClaimError, match=r"Accuracy is high: measured .+, accepted ≥ 0\.80 and ≤ 0\.90"):
        claim("Accuracy is high", measured, at_least=0.80, at_most=0.90)
    assert capsys.readouterr().out == ""


def test_claim_never_accepts_infinity():
    with pytest.raises(ClaimError):
        claim("It grows", math.inf, at_least=0)


def test_false_fact_is_a_claim_error():
    with pytest.raises(ClaimError, match="Weights sum to one"):
        claim("Weights sum to one", np.False_)


@pytest.mark.parametrize(
    ("error", "arguments", "bounds"),
    [
        (ValueError, ("A number without a range", 3), {}),
        (ValueError, ("Crossed", 3), {"at_least": 4, "at_most": 2}),
        (ValueError, ("A NaN bound", 3), {"at_least": math.nan}),
        (ValueError, ("A fact with a range", True), {"at_least": 1}),
        (ValueError, (" ", 3), {"at_least": 1}),
        (ValueError, ("Two\nlines", 3), {"at_least": 1}),
        (TypeError, ("Text", "0.9"), {"at_least": 0}),
        (TypeError, ("Nothing", None), {"at_least": 0}),
        (TypeError, ("Many numbers", torch.ones(3)), {"at_least": 0}),
        (TypeError, ("Complex", np.array(1j)), {"at_least": 0}),
    ],
)
def test_claim_rejects(error, arguments, bounds):
    with pytest.raises(error):
        claim(*arguments, **bounds)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10))
def test_claim_passes_exactly_inside_its_range(measured, one, two):
    low, high = sorted((one, two))
    try:
        claim("Inside", measured, at_least=low, at_most=high)
    except ClaimError:
        assert not low <= measured <= high
    else:
        assert low <= measured <= high


# Tables


def test_table_shows_text_and_html(shown):
    table(
        [["few-shot", 30, 0.53], ["zero & shot", 9, torch.tensor(-12.0)]], ["prompt", "n", "change"], "Gains"
    )
    assert repr(shown[0]).splitlines() == [
        "Gains",
        "prompt        n  change",
        "─" * 23,
        "few-shot     30    0.53",
        "zero & shot   9  -12.00",
    ]
    html = shown[0]._repr_html_()
    assert "<caption>Gains</caption>" in html
    assert html.count('<th scope="col"') == 3
    assert html.count('<th scope="row"') == 2
    assert "zero &amp; shot" in html


def test_numbers_never_round_to_zero():
    assert [number(x, 2) for x in (0.5, 0.0, 4e-4, 2e7, 7, "a")] == [
        "0.50",
        "0.00",
        "4.0e-04",
        "2.0e+07",
        "7",
        "a",
    ]


@pytest.mark.parametrize(
    ("rows", "caption", "message"),
    [([], "Gains", "rows"), ([["a", 1, 2]], "Gains", "2 cells"), ([["a", 1]], " ", "caption")],
)
def test_table_rejects(rows, caption, message):
    with pytest.raises(ValueError, match=message):
        table(rows, ["prompt", "n"], caption)


def test_an_interval_is_written_with_two_decimals():
    assert interval(0.8, 0.75, 0.85) == "0.80 (0.75–0.85)"
    assert interval(-0.3, -1.6, 0.9) == "-0.30 (-1.60 to 0.90)"


# Sanitising


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("✓ A\n  measured 0.87 · accepted ≥ 0.80", "✓ A\n  measured 0.9 · accepted ≥ 0.80"),
        ("✓ A\n  measured 412 · accepted ≥ 400", "✓ A\n  measured 4.0e+03 · accepted ≥ 400"),
        ("a      9.99  -0.01\n──────", "a     10.01   1.2e-05\n───────"),
        ("<td>-0.01</td>", "<td>1.0e-03</td>"),
        ("87 % and 3.5%", "9 % and 12.25%"),
        ('src="data:image/png;base64,iVBOR/+=" x', 'src="data:image/png;base64,AAAA" x'),
        ("<f at 0x7f00aa>", "<f at 0x55>"),
        ("/ipykernel_12/1", "/ipykernel_345/1"),
    ],
)
def test_sanitiser_masks_measurements(one, two):
    assert sanitised(one) == sanitised(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("measured 0.87 · accepted ≥ 0.80", "measured 0.87 · accepted ≥ 0.70"),
        ("measured 0.87 · accepted ≥ -0.80", "measured 0.87 · accepted ≥ -0.85"),
        ("measured 0.87 · accepted ≤ 1.0e-06", "measured 0.87 · accepted ≤ 1.0e-05"),
        ("measured 0.87 · accepted exactly 0.5", "measured 0.87 · accepted exactly 0.6"),
        ("layer 9 is best", "layer 10 is best"),
        ("few-shot  30  0.53", "few-shot  31  0.53"),
        ("hot  0.53", "cold  0.53"),
        ("loss 0.53", "loss nan"),
    ],
)
def test_sanitiser_keeps_bounds_counts_and_words(one, two):
    assert sanitised(one) != sanitised(two)
