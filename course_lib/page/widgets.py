"""Sliders whose frames are drawn ahead, so that they move on a page without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import traitlets
from anywidget import AnyWidget
from IPython.display import display
from matplotlib.figure import Figure

from course_lib.page.figures import check_texts, heading, image_tag

_MAX_FRAMES = 60


class Scrubber(AnyWidget):
    """One picture at a time, chosen by a slider; `scrub.js` draws it, in a notebook and on a static page."""

    _esm = Path(__file__).with_name("scrub.js")
    _css = Path(__file__).with_name("scrub.css")
    label = traitlets.Unicode().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)  # the value of each frame, as text
    notes = traitlets.List(traitlets.Unicode()).tag(sync=True)  # what each frame shows, as text
    pictures = traitlets.List(traitlets.Unicode()).tag(sync=True)  # HTML
    caption = traitlets.Unicode().tag(sync=True)  # HTML
    index = traitlets.Int(0).tag(sync=True)


def scrub(
    draw: Callable[[Any], Figure],
    values: Iterable[Any],
    number: int,
    caption: str,
    *,
    label: str,
    alt: str,
    describe: Callable[[Any], str],
) -> None:
    """Shows a slider over `draw(value)`: one frame per value, drawn now, with a button that plays them.

    Args:
        draw: Makes the figure of one value, always the same for the same value and in the same size.
        values: What the slider runs over, at most 60 of them.
        number: Place among the figures of the chapter, from 1; a slider counts as one.
        caption: What to see, as plain text.
        label: What the slider changes, in a word or two.
        alt: What all frames show; each frame's alt text adds the label and the value.
        describe: Says in a sentence what the frame of one value shows; visible under the frame.

    Raises:
        TypeError: `draw` or `describe` is not callable, or `draw` does not return a Matplotlib figure.
        ValueError: No values or too many, an empty label or description, or texts that `figure` rejects.
    """
    check_texts(number, caption, alt)
    for name, function in (("draw", draw), ("describe", describe)):
        if not callable(function):
            raise TypeError(f"{name} of figure {number} must be callable, got {type(function).__name__}")
    values = list(values)
    if not 1 <= len(values) <= _MAX_FRAMES:
        raise ValueError(f"values of figure {number} must be 1 to {_MAX_FRAMES} values, got {len(values)}")
    if not label.strip():
        raise ValueError(f"label of figure {number} must say what the slider changes, got {label!r}")
    names = [f"{value:g}" if isinstance(value, Real) else str(value) for value in values]
    notes = [describe(value) for value in values]
    for name, note in zip(names, notes, strict=True):
        if not isinstance(note, str) or not note.strip():
            raise ValueError(f"describe of figure {number} must return text, got {note!r} at {label} {name}")

    pictures = [
        image_tag(draw(value), f"{alt} {label}: {name}.") for value, name in zip(values, names, strict=True)
    ]
    widget = Scrubber(
        label=label, names=names, notes=notes, pictures=pictures, caption=heading(number, caption)
    )
    # The text of the widget would hold the bytes of its pictures: say what it shows instead.
    lines = [f"{label} {name}: {note}" for name, note in zip(names, notes, strict=True)]
    text = "\n".join([f"Figure {number}. {caption}", f"[{alt}]", *lines])
    data, metadata = widget._repr_mimebundle_()  # the metadata is what Colab needs
    display({**data, "text/plain": text}, metadata=metadata, raw=True)
