"""What a page shows: executed claims, figures, tables, sliders and a query to drag."""

from course_lib.page.claims import ClaimError, claim
from course_lib.page.drag import drag_query
from course_lib.page.figures import PALETTE, band, figure, new_figure, whiskers
from course_lib.page.tables import interval, table
from course_lib.page.widgets import scrub

__all__ = [
    "PALETTE",
    "ClaimError",
    "band",
    "claim",
    "drag_query",
    "figure",
    "interval",
    "new_figure",
    "scrub",
    "table",
    "whiskers",
]
