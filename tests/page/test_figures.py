"""Figures and sliders: their texts, their bytes, and what is refused."""

import io
import re
from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from course_lib.page import PALETTE, band, figure, figures, new_figure, scrub, whiskers
from course_lib.page import widgets as widgets_module

ALT = "One curve that rises from 0 to 1 over three steps."


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    outputs = []
    for module in (figures, widgets_module):
        monkeypatch.setattr(module, "display", lambda data, **options: outputs.append(data))
    return outputs


def curve(height=2.0):
    fig, axes = new_figure(width=4, height=height)
    axes.plot([0, 1, 2], [0, 0.3, 1])
    return fig


# Figures


def picture_of(html):
    return Image.open(io.BytesIO(b64decode(re.search(r"base64,([^\"]+)", html)[1])))


def test_figure_has_number_caption_alt_and_size(shown):
    figure(curve(), 2, "It rises < 1", ALT)
    html = shown[0]["text/html"]
    assert f'alt="{ALT}" width="384" height="192"' in html
    assert "<strong>Figure 2.</strong> It rises &lt; 1</figcaption>" in html
    assert shown[0]["text/plain"] == f"Figure 2. It rises < 1\n[{ALT}]"
    assert plt.get_fignums() == []


def test_figure_is_small_opaque_and_the_same_twice(shown):
    for _ in range(2):
        figure(curve(), 2, "It rises", ALT)
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
    figure(fig, 1, "Points and pixels", ALT)
    assert 'width="672"' in shown[0]["text/html"]
    assert len(shown[0]["text/html"]) * 3 / 4 < 100_000


@pytest.mark.parametrize(
    ("number", "caption", "alt", "message"),
    [
        (0, "It rises", ALT, "number must be the place of the figure in its chapter, 1 or more, got 0"),
        ("2", "It rises", ALT, "number .* got '2'"),
        (2.0, "It rises", ALT, "number"),
        (2, "", ALT, "caption"),
        (2, "It rises", "", "alt"),
        (2, "It rises", "A rising curve.", "alt"),
        (2, ALT, ALT + " ", "repeats"),
    ],
)
def test_figure_rejects(number, caption, alt, message):
    with pytest.raises(ValueError, match=message):
        figure(curve(), number, caption, alt)
    plt.close("all")


def test_figure_takes_figures_and_pages_are_narrow():
    with pytest.raises(TypeError, match="Figure"):
        figure(plt.gca(), 2, "It rises", ALT)
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


# Sliders

SCRUB = {"label": "height", "alt": ALT, "describe": lambda h: f"It is {h} high."}


def test_scrub_draws_each_frame_with_its_texts(shown):
    scrub(curve, [1.0, 2.5], 3, "It grows", **SCRUB)
    bundle = shown[0]
    assert bundle["text/plain"].splitlines() == [
        "Figure 3. It grows",
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
        scrub(draw, values, 3, "It grows", **options)
