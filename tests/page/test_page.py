"""What a page shows, and what the comparison of its outputs sees."""

import io
import math
import re
from base64 import b64decode
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbval.plugin import get_sanitize_patterns
from PIL import Image

from course_lib.page import (
    PALETTE,
    ClaimError,
    band,
    claim,
    figure,
    figures,
    interval,
    new_figure,
    scrub,
    table,
    whiskers,
)
from course_lib.page import tables as tables_module
from course_lib.page import widgets as widgets_module
from course_lib.page.tables import number

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "nbval.cfg"
ALT = "One curve that rises from 0 to 1 over three steps."


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    outputs = []
    for module in (figures, tables_module, widgets_module):
        monkeypatch.setattr(module, "display", lambda data, **options: outputs.append(data))
    return outputs


def curve(height=2.0):
    fig, axes = new_figure(width=4, height=height)
    axes.plot([0, 1, 2], [0, 0.3, 1])
    return fig


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


# Figures


def picture_of(html):
    return Image.open(io.BytesIO(b64decode(re.search(r"base64,([^\"]+)", html)[1])))


def test_figure_has_number_caption_alt_and_size(shown):
    figure(curve(), "1.2", "It rises < 1", ALT)
    html = shown[0]["text/html"]
    assert f'alt="{ALT}" width="384" height="192"' in html
    assert "<strong>Figure 1.2.</strong> It rises &lt; 1</figcaption>" in html
    assert shown[0]["text/plain"] == f"Figure 1.2. It rises < 1\n[{ALT}]"
    assert plt.get_fignums() == []


def test_figure_is_small_opaque_and_the_same_twice(shown):
    for _ in range(2):
        figure(curve(), "1.2", "It rises", ALT)
    assert shown[0] == shown[1]
    picture = picture_of(shown[0]["text/html"])
    assert picture.size == (576, 288)
    assert not set(picture.info) & {"Software", "date", "transparency"}
    rgb = picture.convert("RGB")
    assert "#{:02X}{:02X}{:02X}".format(*rgb.getpixel((0, 0))) == figures.BACKGROUND
    assert len(shown[0]["text/html"]) < 20_000


def test_widest_figure_fits_the_page_and_100_kilobytes(shown):
    fig, axes = new_figure(width=7, height=4, columns=2)
    values = np.random.default_rng(0).normal(size=(2, 400))
    axes[0].scatter(*values, alpha=0.5)
    axes[1].imshow(values[0].reshape(20, 20))
    figure(fig, "1.1", "Points and pixels", ALT)
    assert 'width="672"' in shown[0]["text/html"]
    assert len(shown[0]["text/html"]) * 3 / 4 < 100_000


@pytest.mark.parametrize(
    ("number", "caption", "alt", "message"),
    [
        ("1", "It rises", ALT, "number"),
        ("01.2", "It rises", ALT, "number"),
        ("1.2", "", ALT, "caption"),
        ("1.2", "It rises", "", "alt"),
        ("1.2", "It rises", "A rising curve.", "alt"),
        ("1.2", ALT, ALT + " ", "repeats"),
    ],
)
def test_figure_rejects(number, caption, alt, message):
    with pytest.raises(ValueError, match=message):
        figure(curve(), number, caption, alt)
    plt.close("all")


def test_figure_takes_figures_and_pages_are_narrow():
    with pytest.raises(TypeError, match="Figure"):
        figure(plt.gca(), "1.2", "It rises", ALT)
    plt.close("all")
    with pytest.raises(ValueError, match=r"width .* 9"):
        new_figure(width=9)


@pytest.mark.parametrize("colour", PALETTE.values(), ids=PALETTE)
def test_palette_stands_out_from_the_background(colour):
    def luminance(text):
        channels = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert (luminance(figures.BACKGROUND) + 0.05) / (luminance(colour) + 0.05) >= 3


# Sliders

SCRUB = {"label": "height", "alt": ALT, "describe": lambda h: f"It is {h} high."}


def test_scrub_draws_each_frame_with_its_texts(shown):
    scrub(curve, [1.0, 2.5], "1.3", "It grows", **SCRUB)
    bundle = shown[0]
    assert bundle["text/plain"].splitlines() == [
        "Figure 1.3. It grows",
        f"[{ALT}]",
        "height 1: It is 1.0 high.",
        "height 2.5: It is 2.5 high.",
    ]
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("error", "values", "changes", "message"),
    [
        (ValueError, [], {}, "values"),
        (ValueError, range(1, 62), {}, "60"),
        (ValueError, [1], {"label": " "}, "label"),
        (ValueError, [1], {"alt": "short"}, "alt"),
        (ValueError, [1], {"describe": lambda h: ""}, "describe"),
        (TypeError, [1], {"describe": "text"}, "describe"),
        (TypeError, [1], {"draw": "text"}, "draw"),
        (TypeError, [1], {"draw": lambda h: None}, "Figure"),
    ],
)
def test_scrub_rejects(error, values, changes, message):
    options = {**SCRUB, **changes}
    draw = options.pop("draw", curve)
    with pytest.raises(error, match=message):
        scrub(draw, values, "1.3", "It grows", **options)


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


def test_an_interval_is_written_with_two_decimals():
    assert interval(0.8, 0.75, 0.85) == "0.80 (0.75–0.85)"
    assert interval(-0.3, -1.6, 0.9) == "-0.30 (-1.60 to 0.90)"


def test_a_band_lies_between_its_intervals():
    fig, ax = new_figure()
    band(ax, [1, 2], [(0.5, 0.4, 0.7), (0.6, 0.5, 0.8)], "--", label="hits", color=PALETTE["wine"])
    (curve,) = ax.lines
    assert curve.get_ydata().tolist() == [0.5, 0.6]
    assert (curve.get_linestyle(), curve.get_label()) == ("--", "hits")
    corners = {tuple(xy) for xy in ax.collections[0].get_paths()[0].vertices.round(6).tolist()}
    assert {(1, 0.4), (1, 0.7), (2, 0.5), (2, 0.8)} <= corners
    plt.close(fig)


@pytest.mark.parametrize("upright", [False, True])
def test_whiskers_lie_between_low_and_high(upright):
    fig, ax = new_figure()
    whiskers(ax, 3, (0.5, 0.4, 0.7), upright, color=PALETTE["wine"], label="hits")
    (point,) = ax.lines
    assert np.allclose(point.get_xydata(), [[3, 0.5]] if upright else [[0.5, 3]])
    (line,) = ax.collections[0].get_segments()
    assert np.allclose(line, [[3, 0.4], [3, 0.7]] if upright else [[0.4, 3], [0.7, 3]])
    assert ax.get_legend_handles_labels()[1] == ["hits"]
    plt.close(fig)
