"""A query to drag among values: attention's output and the nearest point of their hull follow it."""

from __future__ import annotations

from html import escape
from numbers import Real
from pathlib import Path

import numpy as np
import traitlets
from anywidget import AnyWidget
from IPython.display import display
from numpy.typing import ArrayLike

from course_lib.page.figures import check_texts, heading

_FEWEST, _MOST = 3, 8  # values
_C = 0.1, 100.0  # the ends of the slider in drag.js


class QueryDragger(AnyWidget):
    """Values and a query in the plane; `drag.js` draws and computes, in a notebook and on a static page."""

    _esm = Path(__file__).with_name("drag.js")
    _css = Path(__file__).with_name("drag.css")
    values = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    query = traitlets.List(traitlets.Float()).tag(sync=True)
    c = traitlets.Float().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)  # HTML
    caption = traitlets.Unicode().tag(sync=True)  # HTML


def drag_query(
    values: ArrayLike, query: ArrayLike, number: int, caption: str, *, alt: str, c: float = 1.0
) -> None:
    """Shows values in the plane and a query to drag: softmax attention next to the projection onto the hull.

    At every move the page itself computes α = softmax(c V q), the output Σ αᵢvᵢ and the point of conv(V)
    that is nearest to q. Coordinates, weights and distances are shown with two decimals.

    Args:
        values: (n, 2), the rows of V: 3 to 8 points, an array, a tensor or a list.
        query: (2,), where the query q starts.
        number: Place among the figures of the chapter, from 1; it counts as one.
        caption: What to see, as plain text.
        alt: What the picture shows at the start, for a reader who cannot see it.
        c: The inverse temperature at the start, 0.1 to 100.

    Raises:
        TypeError: `values`, `query` or `c` is not made of numbers.
        ValueError: A shape or a number that is not one of those above, or texts that `figure` rejects.
    """
    check_texts(number, caption, alt)
    values = _numbers("values", values, number)
    if values.shape not in [(n, 2) for n in range(_FEWEST, _MOST + 1)]:
        expected = f"of shape (n, 2) with n from {_FEWEST} to {_MOST}"
        raise ValueError(f"values of figure {number} must be {expected}, got {values.shape}")
    query = _numbers("query", query, number)
    if query.shape != (2,):
        raise ValueError(f"query of figure {number} must be of shape (2,), got {query.shape}")
    if not isinstance(c, Real):
        raise TypeError(f"c of figure {number} must be a number, got {type(c).__name__}")
    if not _C[0] <= c <= _C[1]:
        raise ValueError(f"c of figure {number} must be {_C[0]:g} to {_C[1]:g}, got {c}")

    texts = {"alt": escape(alt), "caption": heading(number, caption)}
    widget = QueryDragger(values=values.tolist(), query=query.tolist(), c=float(c), **texts)
    points = [f"({x:g}, {y:g})" for x, y in (*values, query)]
    start = f"values {', '.join(points[:-1])}; query {points[-1]}; inverse temperature {c:g}"
    text = f"Figure {number}. {caption}\n[{alt}]\n{start}"
    data, metadata = widget._repr_mimebundle_()  # the metadata is what Colab needs
    display({**data, "text/plain": text}, metadata=metadata, raw=True)


def _numbers(name: str, given: ArrayLike, number: int) -> np.ndarray:
    try:
        array = np.asarray(given, dtype=float)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} of figure {number} must be an array of numbers: {error}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} of figure {number} must be finite numbers, got {array.tolist()}")
    return array
