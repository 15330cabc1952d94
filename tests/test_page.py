"""What a page shows, how notebooks are executed, and which notebooks are rejected."""

import io
import math
import os
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4
from nbval.plugin import get_sanitize_patterns
from PIL import Image

from course_lib.page import PALETTE, ClaimError, claim, figure, figures, new_figure, notebooks, scrub, table
from course_lib.page import tables as tables_module
from course_lib.page import widgets as widgets_module
from course_lib.page.lint import lint
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


# Executing

CELLS = [
    "import sys\nfrom course_lib.page import claim, figure, new_figure, scrub",
    "print('one', flush=True)\nprint('two', flush=True)\nclaim('Two is even', 2, at_least=2)",
    "def draw(n):\n    fig, axes = new_figure(width=2, height=1)\n    axes.bar([0], [n])\n    return fig",
    f"figure(draw(2), '1.1', 'A bar', {ALT!r})",
    f"scrub(draw, [1, 2], '1.2', 'A bar grows', label='n', alt={ALT!r}, describe=lambda n: f'It is {{n}}.')",
]


def save(path, cells, **metadata):
    notebook = v4.new_notebook(cells=cells, metadata=metadata)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A book of one notebook, executed twice from the command line and once compared by nbval."""
    root = tmp_path_factory.mktemp("book")
    (root / "book").mkdir()
    (root / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: book/01-bar\n")
    (root / "intro.md").write_text("# Intro\n")
    (root / "README.md").write_text("before\n<!-- chapters -->\nold\n<!-- /chapters -->\nafter\n")
    text = v4.new_markdown_cell("# Bars\n\n*Runs in 9 s and 9 GB on two CPU cores.*")
    cells = [text, *(v4.new_code_cell(source) for source in CELLS)]
    path = save(root / "book" / "01-bar.ipynb", cells, course={"question": "How high?"})
    notebook = nbformat.read(path, 4)
    raw = re.sub(r' *"id": "[^"]*",\n', "", nbformat.writes(notebook))
    path.write_text(raw, encoding="utf-8")
    command = [sys.executable, "-m", "course_lib.page.notebooks"]
    runs = []
    for arguments in (["01"], ["--measure"], []):
        environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        runs.append((path.read_bytes(), result.stdout))
    return root, runs


def test_executing_twice_gives_the_same_bytes(executed):
    _, runs = executed
    assert runs[1][0] == runs[2][0]
    measured = re.compile(rb"\*Runs in .*? on two CPU cores\.\*")
    assert measured.sub(b"", runs[0][0]) == measured.sub(b"", runs[1][0])
    assert re.fullmatch(r"book/01-bar\.ipynb: \d+\.\d s, \d\.\d\d GB\n", runs[0][1])


def test_executed_notebook_is_whole(executed):
    root, runs = executed
    notebook = nbformat.reads(runs[0][0].decode(), 4)
    assert [cell.id for cell in notebook.cells] == [f"01-bar-{n:02d}" for n in range(1, 7)]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4, 5]
    [stream] = notebook.cells[2].outputs
    assert stream.text == "one\ntwo\n✓ Two is even\n  measured 2 · accepted ≥ 2\n"
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert sorted(state) == [f"{i:032x}" for i in range(len(state))]
    view = notebook.cells[5].outputs[0].data["application/vnd.jupyter.widget-view+json"]
    slider = state[view["model_id"]]["state"]
    assert [re.search('alt="([^"]*)"', p)[1] for p in slider["pictures"]] == [f"{ALT} n: 1.", f"{ALT} n: 2."]
    assert (slider["label"], slider["names"], slider["notes"]) == ("n", ["1", "2"], ["It is 1.", "It is 2."])
    assert slider["caption"] == "<strong>Figure 1.2.</strong> A bar grows"
    assert "export default { render }" in slider["_esm"]
    assert ".scrub-frame" in slider["_css"]
    assert not list((root / "book").glob("*.part"))


def test_measured_costs_are_written_down(executed):
    root, _ = executed
    notebook = notebooks.read(root / "book" / "01-bar.ipynb")
    assert re.search(r"\*Runs in \d+ s and \d\.\d GB on two CPU cores\.\*$", notebook.cells[0].source)
    assert re.search(
        r'"01-bar": \{\s+"cores": 2,\s+"memory_gb": \d\.\d', (root / "book/runtimes.json").read_text()
    )
    readme = (root / "README.md").read_text()
    assert re.search(r"\| \[Bars\]\(book/01-bar\.ipynb\) \| How high\? \| 0\.\d \| \d\.\d GB \|", readme)
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme


@pytest.mark.parametrize(
    ("old", "new", "passes"), [("measured 2 ", "measured 3 ", True), ("≥ 2", "≥ 1", False)]
)
def test_comparison_sees_changed_outputs(executed, tmp_path, old, new, passes):
    _, runs = executed
    path = tmp_path / "01-bar.ipynb"
    text = runs[2][0].decode()
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        f"--nbval-sanitize-with={CONFIG}",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    result = subprocess.run(
        [*command, str(path)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert (result.returncode == 0) is passes, result.stdout


def test_failing_cell_leaves_the_notebook_alone(tmp_path):
    path = save(tmp_path / "bad.ipynb", [v4.new_code_cell("print(1)"), v4.new_code_cell("1 / 0")])
    before = path.read_bytes()
    with pytest.raises(notebooks.CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ipynb"]


def test_ids_are_kept_and_new_ones_avoid_them(tmp_path):
    cells = [v4.new_markdown_cell("a", id="n-02"), v4.new_markdown_cell("b", id="x")]
    path = save(tmp_path / "n.ipynb", cells)
    path.write_text(path.read_text().replace('"id": "x",', ""))
    assert [cell.id for cell in notebooks.read(path).cells] == ["n-02", "n-02a"]


def test_contents_list_existing_files_only(tmp_path):
    (tmp_path / "intro.md").write_text("# Intro\n")
    (tmp_path / "one.ipynb").write_text("{}")
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "root: intro\nparts:\n- caption: A\n  chapters:\n  - file: one\n    sections:\n    - file: two\n"
    )
    with pytest.raises(FileNotFoundError, match=r"'two'.*two\.ipynb"):
        notebooks.listed(tmp_path)
    (tmp_path / "two.md").write_text("# Two\n")
    assert [path.name for path in notebooks.listed(tmp_path)] == ["intro.md", "one.ipynb", "two.md"]


def test_readme_without_marks_is_named(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="<!-- chapters -->"):
        notebooks.record(tmp_path, {})


# Rules


def output(text):
    return v4.new_output("stream", name="stdout", text=text)


def exercise(n):
    """The cells of an exercise: its text, a stub that is not right yet, and the solution."""
    hints = "\n\n".join(f"<details><summary>Hint {i}</summary>\n\nThink.\n\n</details>" for i in (1, 2))
    text = f"### Exercise 3.{n} · Rise (●○○, 5 minutes)\n\nRise.\n\n{hints}"
    stub = v4.new_code_cell("exercise.rise.check(rise)", outputs=[output(f"✗ Exercise 3.{n}, not yet: no\n")])
    solution = v4.new_code_cell("exercise.rise.check(solution)", metadata={"tags": ["hide-cell", "solution"]})
    solution.outputs = [output(f"✓ Exercise 3.{n}: right on 2 fresh inputs\n")]
    return [v4.new_markdown_cell(text), stub, solution]


def good():
    """A chapter that keeps every rule."""
    code = [
        v4.new_code_cell("fig = draw()"),
        v4.new_code_cell("figure(fig)\nclaim('It rises', 1, at_least=1)"),
    ]
    picture = {"text/html": f'<img alt="{ALT}" src="data:/tmp/">', "text/plain": "Figure 3.1. It rises\n[…]"}
    code[1].outputs = [v4.new_output("display_data", data=picture), output("✓ It rises\n")]
    text = [
        "# 03 · Rising\n\n*Runs in 4 s and 0.3 GB on two CPU cores.*",
        "## In this chapter you will\n\n- see;\n- hear;\n- say.",
        "## It rises\n\n```text\n# no title\n```",
        "## What would change our mind?\n\nA control.",
        "## Exercises\n\nThree.",
        "## Summary\n\n- It rises.",
    ]
    text = [v4.new_markdown_cell(source) for source in text]
    exercises = [cell for n in (1, 2, 3) for cell in exercise(n)]
    cells = [*text[:3], *code, *text[3:5], *exercises, *text[5:]]
    for n, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = n
    return v4.new_notebook(cells=cells, metadata={"course": {"question": "Does it?"}})


def problems(tmp_path, notebook, name="03-rising.ipynb", end="\n"):
    path = tmp_path / name
    path.write_text(nbformat.writes(notebook) + end, encoding="utf-8")
    return lint(path)


def test_good_chapter_has_no_problems(tmp_path):
    assert problems(tmp_path, good()) == []


def set_source(cell, source):
    return lambda nb: nb.cells[cell].update(source=source)


def add_output(out):
    return lambda nb: nb.cells[4].outputs.append(out)


def same_picture(nb):
    nb.cells[4].outputs.append(nb.cells[4].outputs[0].copy())


PNG = v4.new_output("display_data", data={"image/png": "AAAA"})
BAD = {
    "execution counts": lambda nb: nb.cells[3].update(execution_count=None),
    "counts must be 1 to 8": lambda nb: nb.cells[4].update(execution_count=3),
    "has no output": lambda nb: nb.cells[4].update(outputs=[]),
    "ends in ZeroDivisionError": add_output(
        v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])
    ),
    "prints to stderr": add_output(v4.new_output("stream", name="stderr", text="hm")),
    "contains a warning": add_output(output("FutureWarning: soon")),
    "contains a progress bar": add_output(output("100%|████| 5/5")),
    "a progress bar": add_output(output("[00:01, 3.20it/s]")),
    "the absolute path /home/": add_output(output("saved to /home/me/x")),
    "the absolute path /tmp/": set_source(3, "open('/tmp/x')"),
    r"the absolute path C:\\": set_source(2, r"## It rises: C:\Users\me"),
    "picture with an alt text": add_output(PNG),
    "alt text of less": add_output(v4.new_output("display_data", data={"text/html": '<img alt="curve">'})),
    "an alt text of less": add_output(v4.new_output("display_data", data={"text/html": "<img>"})),
    "ends with a semicolon": set_source(3, "fig = draw();"),
    "prints its time": set_source(3, "%%time\ndraw()"),
    "one title": set_source(2, "# Another\n\n## It rises"),
    "line '\\*Runs in": set_source(0, "# 03 · Rising"),
    "no section 'In this chapter": set_source(1, "## Aims\n\n- see;\n- hear;\n- say."),
    "lists 3 to 5 aims, got 2": set_source(1, "## In this chapter you will\n\n- see;\n- hear."),
    "lists 3 to 5 aims, got 6": set_source(1, "## In this chapter you will\n" + "- see;\n" * 6),
    "no section 'What would": set_source(5, "## Doubts"),
    "no section 'Exercises'": set_source(6, "### Exercises"),
    "no section 'Summary'": set_source(-1, "## The end"),
    "summary has at most 6": set_source(-1, "## Summary\n" + "- It rises.\n" * 7),
    "'It rises' shows results and claims nothing": set_source(4, "figure(fig)\nreclaim(fig)"),
    "21 lines": set_source(3, "a = 1\n" * 21),
    "median": lambda nb: [cell.update(source=f"{cell.source}\n" + "b = 1\n" * 9) for cell in nb.cells[3:]],
    "used 2 times": same_picture,
    "figure 4.1 does not start": lambda nb: (
        nb.cells[4].outputs[0].data.update({"text/plain": "Figure 4.1. It"})
    ),
    "course.question": lambda nb: nb.metadata.clear(),
    "3 to 5 exercises, got 2": lambda nb: nb.cells.__delitem__(slice(13, 16)),
    r"start with '### Exercise 3\.1 ·": set_source(7, "### Exercise 3.1 · Rise\n<details><details>"),
    r"start with '### Exercise 3\.2 ·": set_source(10, exercise(1)[0].source),
    r"exercise 3\.3 has fewer than two hints": set_source(
        13, exercise(3)[0].source.partition("</details>")[0]
    ),
    r"exercise 3\.1 has no stub": lambda nb: nb.cells[8].update(outputs=[output("✓ Exercise 3.1: right\n")]),
    r"exercise 3\.2 has no folded solution": lambda nb: nb.cells[12].metadata.update(tags=["solution"]),
    "is folded and not tagged": lambda nb: nb.cells[3].metadata.update(tags=["hide-cell"]),
}


@pytest.mark.parametrize("message", BAD)
def test_each_rule_catches_its_problem(tmp_path, message):
    notebook = good()
    BAD[message](notebook)
    assert re.search(message, "\n".join(problems(tmp_path, notebook)))


def test_file_ends_with_a_newline(tmp_path):
    assert problems(tmp_path, good(), end="") == ["the file does not end with a newline"]


def test_other_notebooks_have_only_the_common_rules(tmp_path):
    notebook = v4.new_notebook(cells=[v4.new_code_cell("1 + 1", execution_count=1)])
    assert problems(tmp_path, notebook, name="appendix.ipynb") == []
    assert problems(tmp_path, notebook, name="03-rising.ipynb")
