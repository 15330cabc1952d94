"""A query to drag, as tests show it."""

from unittest.mock import patch

from course_lib.page import drag

ALT = "Five values around the origin & a query outside of their hull."
VALUES = [[1.0, 0.2], [0.3, 1.1], [-0.9, 0.7], [-0.6, -0.8], [0.5, -0.6]]
QUERY = [1.3, 1.2]


def show(values=VALUES, query=QUERY, **options):
    """Shows one widget; returns its state and what was displayed."""
    made, outputs = [], []
    kind = drag.QueryDragger
    with (
        patch.object(drag, "QueryDragger", lambda **state: made.append(kind(**state)) or made[-1]),
        patch.object(drag, "display", lambda data, **_: outputs.append(data)),
    ):
        drag.drag_query(values, query, 1, "It follows < q", **{"alt": ALT, **options})
    return made[0].get_state(), outputs[0]
