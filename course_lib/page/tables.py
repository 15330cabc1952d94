"""Tables of measured numbers, as HTML and as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real
from typing import Any

from IPython.display import display


def scalar(value: Any) -> Any:
    """Unwraps NumPy scalars and 0-d arrays and tensors; returns anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def number(value: Any, digits: int) -> str:
    """Prints a float with `digits` decimals, in powers of ten if that would be zero or long; else as text."""
    value = scalar(value)
    if not isinstance(value, Real) or isinstance(value, Integral):  # a bool is Integral
        return str(value)
    text = f"{value:.{digits}f}"
    return f"{value:.1e}" if value and (float(text) == 0 or abs(value) >= 1e6) else text


def interval(mean: float, low: float, high: float) -> str:
    """A mean with its confidence interval, for a cell of a table: "0.87 (0.80–0.92)"."""
    to = " to " if low < 0 else "–"
    return f"{mean:.2f} ({low:.2f}{to}{high:.2f})"


@dataclass(frozen=True, repr=False)
class Table:
    """Cells as text, the first column naming the row; `numeric` says which columns align right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]

    def __repr__(self) -> str:
        lines = (self.columns, *self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [
            "  ".join(
                cell.rjust(w) if right else cell.ljust(w)
                for cell, w, right in zip(line, widths, self.numeric, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption, text[0], "─" * max(map(len, text)), *text[1:]])

    def _repr_html_(self) -> str:
        align = [f' style="text-align: {"right" if right else "left"}"' for right in self.numeric]
        head = "".join(
            f'<th scope="col"{a}>{escape(c)}</th>' for a, c in zip(align, self.columns, strict=True)
        )
        body = "\n".join(
            f'<tr><th scope="row"{align[0]}>{escape(row[0])}</th>'
            + "".join(f"<td{a}>{escape(c)}</td>" for a, c in zip(align[1:], row[1:], strict=True))
            + "</tr>"
            for row in self.rows
        )
        return (
            '<table class="dataframe" style="min-width: min(24em, 100%)">\n'
            f"<caption>{escape(self.caption)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        )


def table(rows: Iterable[Sequence[Any]], columns: Sequence[str], caption: str, *, digits: int = 2) -> None:
    """Shows a table; the comparison of notebook outputs masks its decimals and compares everything else.

    Args:
        rows: One sequence of cells per row: text, numbers, or 0-d tensors. The first cell names the row.
        columns: Headings, one per cell.
        caption: What the table shows, with units.
        digits: Decimals to print of floats.

    Raises:
        ValueError: No caption, no rows, or a row that has not one cell per column.
    """
    cells = [[scalar(cell) for cell in row] for row in rows]
    if not caption.strip():
        raise ValueError("caption must say what the table shows, got an empty text")
    if not cells:
        raise ValueError(f"rows must not be empty in the table {caption!r}")
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(
                f"every row needs {len(columns)} cells, one per column {list(columns)}, got {row}"
            )
    numeric = (False, *(all(isinstance(row[i], Real) for row in cells) for i in range(1, len(columns))))
    text = tuple(tuple(number(cell, digits) for cell in row) for row in cells)
    display(Table(caption, tuple(columns), text, numeric))
