"""Figures with a number, a caption and alt text, legible on light and dark pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from course_lib.page.numbering import check_number

# After Okabe and Ito; each colour has a contrast of at least 3:1 to the background, and the lightness differs
# enough to tell them apart under the three common colour blindnesses.
PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "wine": "#882255",
    "black": "#222222",
    "grey": "#767676",
}
BACKGROUND = "#FBFBF8"  # opaque: dark text stays legible when the page is dark
MAX_WIDTH = 7.5  # inches; 720 px on the page
_DPI = 144  # 1.5 dots per CSS pixel
_CSS_DPI = 96
_MIN_ALT = 20
# With the class dark-light: the theme neither dims nor frames the picture on a dark page.
_IMG_STYLE = "max-width: 100%; height: auto; padding: 0; background: none"

_STYLE = {
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": PALETTE["black"],
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.prop_cycle": cycler(color=list(PALETTE.values())),
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 10,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": PALETTE["black"],
    "xtick.color": PALETTE["black"],
    "ytick.color": PALETTE["black"],
}


def new_figure(
    width: float = 7.0, height: float = 3.2, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Figure, Any]:
    """Makes a figure in the style of the book.

    The style goes into `matplotlib.rcParams`, because half of it is read only while the figure is drawn on.

    Args:
        width: Inches, at most 7.5; 96 pixels each on the page.
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.
        **subplots: Passed to `matplotlib.pyplot.subplots` (`sharey`, `width_ratios`, …).

    Returns:
        The figure, and its axes: one, or an array of them.

    Raises:
        ValueError: The figure would be wider than the text.
    """
    if not 0 < width <= MAX_WIDTH:
        raise ValueError(f"width must be between 0 and {MAX_WIDTH} inches, got {width}")
    plt.rcParams.update(_STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **subplots)


def band(
    ax: Axes, x: Sequence[float], intervals: Iterable[Sequence[float]], style: str = "-", **line: Any
) -> None:
    """Draws a curve of means with the band of their intervals.

    Args:
        ax: Axes to draw on.
        x: Places of the means.
        intervals: Mean, low and high at each place, as `demonstrations.mean_interval` returns them.
        style: Format of the curve, as in "--".
        **line: Passed to `ax.plot` (`label`, `color`, …).
    """
    mean, low, high = zip(*intervals, strict=True)
    (curve,) = ax.plot(x, mean, style, **line)
    ax.fill_between(x, low, high, color=curve.get_color(), alpha=0.2, linewidth=0)


def whiskers(ax: Axes, place: float, found: Sequence[float], upright: bool = False, **style: Any) -> None:
    """Draws a mean as a point, with its interval as a line.

    Args:
        ax: Axes to draw on.
        place: Where on the other axis.
        found: Mean, low and high, as `demonstrations.mean_interval` returns them.
        upright: Whether values run upwards; else to the right.
        **style: Passed to `ax.errorbar` (`label`, `color`, …).
    """
    mean, low, high = found
    error = {"yerr" if upright else "xerr": [[mean - low], [high - mean]]}
    ax.errorbar(*((place, mean) if upright else (mean, place)), **error, fmt="o", markersize=4, **style)


def figure(fig: Figure, number: int, caption: str, alt: str) -> None:
    """Shows a Matplotlib figure with its number, caption and alt text, and closes it.

    The output is HTML with the picture inside: of the ways to show a picture it is the one whose alt text
    reaches the reader in Jupyter, in Colab and in the built book alike.

    Args:
        fig: The figure.
        number: Place among the figures of the chapter, from 1.
        caption: What to see, as plain text.
        alt: What a reader who cannot see it needs to know: axes, and how the curves run; not the caption.

    Raises:
        TypeError: `fig` is not a Matplotlib figure.
        ValueError: A malformed number, an empty caption, or an alt text that is short or repeats the caption.
    """
    check_texts(number, caption, alt)
    html = (
        f'<figure style="margin: 0">\n{image_tag(fig, alt)}\n'
        f'<figcaption style="color: inherit">{heading(number, caption)}</figcaption>\n</figure>'
    )
    display({"text/html": html, "text/plain": f"Figure {number}. {caption}\n[{alt}]"}, raw=True)


def check_texts(number: int, caption: str, alt: str) -> None:
    """Raises a ValueError for texts that `figure` and `scrub` do not accept."""
    check_number("figure", number)
    if not caption.strip():
        raise ValueError(f"caption of figure {number} must say what to see, got {caption!r}")
    if len(alt.strip()) < _MIN_ALT:
        raise ValueError(f"alt of figure {number} needs {_MIN_ALT} characters or more, got {alt!r}")
    if alt.strip() == caption.strip():
        raise ValueError(f"alt of figure {number} repeats the caption: say what the picture shows instead")


def heading(number: int, caption: str) -> str:
    """The caption with its number, as HTML."""
    return f"<strong>Figure {number}.</strong> {escape(caption)}"


def image_tag(fig: Figure, alt: str) -> str:
    """Draws a figure into an `<img>` that carries its own data, and closes it.

    Raises:
        TypeError: `fig` is not a Matplotlib figure.
    """
    if not isinstance(fig, Figure):
        raise TypeError(f"expected a matplotlib Figure, got {type(fig).__name__}")
    width, height = (round(inches * _CSS_DPI) for inches in fig.get_size_inches())
    data = base64.b64encode(_png(fig)).decode("ascii")
    plt.close(fig)
    return (
        f'<img alt="{escape(alt)}" width="{width}" height="{height}" class="dark-light" '
        f'style="{_IMG_STYLE}" src="data:image/png;base64,{data}">'
    )


def _png(fig: Figure) -> bytes:
    """Draws a small PNG, without date and software: equal figures are equal bytes."""
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", dpi=_DPI, facecolor=BACKGROUND, metadata={"Software": None})
    picture = Image.open(raw).convert("RGB")
    # This way of choosing 256 colours keeps those of the palette exact, at less than half the size.
    picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    picture.save(small, format="PNG", optimize=True)
    return small.getvalue()
