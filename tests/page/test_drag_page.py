"""The query to drag in a browser: what the page computes, shows and lets a reader do."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from dragged import ALT, QUERY, VALUES, show
from scipy.optimize import linprog

from course_lib.readouts import hull

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "course_lib" / "page"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
MIME = "application/vnd.jupyter.widget"

PLACE = """<!doctype html><html lang="en"><head><title>Page</title><style>{style}</style>
<script type="{mime}-state+json">{state}</script><script>{host}</script></head>
<body><main><h1>Page</h1><script type="{mime}-view+json">{{"model_id": "a"}}</script></main></body></html>"""
STYLE = {
    "light": "body { background: white; color: #222 }",
    "dark": "body { background: #121212; color: #ddd }",
}


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a page with one widget on it, hosted as in the built book."""
    contexts = []

    def go(values=VALUES, query=QUERY, *, mode="light", width=800, c=2.0, clock=False):
        state, _ = show(values, query, c=c)
        host = (ROOT / "book" / "assets" / "widgets.js").read_text(encoding="utf-8")
        saved = json.dumps({"state": {"a": {"state": state}}})
        path = tmp_path / "page.html"
        path.write_text(PLACE.format(style=STYLE[mode], mime=MIME, state=saved, host=host), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        if clock:
            page.clock.install(time=0)
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelector('.drag p')?.textContent")
        if clock:
            page.clock.pause_at(60_000)
        return page

    yield go
    for context in contexts:
        context.close()


def points(page):
    """The middles of the marks of softmax, projection and query, in pixels of the page."""
    marks = ["circle.drag-softmax", "rect.drag-projection", ".drag-query path"]
    boxes = [page.locator(f".drag svg {mark}").bounding_box() for mark in marks]
    return [np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]) for box in boxes]


def numbers(page, selector):
    return [float(text) for text in page.locator(f".drag {selector}").all_inner_texts()]


def expected(values, query, c):
    """Both sorts of weights, value by value, and both distances."""
    v, q = torch.tensor(values, dtype=torch.float64), torch.tensor(query, dtype=torch.float64)
    weights, found = torch.softmax(c * v @ q, 0), hull.project(q, v)
    pairs = torch.stack([weights, found.coordinates], -1).flatten()
    return [*pairs.tolist(), float((weights @ v - q).norm()), float((found.point - q).norm())]


def several(values, point):
    """Whether more than one set of weights averages the values to the point, by linear programming."""
    system = {"A_eq": np.vstack([np.transpose(values), np.ones(len(values))]), "b_eq": [*point, 1]}
    ends = [linprog(row, **system).fun + linprog(-row, **system).fun for row in np.eye(len(values))]
    return bool(min(ends) < -1e-3)


def cases():
    """Values, and queries at vertices, on lines between them, in the hull and around it."""
    draw = np.random.default_rng(0)
    line = np.array([[0.0], [1.0], [3.0], [0.3]]) * [0.7, -0.4] + [0.1, 0.2]
    sets = {
        "three": draw.normal(size=(3, 2)),
        "five": np.array(VALUES),
        "eight": draw.normal(size=(8, 2)),
        "collinear": line,
        "edge of three": np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 2.0]]),
        "sliver": np.array([[0.0, 0.0], [1.0, 1e-3], [2.0, 0.0], [1.0, 0.0]]),
        "duplicates": np.array([[0.0, 0.0], [1.0, 0.2], [1.0, 0.2], [0.0, 0.0], [0.4, 1.0]]),
        "all equal": np.full((3, 2), 0.3),
        "far from the origin": draw.normal(size=(4, 2)) + 50,
    }
    for name, values in sets.items():
        averages = draw.dirichlet(np.ones(len(values)), 6) @ values
        edges = [(a + b) / 2 for a, b in zip(values, np.roll(values, 1, 0), strict=True)]
        around = values.mean(0) + 2 * draw.normal(size=(6, 2))
        yield name, values.tolist(), [*values.tolist(), *np.array([*edges, *averages, *around]).tolist()]


@pytest.mark.parametrize(
    ("values", "queries"), [case[1:] for case in cases()], ids=[case[0] for case in cases()]
)
def test_page_computes_both_sorts_of_weights(visit, values, queries):
    v, q = torch.tensor(values, dtype=torch.float64), torch.tensor(queries, dtype=torch.float64)
    scores = torch.cat([c * q @ v.mT for c in (0.1, 1, 100)])
    found, softmaxed = visit().evaluate(
        """async ([source, values, queries, scores]) => {
          const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
          const { project, softmax } = await import(url);
          return [queries.map((q) => project(q, values)), scores.map(softmax)];
        }""",
        [(PAGE / "drag.js").read_text(encoding="utf-8"), values, queries, scores.tolist()],
    )
    known = hull.project(q, v)
    gaps = (known.point - q).norm(dim=-1).numpy()
    weights = np.array([one["weights"] for one in found])
    near = {"atol": 1e-6, "rtol": 0}
    np.testing.assert_allclose(softmaxed, scores.softmax(-1), **near)
    np.testing.assert_allclose([one["distance"] for one in found], gaps, **near)
    np.testing.assert_allclose(weights @ np.array(values), known.point, **near)
    np.testing.assert_allclose(weights.sum(-1), 1, **near)
    assert weights.min() >= 0
    used = (weights > 0).sum(-1)  # as few as can be: one at a value, two halfway between values
    assert used.max() <= 3
    assert used[: len(values)].max() == 1
    assert used[: 2 * len(values)].max() <= 2
    assert [one["inHull"] for one in found] == (gaps < 1e-7).tolist()
    assert [one["unique"] for one in found] == [not several(values, point) for point in known.point.tolist()]
    unique = np.array([one["unique"] for one in found])
    np.testing.assert_allclose(weights[unique], known.coordinates.numpy()[unique], **near)


def test_page_shows_what_it_computes(visit):
    page = visit(c=2.0)
    whole = expected(VALUES, QUERY, 2.0)
    assert numbers(page, ".drag-number") == [round(x, 2) for x in whole]
    assert numbers(page, "output") == [*QUERY, 2.0]
    bars = page.locator(".drag td div").evaluate_all(
        "(bars) => bars.map((bar) => parseFloat(bar.style.width))"
    )
    np.testing.assert_allclose(bars, 100 * np.array(whole[:-2]), atol=1e-3)
    softmaxed, projected, handle = points(page)
    ratio = np.linalg.norm(softmaxed - handle) / np.linalg.norm(projected - handle)
    assert ratio == pytest.approx(whole[-2] / whole[-1], rel=0.02)
    assert page.locator(".drag p").inner_text() == (
        "q is outside the hull, 0.88 from softmax’s output and 0.85 from its projection."
    )


@pytest.mark.parametrize(
    ("values", "query", "start", "end"),
    [
        (VALUES[:3], [0.1, 0.7], "q is inside the hull, ", " and 0.00 from its projection."),
        (VALUES, [0.1, 0.1], "q is inside the hull, ", "projection, whose weights are one solution of many."),
        ([[0, 0], [1, 1], [1, 1], [2, 2]], [1, 0], "q is outside the hull, ", " one solution of many."),
    ],
)
def test_page_says_whether_the_query_is_inside_and_the_weights_are_not_unique(
    visit, values, query, start, end
):
    said = visit(values, query).locator(".drag p").inner_text()
    assert said.startswith(start)
    assert said.endswith(end)


def test_result_is_announced_after_a_rest(visit):
    page = visit(clock=True)
    said = page.locator("p[aria-live=polite]")
    before = said.inner_text()
    page.locator("g.drag-query").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
        page.clock.run_for(400)
        assert said.inner_text() == before
    page.clock.run_for(200)
    assert f"{numbers(page, '.drag-number')[-1]:.2f} from its projection" in said.inner_text() != before


@pytest.mark.parametrize("width", [800, 340])
def test_query_follows_the_mouse_and_stays_in_the_picture(visit, width):
    values = VALUES[:3]  # with more, the weights are not unique
    page = visit(values, width=width)
    picture = page.locator(".drag svg").bounding_box()
    assert picture["width"] <= min(420, width)
    for x, y in [(0.3, 0.6), (0.55, 0.4), (0.8, 0.15)]:
        aim = np.array([picture["x"] + x * picture["width"], picture["y"] + y * picture["height"]])
        page.mouse.move(*points(page)[2])
        page.mouse.down()
        page.mouse.move(*aim, steps=3)
        page.mouse.up()
        np.testing.assert_allclose(points(page)[2], aim, atol=1)
        q = numbers(page, "output")[:2]
        np.testing.assert_allclose(numbers(page, ".drag-number"), expected(values, q, 2.0), atol=0.02)
    page.mouse.move(*(aim + 5))  # no button is pressed
    np.testing.assert_allclose(points(page)[2], aim, atol=1)
    page.mouse.move(*aim)
    page.mouse.down()
    page.mouse.move(2 * width, -100)
    ends = page.locator(".drag input").evaluate_all("(inputs) => inputs.map((input) => +input.max)")
    np.testing.assert_allclose(numbers(page, "output")[:2], ends[:2], atol=0.006)
    mark = page.locator("g.drag-query text").bounding_box()
    assert mark["y"] >= picture["y"]
    assert mark["x"] + mark["width"] <= picture["x"] + picture["width"]


def test_arrow_keys_move_the_query_and_reach_nobody_else(visit):
    page = visit()
    page.evaluate("() => { window.keys = 0; document.addEventListener('keydown', () => window.keys++) }")
    page.evaluate("() => { document.body.style.height = '5000px' }")
    low, high = page.get_by_label("query x").evaluate("(input) => [+input.min, +input.max]")
    handle = page.get_by_role("button", name="query q")
    handle.focus()
    for key, times in {"ArrowLeft": 12, "ArrowRight": 2, "ArrowDown": 9, "ArrowUp": 2, "a": 1}.items():
        for _ in range(times):
            page.keyboard.press(key)
    step = (high - low) / 100
    q = [QUERY[0] - 10 * step, QUERY[1] - 7 * step]
    assert numbers(page, "output")[:2] == [round(x, 2) for x in q]
    np.testing.assert_allclose(numbers(page, ".drag-number"), expected(VALUES, q, 2.0), atol=0.0051)
    assert page.evaluate("() => [window.keys, window.scrollY]") == [0, 0]
    page.keyboard.press("Tab")
    assert not handle.evaluate("(node) => node.contains(document.activeElement)")


def test_labelled_inputs_move_the_query_and_the_temperature(visit):
    page = visit()
    sliders = [
        page.get_by_role("slider", name=name, exact=True)
        for name in ("query x", "query y", "inverse temperature c")
    ]
    c, q = 2.0, list(QUERY)
    for i, key in product(range(3), ["ArrowLeft", "End", "Home", "PageUp"]):
        sliders[i].focus()
        page.keyboard.press(key)
        value = float(sliders[i].input_value())
        if i == 2:
            c = 10**value
        else:
            q[i] = value
        texts = [slider.get_attribute("aria-valuetext") for slider in sliders]
        assert texts == page.locator(".drag output").all_inner_texts()
        np.testing.assert_allclose([float(text) for text in texts], [*q, c], atol=0.0051)
        np.testing.assert_allclose(numbers(page, ".drag-number"), expected(VALUES, q, c), atol=0.0051)
    sliders[2].focus()
    page.keyboard.press("End")
    assert page.locator(".drag output").last.inner_text() == "100"
    page.keyboard.press("Home")
    assert page.locator(".drag output").last.inner_text() == "0.100"


def test_a_finger_on_the_query_drags_it_and_elsewhere_scrolls(visit):
    page = visit(width=340)
    action = "(node) => getComputedStyle(node).touchAction"
    assert page.locator("g.drag-query").evaluate(action) == "none"
    assert page.locator(".drag svg").evaluate(action) == "auto"
    box = page.locator("g.drag-query circle").bounding_box()
    assert min(box["width"], box["height"]) >= 24
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 340


def test_equal_values_share_their_label(visit):
    page = visit([[0, 0], [1, 1], [1, 1], [2, 2]], [1, 0])
    assert page.locator(".drag [role=img] text").all_text_contents() == ["1", "2,3", "4"]


def test_hull_is_shaded_and_nothing_else(visit):
    page = visit([VALUES[i] for i in (3, 0, 4, 2)])  # not in the order of the outline
    inside = "(hull, [x, y]) => hull.isPointInFill(new DOMPoint(x, y))"
    shade = page.locator(".drag-hull")
    corners = np.array(
        page.locator(".drag [role=img] > circle:not([class])").evaluate_all(
            "(dots) => dots.map((dot) => [+dot.getAttribute('cx'), +dot.getAttribute('cy')])"
        )
    )
    draw = np.random.default_rng(1)
    for x in draw.uniform(0, 420, (100, 2)):
        gap = hull.project(torch.from_numpy(x), torch.from_numpy(corners)).point.numpy() - x
        assert shade.evaluate(inside, x.tolist()) == (np.abs(gap).max() < 1e-9)


def test_paper_has_the_picture_and_no_controls(visit):
    page = visit()
    page.emulate_media(media="print")
    assert page.locator(".drag input:visible").count() == 0
    assert page.locator(".drag svg:visible").count() == page.locator(".drag table:visible").count() == 1


@pytest.mark.parametrize("mode", STYLE)
def test_page_has_no_serious_accessibility_problem(visit, mode):
    if not AXE.exists():
        pytest.skip("axe-core is not there: run npm ci")
    page = visit(mode=mode)
    assert page.get_by_role("img").get_attribute("aria-label") == ALT
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate("() => axe.run().then((result) => result.violations)")
    grave = [v for v in violations if v["impact"] in ("serious", "critical")]
    assert [(v["id"], node["html"][:200]) for v in grave for node in v["nodes"]] == []
